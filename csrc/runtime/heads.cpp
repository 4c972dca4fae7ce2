#include "heads.h"

#include <string>
#include <vector>

#include "../core/activation.h"

namespace squeezebert {
namespace {

Dense decoder_of(const Config& config, Weights& weights, const Engine& engine, int threads) {
  const WordHeadNames& names = config.layout->word_head;
  const bool own = !config.decoder_is_tied || weights.has(names.decoder_weight);
  const std::string name = own ? names.decoder_weight : "embeddings.word_embeddings.weight";
  const int64_t width = config.embedding_channels;
  const Matrix weight = weights.matrix(name, config.words, width, 1, Dense::stays_float(config.words));
  const bool second = !weights.has(names.decoder_biases[0]) && names.decoder_biases[1];
  const float* bias = weights.floats(names.decoder_biases[second ? 1 : 0], {config.words});
  return {engine, weight, bias, width, config.words, threads};
}

}  // namespace

Classifier::Classifier(const Config& config, Weights& weights, const Engine& engine, int threads)
    : engine_(engine),
      channels_(config.channels),
      activation_(config.layout->classifier.activation),
      dense_(engine, weights, config.layout->classifier.dense, channels_, channels_, threads),
      classifier_(engine, weights, config.layout->classifier.classifier, channels_,
                  static_cast<int64_t>(config.labels.size()), threads) {}

void Classifier::run(const float* states, float* logits, int threads) const {
  std::vector<float> pooled(static_cast<size_t>(channels_));
  dense_.run(states, 1, pooled.data(), threads);
  activate(engine_.kernels, activation_, pooled.data(), channels_, threads);
  classifier_.run(pooled.data(), 1, logits, threads);
}

WordHead::WordHead(const Config& config, Weights& weights, const Engine& engine, int threads)
    : engine_(engine),
      width_(config.embedding_channels),
      words_(config.words),
      activation_(config.layout->word_head.activation_is_gelu ? Activation::gelu : config.activation),
      dense_(engine, weights, config.layout->word_head.dense, config.channels, width_, threads),
      norm_(norm_of(weights, config.layout->word_head.norm, width_, config.embeddings_eps)),
      decoder_(decoder_of(config, weights, engine, threads)) {}

void WordHead::run(const float* states, int64_t rows, float* logits, int threads) const {
  std::vector<float> transformed(static_cast<size_t>(rows * width_));
  dense_.run(states, rows, transformed.data(), threads);
  activate(engine_.kernels, activation_, transformed.data(), rows * width_, threads);
  layer_norm(engine_.kernels, norm_, transformed.data(), rows, threads);
  decoder_.run(transformed.data(), rows, logits, threads);
}

}  // namespace squeezebert
