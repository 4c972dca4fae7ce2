// squeezebert-run: texts in, one answer a line out. It is a client of squeezebert.h and of nothing else.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "answers.h"
#include "command_line.h"
#include "line_reader.h"

namespace {

using namespace squeezebert_run;

enum ExitStatus { kFine = 0, kUnansweredLine = 1, kUsage = 2, kNoModel = 3, kNotWritten = 4 };

struct Close {
  void operator()(squeezebert_model* model) const { squeezebert_close(model); }
};
using OpenModel = std::unique_ptr<squeezebert_model, Close>;

OpenModel open(const CommandLine& line) {
  squeezebert_model* model = nullptr;
  const char* precision = line.precision.empty() ? nullptr : line.precision.c_str();
  if (const auto status = squeezebert_open(line.model.c_str(), precision, &model)) throw Failure(status);
  OpenModel opened(model);
  if (line.threads) {
    if (const auto status = squeezebert_set_threads(model, *line.threads)) throw Failure(status);
  }
  return opened;
}

bool is_blank(const std::string& text) { return text.find_first_not_of(" \t\v\f\r\n") == std::string::npos; }

// A text is a line of the output, come what may.
class Answering {
 public:
  Answering(const CommandLine& line, const squeezebert_model* model) : line_(line), model_(model) {}

  // Throws Failure where no other text would be answered either.
  void answer_text(const std::string& text, bool too_long) {
    ++number_;
    std::string answered;
    try {
      if (too_long) throw Failure(SQUEEZEBERT_BAD_TEXT, "the line has more than 16 MiB");
      const bool has_answer = !is_blank(text) || line_.command == "tokenize" || line_.command == "embed";
      answered = has_answer ? answer(line_, model_, text) : answer_to_blank(line_);
    } catch (const Failure& failure) {
      if (failure.status == SQUEEZEBERT_UNSUPPORTED || failure.status == SQUEEZEBERT_INVALID_ARGUMENT) throw;
      answered = answer_to_failure(line_, failure);
      status_ = kUnansweredLine;
      std::fprintf(stderr, "squeezebert-run: line %zu: %s\n", number_, failure.what());
    }
    answered += '\n';
    // At once: whoever writes a line and waits for its answer gets it.
    written_ = std::fwrite(answered.data(), 1, answered.size(), stdout) == answered.size() && std::fflush(stdout) == 0;
  }
  bool written() const { return written_; }
  int status() const { return status_; }

 private:
  const CommandLine& line_;
  const squeezebert_model* model_;
  size_t number_ = 0;
  bool written_ = true;
  int status_ = kFine;
};

int not_written(const char* what) {
  std::fprintf(stderr, "squeezebert-run: %s can't be written: %s\n", what, std::strerror(errno));
  return kNotWritten;
}

int run(const CommandLine& line) {
  const OpenModel model = open(line);
  Answering answering(line, model.get());
  for (const std::string& text : line.texts) {
    if (!answering.written()) break;
    answering.answer_text(text, false);
  }
  if (line.texts.empty()) {
    LineReader lines(stdin, SQUEEZEBERT_MOST_TEXT_BYTES);
    for (std::string text; answering.written() && lines.next(text);) answering.answer_text(text, lines.too_long());
    if (lines.failed()) throw Failure(SQUEEZEBERT_NOT_FOUND, "standard input can't be read");
  }
  return answering.written() ? answering.status() : not_written("the answers");
}

int say(const std::string& text) {
  return std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0 ? not_written("standard output") : kFine;
}

}  // namespace

int main(int count, char** words) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that has gone is an error of writing
  try {
    const CommandLine line = parse(count, words);
    if (line.command == "--help") return say(kHelp);
    if (line.command == "--version") return say("squeezebert-run " + std::string(squeezebert_version()) + "\n");
    return run(line);
  } catch (const std::bad_alloc&) {
    std::fputs("squeezebert-run: there is not enough memory\n", stderr);
    return kNoModel;
  } catch (const UsageError& error) {
    std::fprintf(stderr, "squeezebert-run: %s\n", error.what());
    return kUsage;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "squeezebert-run: %s\n", error.what());
    return kNoModel;
  }
}
