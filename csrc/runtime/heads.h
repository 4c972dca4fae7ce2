// What stands on an encoder: a classifier, or a product with every word.
#pragma once
#include <cstdint>

#include "config.h"
#include "dense.h"

namespace squeezebert {

// classifier(activation(dense(first token)))
class Classifier {
 public:
  Classifier(const Config& config, Weights& weights, const Engine& engine, int threads);

  // logits, one for each label, of hidden states, of which it reads the first row.
  void run(const float* states, float* logits, int threads) const;

 private:
  const Engine engine_;
  const int64_t channels_;
  const Activation activation_;
  const Dense dense_, classifier_;
};

// decoder(LayerNorm(activation(dense(token))))
class WordHead {
 public:
  WordHead(const Config& config, Weights& weights, const Engine& engine, int threads);

  int64_t words() const { return words_; }
  // logits, [rows, words], of some tokens' hidden states.
  void run(const float* states, int64_t rows, float* logits, int threads) const;

 private:
  const Engine engine_;
  const int64_t width_, words_;
  const Activation activation_;
  const Dense dense_;
  const LayerNorm norm_;
  const Dense decoder_;
};

}  // namespace squeezebert
