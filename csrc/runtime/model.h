// A folder's model, ready to answer: what the C API hands out.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "body.h"
#include "config.h"
#include "cross_encoder.h"
#include "heads.h"
#include "sentence_folder.h"
#include "text/tokenizer.h"
#include "weights.h"

namespace squeezebert {

struct Text {
  std::string_view first;
  const std::string_view* second;  // or null
};

struct Candidate {
  int64_t id;
  float logit, score;
};

// All functions throw Error, and may be called by several threads at once.
class Model {
 public:
  // Beyond what any machine gains by: members of a team wait for each other, and thousands would take minutes.
  static constexpr int kMostThreads = 256;

  // precision: "float32", "bfloat16", "int8", or "" for the folder's own.
  Model(const std::string& folder, const std::string& precision);

  const Config& config() const { return config_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  void set_threads(int threads) { threads_ = std::min(threads, kMostThreads); }

  // Cut at the tokens that the model takes.
  Encoding encode(const Text& text) const;
  std::vector<float> hidden_states(const Encoding& encoding) const;
  std::vector<float> hidden_states(const int64_t* ids, const int64_t* token_types, int64_t count) const;

  std::vector<float> logits(const Text& text) const;
  std::vector<float> scores(const std::vector<float>& logits) const;
  // Where a text's masks are among its ids; none is an error.
  std::vector<size_t> masks(const Encoding& encoding) const;
  Encoding encode_whole(std::string_view text) const;  // with no token cut: too many are an error
  void check_words(size_t count) const;                // that a mask may have so many
  // For each mask the likeliest words, the best first.
  std::vector<std::vector<Candidate>> fill(const Encoding& encoding, size_t count) const;
  std::vector<float> embedding(std::string_view text, bool normalize) const;

 private:
  // Not std::once_flag: an exception out of std::call_once ends the process on AArch64, where libgcc is linked in.
  template <class Made>
  struct Once {
    std::mutex mutex;
    std::unique_ptr<const Made> made;
  };
  template <class Made>
  const Made& once(Once<Made>& head) const;
  [[noreturn]] void refuse(const char* wanted) const;
  int64_t token_limit() const;
  size_t known_words() const;

  const std::string folder_;
  const SentenceFolder sentence_;
  const Config config_;
  const CrossEncoder cross_encoder_;
  const Tokenizer tokenizer_;
  mutable Weights weights_;
  const Engine engine_;
  std::atomic<int> threads_;
  const Body body_;
  mutable Once<Classifier> classifier_;  // packed when they are first asked for: a product with every word is large
  mutable Once<WordHead> word_head_;
};

}  // namespace squeezebert
