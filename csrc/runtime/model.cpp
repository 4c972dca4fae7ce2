#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "../core/instruction_sets.h"
#include "../core/pooling.h"
#include "status.h"

namespace squeezebert {
namespace {

// More threads than a phone has fast cores would wait for its slow ones.
constexpr unsigned kUsualThreads = 4;

// Kernels for tests and comparisons, as in Python: the build that this variable names in place of the best one.
constexpr const char* kBuildVariable = "SQUEEZEBERT_FAST_ISA";

const KernelTable& kernels_here() {
  const char* wanted = std::getenv(kBuildVariable);
  if (!wanted || !*wanted) return *usable_kernels().front();
  if (const KernelTable* kernels = find_kernels(wanted)) return *kernels;
  std::string usable;
  for (const KernelTable* kernels : usable_kernels())
    usable += (usable.empty() ? "" : ", ") + std::string(kernels->name);
  throw Error(SQUEEZEBERT_INVALID_ARGUMENT,
              std::string(kBuildVariable) + " is '" + wanted + "'; usable here: " + usable);
}

Precision precision_of(const std::string& name, const Weights& weights) {
  if (weights.is_int8()) {
    if (name.empty() || name == "int8") return Precision::int8;
    throw Error(SQUEEZEBERT_UNSUPPORTED, "the precision is '" + name + "', but " + weights.path() +
                                             " holds int8 weights, which run in int8 alone");
  }
  if (name.empty() || name == "float32") return Precision::float32;
  if (name == "bfloat16") return Precision::bfloat16;
  if (name == "int8") return Precision::int8;
  throw Error(SQUEEZEBERT_INVALID_ARGUMENT, "the precision is '" + name + "', expected float32, bfloat16 or int8");
}

int usual_threads() { return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kUsualThreads)); }

std::string folder_named(const std::string& folder) {
  if (!exists(folder)) throw Error(SQUEEZEBERT_NOT_FOUND, folder + " is not there");
  return folder;
}

// In place, of scores that are finite.
void softmax(std::vector<float>& values) {
  const float largest = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (float& value : values) sum += value = std::exp(value - largest);
  for (float& value : values) value = static_cast<float>(value / sum);
}

void check_finite(const std::vector<float>& values) {
  const auto is_finite = [](float value) { return std::isfinite(value); };
  if (!std::all_of(values.begin(), values.end(), is_finite)) {
    throw Error(SQUEEZEBERT_BAD_FILE, "the model's answer is not finite: damaged weights?");
  }
}

}  // namespace

Model::Model(const std::string& folder, const std::string& precision)
    : folder_(folder_named(folder)),
      sentence_(read_sentence_folder(folder)),
      config_(read_config(sentence_.transformer)),
      cross_encoder_(read_cross_encoder(sentence_.transformer)),
      tokenizer_(sentence_.transformer),
      weights_(sentence_.transformer, config_.layout->prefix),
      engine_{kernels_here(), precision_of(precision, weights_)},
      threads_(usual_threads()),
      body_(config_, weights_, engine_, threads_) {}

template <class Made>
const Made& Model::once(Once<Made>& head) const {
  const std::lock_guard<std::mutex> lock(head.mutex);
  if (!head.made) head.made = std::make_unique<Made>(config_, weights_, engine_, threads_);
  return *head.made;
}

void Model::refuse(const char* wanted) const {
  const std::string kind = config_.architecture.empty() ? "model of no named class" : config_.architecture;
  throw Error(SQUEEZEBERT_UNSUPPORTED, folder_ + " is a " + kind + ", expected " + wanted);
}

int64_t Model::token_limit() const {
  const auto usual = sentence_.max_length ? sentence_.max_length : config_.usual_length;
  return std::min(config_.positions, usual.value_or(0) > 0 ? *usual : tokenizer_.model_max_length());
}

Encoding Model::encode(const Text& text) const {
  const int64_t limit = token_limit(), least = text.second ? 3 : 2;  // [CLS] and [SEP], and another for a pair
  if (limit < least) {
    throw Error(SQUEEZEBERT_UNSUPPORTED, folder_ + " cuts texts at " + std::to_string(limit) +
                                             " tokens, expected at least " + std::to_string(least));
  }
  return tokenizer_.encode(text.first, text.second, limit);
}

std::vector<float> Model::hidden_states(const Encoding& encoding) const {
  for (int64_t id : encoding.ids) {
    if (id >= config_.words) {
      throw Error(SQUEEZEBERT_BAD_FILE, folder_ + ": the tokenizer gives the id " + std::to_string(id) +
                                            ", but vocab_size is " + std::to_string(config_.words));
    }
  }
  const bool has_types = config_.layout->sizes.token_types != nullptr;
  if (has_types && config_.token_types == 1 && encoding.token_types.back() == 1) {
    throw Error(SQUEEZEBERT_UNSUPPORTED, folder_ + " takes no pairs: its type_vocab_size is 1");
  }
  return hidden_states(encoding.ids.data(), encoding.token_types.data(), static_cast<int64_t>(encoding.ids.size()));
}

std::vector<float> Model::hidden_states(const int64_t* ids, const int64_t* token_types, int64_t count) const {
  if (count > config_.positions) {
    throw Error(SQUEEZEBERT_INVALID_ARGUMENT, "there are " + std::to_string(count) + " ids, but " + folder_ +
                                                  " takes " + std::to_string(config_.positions) + " tokens at most");
  }
  std::vector<float> states(static_cast<size_t>(count * config_.channels));
  body_.run(ids, token_types, count, states.data(), threads_);
  return states;
}

std::vector<float> Model::logits(const Text& text) const {
  if (config_.head != Head::labels) refuse("a model for sequence classification");
  const std::string prompted = cross_encoder_.prompt + std::string(text.first);
  const std::vector<float> states = hidden_states(encode({prompted, text.second}));
  std::vector<float> logits(config_.labels.size());
  once(classifier_).run(states.data(), logits.data(), threads_);
  check_finite(logits);
  return logits;
}

std::vector<float> Model::scores(const std::vector<float>& logits) const {
  using Activation = CrossEncoder::Activation;
  Activation activation = cross_encoder_.activation;
  const bool says_little = activation == Activation::none || activation == Activation::identity;
  std::vector<float> scores = logits;
  if (config_.kind == SQUEEZEBERT_SINGLE_LABEL && says_little) {
    softmax(scores);
    return scores;
  }
  if (config_.kind == SQUEEZEBERT_MULTI_LABEL && says_little) activation = Activation::sigmoid;
  for (float& score : scores) {
    if (activation == Activation::sigmoid) score = 1 / (1 + std::exp(-score));
    if (activation == Activation::tanh) score = std::tanh(score);
  }
  return scores;
}

Encoding Model::encode_whole(std::string_view text) const {
  Encoding encoding = tokenizer_.encode(text, nullptr, config_.positions + 1);
  if (static_cast<int64_t>(encoding.ids.size()) > config_.positions) {
    throw Error(SQUEEZEBERT_BAD_TEXT, "the text has more than the " + std::to_string(config_.positions) +
                                          " tokens that the model takes, and a mask might be lost");
  }
  return encoding;
}

std::vector<size_t> Model::masks(const Encoding& encoding) const {
  if (config_.head != Head::words) refuse("a masked language model");
  const int64_t mask = tokenizer_.mask_id();
  if (mask < 0) throw Error(SQUEEZEBERT_UNSUPPORTED, folder_ + ": the tokenizer has no mask token");
  std::vector<size_t> found;
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    if (encoding.ids[i] == mask) found.push_back(i);
  }
  if (found.empty()) {
    throw Error(SQUEEZEBERT_BAD_TEXT, "the text has no " + std::string(tokenizer_.token(mask).value_or("mask")));
  }
  return found;
}

size_t Model::known_words() const { return static_cast<size_t>(std::min(tokenizer_.size(), config_.words)); }

void Model::check_words(size_t count) const {
  const size_t known = known_words();
  if (count > known) {
    throw Error(SQUEEZEBERT_INVALID_ARGUMENT, std::to_string(count) + " words are asked for, but the vocabulary has " +
                                                  std::to_string(known) + " tokens");
  }
}

std::vector<std::vector<Candidate>> Model::fill(const Encoding& encoding, size_t count) const {
  check_words(count);
  const std::vector<size_t> places = masks(encoding);
  const std::vector<float> states = hidden_states(encoding);
  const auto channels = static_cast<size_t>(config_.channels), words = static_cast<size_t>(config_.words);
  std::vector<float> masked(places.size() * channels);
  for (size_t i = 0; i < places.size(); ++i) {
    std::copy_n(states.begin() + static_cast<ptrdiff_t>(places[i] * channels), channels,
                masked.begin() + static_cast<ptrdiff_t>(i * channels));
  }
  std::vector<float> logits(places.size() * words);
  once(word_head_).run(masked.data(), static_cast<int64_t>(places.size()), logits.data(), threads_);
  check_finite(logits);
  std::vector<std::vector<Candidate>> found;
  std::vector<size_t> order(known_words());
  for (size_t i = 0; i < places.size(); ++i) {
    const float* of_mask = logits.data() + i * words;
    std::vector<float> scores(of_mask, of_mask + words);
    softmax(scores);
    std::iota(order.begin(), order.end(), size_t{0});
    const auto better = [&](size_t a, size_t b) { return of_mask[a] != of_mask[b] ? of_mask[a] > of_mask[b] : a < b; };
    std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(count), order.end(), better);
    std::vector<Candidate>& candidates = found.emplace_back();
    for (size_t place = 0; place < count; ++place) {
      const size_t id = order[place];
      candidates.push_back({static_cast<int64_t>(id), of_mask[id], scores[id]});
    }
  }
  return found;
}

std::vector<float> Model::embedding(std::string_view text, bool normalize) const {
  if (!sentence_.beyond.empty()) {
    throw Error(SQUEEZEBERT_UNSUPPORTED, folder_ + " needs sentence-transformers: " + sentence_.beyond);
  }
  const std::string prompted = sentence_.prompt.empty() ? std::string() : sentence_.prompt + std::string(text);
  const Encoding encoding = encode({sentence_.prompt.empty() ? text : prompted, nullptr});
  const auto tokens = static_cast<int64_t>(encoding.ids.size());
  const std::vector<float> states = hidden_states(encoding);
  std::vector<float> vector(states.begin(), states.begin() + static_cast<ptrdiff_t>(config_.channels));
  if (!sentence_.first_token) mean_pool({states.data(), nullptr, 1, tokens, config_.channels, vector.data()}, 1);
  if (normalize || sentence_.normalize) to_unit_length(vector.data(), 1, config_.channels);
  check_finite(vector);
  return vector;
}

}  // namespace squeezebert
