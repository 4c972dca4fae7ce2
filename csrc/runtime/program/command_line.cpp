#include "command_line.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace squeezebert_run {

const char* const kHelp = R"(squeezebert-run COMMAND MODEL [TEXT...] [options]

Answers each TEXT, or each line of standard input, by the model in the folder MODEL, with one line.

  classify    the label and its score; the value of a regression; every label from 0.5 on where there may be several
  fill-mask   for each [MASK] the likeliest words with their scores
  embed       the text's vector
  tokenize    the text's ids

  --json            JSON in place of text
  --top K           classify, fill-mask: as many labels or words, the best first (1, and 5)
  --pairs           classify, tokenize: two texts a line, with a tab between them
  --normalize       embed: scale each vector to length 1
  --threads N       by default as many as there are cores, at most 4
  --precision P     float32, bfloat16 or int8; by default the folder's own
  --help, --version

A line that can't be answered (no UTF-8, a NUL, more than 16 MiB, no [MASK]) is said on standard error, and its answer is
an empty line, or {"error": ...} in JSON; so is a blank line's, without an error. The rest is answered.

Exit status: 0; 1 if a line couldn't be answered; 2 for a wrong command line; 3 for a model that can't be opened, has no
such head or not so many words; 4 if the answers can't be written.
)";

namespace {

constexpr const char* kCommands[] = {"classify", "fill-mask", "embed", "tokenize"};

struct Flag {
  const char* name;
  bool CommandLine::* value;
  std::vector<const char*> commands;  // that take it
};
const Flag kFlags[] = {
    {"--json", &CommandLine::json, {"classify", "fill-mask", "embed", "tokenize"}},
    {"--pairs", &CommandLine::pairs, {"classify", "tokenize"}},
    {"--normalize", &CommandLine::normalize, {"embed"}},
};

int positive(const std::string& name, const std::string& text) {
  int value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || value < 1) {
    throw UsageError(name + " is '" + text + "', expected a whole number from 1 on");
  }
  return value;
}

bool takes(const std::vector<const char*>& commands, const std::string& command) {
  return std::find(commands.begin(), commands.end(), command) != commands.end();
}

}  // namespace

CommandLine parse(int count, const char* const* words) {
  CommandLine line;
  std::vector<std::string> names;  // that aren't options
  bool options = true;
  for (int i = 1; i < count; ++i) {
    std::string word = words[i];
    if (!options || word.size() < 2 || word[0] != '-') {
      names.push_back(std::move(word));
      continue;
    }
    if (word == "--") {
      options = false;
      continue;
    }
    if (word == "--help" || word == "-h" || word == "--version") {
      line.command = word == "-h" ? "--help" : word;
      return line;
    }
    const auto flag =
        std::find_if(std::begin(kFlags), std::end(kFlags), [&](const Flag& each) { return word == each.name; });
    if (flag != std::end(kFlags)) {
      line.*flag->value = true;
      continue;
    }
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const auto is_name = [&](const Flag& each) { return name == each.name; };
    if (std::any_of(std::begin(kFlags), std::end(kFlags), is_name)) throw UsageError(name + " takes no value");
    if (name != "--threads" && name != "--precision" && name != "--top") {
      throw UsageError("there is no option " + name + "; --help says which there are");
    }
    if (equals == std::string::npos && i + 1 == count) throw UsageError(name + " needs a value");
    const std::string value = equals == std::string::npos ? words[++i] : word.substr(equals + 1);
    if (value.empty()) throw UsageError(name + " needs a value");
    if (name == "--threads") line.threads = positive(name, value);
    if (name == "--precision") line.precision = value;
    if (name == "--top") line.top = static_cast<size_t>(positive(name, value));
  }
  const auto known = [&](const char* each) { return !names.empty() && names[0] == each; };
  if (std::none_of(std::begin(kCommands), std::end(kCommands), known)) {
    throw UsageError((names.empty() ? "no command" : "there is no command " + names[0]) +
                     std::string(", expected classify, fill-mask, embed or tokenize; --help says more"));
  }
  if (names.size() < 2) throw UsageError(names[0] + " needs the folder of a model");
  line.command = names[0];
  line.model = names[1];
  line.texts.assign(names.begin() + 2, names.end());
  for (const Flag& flag : kFlags) {
    if (line.*flag.value && !takes(flag.commands, line.command)) {
      throw UsageError(std::string(flag.name) + " means nothing for " + line.command);
    }
  }
  if (line.top > 0 && !takes({"classify", "fill-mask"}, line.command)) {
    throw UsageError("--top means nothing for " + line.command);
  }
  return line;
}

}  // namespace squeezebert_run
