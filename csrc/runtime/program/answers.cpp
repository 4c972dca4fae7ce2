#include "answers.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "json_text.h"

namespace squeezebert_run {
namespace {

constexpr size_t kUsualWords = 5;
constexpr float kThreshold = 0.5f;  // from which on a text has a label, where it may have several

void check(squeezebert_status status) {
  if (status != SQUEEZEBERT_OK) throw Failure(status);
}

struct Texts {
  std::string_view first, second;
  const char* second_data() const { return second.data(); }
};

Texts split(const CommandLine& line, std::string_view text) {
  if (!line.pairs) return {text, {}};
  const size_t tab = text.find('\t');
  if (tab == std::string_view::npos) throw Failure(SQUEEZEBERT_BAD_TEXT, "the line has no tab between two texts");
  return {text.substr(0, tab), text.substr(tab + 1)};
}

template <class Each>
std::string joined(size_t count, const char* between, Each each) {
  std::string text;
  for (size_t i = 0; i < count; ++i) text += (i ? between : "") + each(i);
  return text;
}

std::string field(const std::string& name, const std::string& value) { return json_string(name) + ": " + value; }

// As squeezebert-fast predict numbers the names of what comes behind the best.
std::string ranked(const char* name, size_t place) {
  return place == 0 ? std::string(name) : name + ("_" + std::to_string(place + 1));
}

std::string classify(const CommandLine& line, const squeezebert_model* model, std::string_view text) {
  const Texts texts = split(line, text);
  std::vector<float> scores(squeezebert_label_count(model));
  check(squeezebert_classify(model, texts.first.data(), texts.first.size(), texts.second_data(), texts.second.size(),
                             nullptr, scores.data()));
  const auto label = [&](size_t index) { return std::string(squeezebert_label(model, index)); };
  const squeezebert_kind kind = squeezebert_label_kind(model);
  if (kind == SQUEEZEBERT_REGRESSION) {
    if (!line.json) return joined(scores.size(), "\t", [&](size_t i) { return number(scores[i]); });
    const bool one = scores.size() == 1;
    return "{" +
           joined(scores.size(), ", ",
                  [&](size_t i) { return field(one ? "value" : "value[" + label(i) + "]", number(scores[i])); }) +
           "}";
  }
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  const bool several = kind == SQUEEZEBERT_MULTI_LABEL;
  size_t count = std::min(std::max<size_t>(line.top, 1), order.size());
  if (several && line.top == 0) {
    const auto is_label = [&](size_t index) { return scores[index] >= kThreshold; };
    count = static_cast<size_t>(std::count_if(order.begin(), order.end(), is_label));
  }
  if (!line.json) {
    return joined(count, "\t", [&](size_t i) { return one_field(label(order[i])) + "\t" + number(scores[order[i]]); });
  }
  if (several) {
    const auto labels = joined(count, ", ", [&](size_t i) { return json_string(label(order[i])); });
    const auto values = joined(count, ", ", [&](size_t i) { return number(scores[order[i]]); });
    return "{\"labels\": [" + labels + "], \"scores\": [" + values + "]}";
  }
  return "{" +
         joined(count, ", ",
                [&](size_t i) {
                  return field(ranked("label", i), json_string(label(order[i]))) + ", " +
                         field(ranked("score", i), number(scores[order[i]]));
                }) +
         "}";
}

std::string fill_mask(const CommandLine& line, const squeezebert_model* model, std::string_view text) {
  const size_t top = line.top ? line.top : kUsualWords;
  size_t masks = 0;
  check(squeezebert_fill_mask(model, text.data(), text.size(), top, nullptr, 0, &masks));
  std::vector<squeezebert_candidate> words(masks * top);
  check(squeezebert_fill_mask(model, text.data(), text.size(), top, words.data(), words.size(), &masks));
  const auto token = [](const squeezebert_candidate& word) { return std::string(word.token, word.token_bytes); };
  if (!line.json) {
    return joined(words.size(), "\t",
                  [&](size_t i) { return one_field(token(words[i])) + "\t" + number(words[i].score); });
  }
  return "[" +
         joined(masks, ", ",
                [&](size_t mask) {
                  return "[" +
                         joined(top, ", ",
                                [&](size_t i) {
                                  const squeezebert_candidate& word = words[mask * top + i];
                                  return "{" + field("token", json_string(token(word))) + ", " +
                                         field("score", number(word.score)) + "}";
                                }) +
                         "]";
                }) +
         "]";
}

std::string embed(const CommandLine& line, const squeezebert_model* model, std::string_view text) {
  std::vector<float> vector(squeezebert_embedding_size(model));
  check(squeezebert_embed(model, text.data(), text.size(), line.normalize, vector.data()));
  const auto value = [&](size_t i) { return number(vector[i]); };
  return line.json ? "{\"vector\": [" + joined(vector.size(), ", ", value) + "]}" : joined(vector.size(), " ", value);
}

std::string tokenize(const CommandLine& line, const squeezebert_model* model, std::string_view text) {
  const Texts texts = split(line, text);
  size_t count = 0;
  const auto run = [&](int64_t* ids, int64_t* types, size_t capacity) {
    check(squeezebert_tokenize(model, texts.first.data(), texts.first.size(), texts.second_data(), texts.second.size(),
                               ids, types, capacity, &count));
  };
  run(nullptr, nullptr, 0);
  std::vector<int64_t> ids(count), types(count);
  run(ids.data(), types.data(), count);
  const auto id = [&](size_t i) { return std::to_string(ids[i]); };
  if (!line.json) return joined(count, " ", id);
  const auto token = [&](size_t i) {
    size_t bytes = 0;
    const char* found = squeezebert_token(model, ids[i], &bytes);
    return json_string({found ? found : "", bytes});
  };
  const auto type = [&](size_t i) { return std::to_string(types[i]); };
  return "{\"ids\": [" + joined(count, ", ", id) + "], \"token_types\": [" + joined(count, ", ", type) +
         "], \"tokens\": [" + joined(count, ", ", token) + "]}";
}

}  // namespace

std::string answer(const CommandLine& line, const squeezebert_model* model, std::string_view text) {
  if (line.command == "classify") return classify(line, model, text);
  if (line.command == "fill-mask") return fill_mask(line, model, text);
  if (line.command == "embed") return embed(line, model, text);
  return tokenize(line, model, text);
}

std::string answer_to_blank(const CommandLine& line) { return line.json ? "null" : ""; }

std::string answer_to_failure(const CommandLine& line, const Failure& failure) {
  if (!line.json) return "";
  return "{" + field("error", json_string(name_of(failure.status))) + ", " +
         field("message", json_string(failure.what())) + "}";
}

const char* name_of(squeezebert_status status) {
  switch (status) {
    case SQUEEZEBERT_OK:
      return "ok";
    case SQUEEZEBERT_INVALID_ARGUMENT:
      return "invalid_argument";
    case SQUEEZEBERT_NOT_FOUND:
      return "not_found";
    case SQUEEZEBERT_BAD_FILE:
      return "bad_file";
    case SQUEEZEBERT_UNSUPPORTED:
      return "unsupported";
    case SQUEEZEBERT_BAD_TEXT:
      return "bad_text";
    case SQUEEZEBERT_NO_MEMORY:
      return "no_memory";
    case SQUEEZEBERT_INTERNAL:
      return "internal";
  }
  return "unknown";
}

}  // namespace squeezebert_run
