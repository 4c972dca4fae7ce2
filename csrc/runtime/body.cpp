#include "body.h"

#include <numeric>
#include <string>

#include "../core/embeddings.h"
#include "status.h"

namespace squeezebert {
namespace {

// How int8 cuts the inputs of products into blocks with scales of their own: squeezebert_fast/backends/quantized.py and
// cpu_encoder.py say why.
constexpr int64_t kBlock = 192, kFineBlock = 64;

int64_t blocks_of(int64_t channels, int64_t groups, int64_t most) {
  const int64_t size = channels / groups;
  for (int64_t blocks = (size + most - 1) / most; blocks <= size / (most / 4); ++blocks) {
    if (size % blocks == 0) return blocks;
  }
  return 1;
}

int64_t most_of(int64_t groups) { return groups == 1 ? kFineBlock : kBlock; }

// Float32 is as accurate as PyTorch is by default, on matrix units where the build has them.
Precision encoder_precision(const Engine& engine) {
  constexpr Precision kByParts = Precision::float32_highest;
  const bool by_parts = engine.kernels.precision[static_cast<int>(kByParts)].products > 0;
  return engine.precision == Precision::float32 && by_parts ? kByParts : engine.precision;
}

}  // namespace

Body::Body(const Config& config, Weights& weights, const Engine& engine, int threads)
    : engine_(engine), channels_(config.channels), embedding_channels_(config.embedding_channels) {
  const int64_t width = embedding_channels_;
  const std::string words = "embeddings.word_embeddings.weight";
  // Words that are tied to a product in float32 are floats in an int8 folder too.
  const bool tied_to_few = config.decoder_is_tied && config.head == Head::words && Dense::stays_float(config.words);
  const Matrix table = weights.matrix(words, config.words, width, 1, tied_to_few);
  const bool rounded = table.floats && engine.precision == Precision::int8;
  embeddings_.tables[0] = {table.floats, rounded, table.ints, table.scale, config.words};
  const float* positions = weights.floats("embeddings.position_embeddings.weight", {config.positions, width});
  embeddings_.tables[1] = {positions, false, nullptr, nullptr, config.positions};
  const float* types;
  if (config.layout->sizes.token_types) {
    types = weights.floats("embeddings.token_type_embeddings.weight", {config.token_types, width});
  } else {
    no_types_.resize(static_cast<size_t>(width));
    types = no_types_.data();
  }
  embeddings_.tables[2] = {types, false, nullptr, nullptr, config.token_types};
  const LayerNorm norm = norm_of(weights, config.layout->embeddings_norm, width, config.embeddings_eps);
  embeddings_.norm_weight = norm.weight;
  embeddings_.norm_bias = norm.bias;
  embeddings_.eps = norm.eps;
  embeddings_.channels = width;
  if (width != channels_) {
    projection_.emplace(engine, weights, config.layout->embeddings_projection, width, channels_, threads);
  }
  if (config.layers > static_cast<int64_t>(weights.size())) {
    throw Error(SQUEEZEBERT_BAD_FILE, weights.path() + " holds fewer tensors than the configuration has layers, " +
                                          std::to_string(config.layers));
  }
  if (config.layers == 0) return;
  encoder_.emplace(engine.kernels, encoder_precision(engine));
  for (int64_t i = 0; i < config.layers; ++i) add_layer(config, weights, i);
  encoder_->pack(threads);
}

void Body::add_layer(const Config& config, Weights& weights, int64_t index) {
  const LayerNames& names = config.layout->layer;
  const std::string place = config.layout->layers + std::to_string(index) + ".";
  const Groups& groups = config.groups;
  const auto conv = [&](const char* name, int64_t in, int64_t out, int64_t of, int64_t blocks) {
    const Matrix weight = weights.matrix(place + name + ".weight", out, in / of, blocks);
    const float* bias = weights.floats(place + name + ".bias", {out});
    return ConvWeights{weight.floats, weight.ints, weight.scale, bias, of, in, out, blocks};
  };
  const auto norm = [&](const char* name) {
    const LayerNorm of = norm_of(weights, place + name, channels_, config.layer_eps);
    return NormWeights{of.weight, of.bias, of.eps};
  };
  // Query, key and value read the same operands, so groups times blocks are equal for the three.
  int64_t shared = std::lcm(std::lcm(groups.query, groups.key), groups.value);
  shared *= blocks_of(channels_, shared, most_of(shared));
  const int64_t channels = channels_, hidden = config.hidden;
  encoder_->add_layer({config.heads, config.activation,
                       conv(names.query, channels, channels, groups.query, shared / groups.query),
                       conv(names.key, channels, channels, groups.key, shared / groups.key),
                       conv(names.value, channels, channels, groups.value, shared / groups.value),
                       conv(names.post_attention, channels, channels, groups.post_attention,
                            blocks_of(channels, groups.post_attention, kBlock)),
                       conv(names.intermediate, channels, hidden, groups.intermediate,
                            blocks_of(channels, groups.intermediate, most_of(groups.intermediate))),
                       conv(names.output, hidden, channels, groups.output, blocks_of(hidden, groups.output, kBlock)),
                       norm(names.post_attention_norm), norm(names.output_norm)});
}

void Body::run(const int64_t* ids, const int64_t* token_types, int64_t count, float* states, int threads) const {
  const auto size = [&](int64_t width) { return static_cast<size_t>(count * width); };
  std::vector<float> embedded(size(embedding_channels_));
  Embeddings call = embeddings_;
  call.ids[0] = ids;
  call.ids[2] = no_types_.empty() ? token_types : nullptr;
  call.tokens = count;
  call.y = encoder_ || projection_ ? embedded.data() : states;
  if (!run_embeddings(engine_.kernels, call, count, threads)) {
    throw Error(SQUEEZEBERT_INVALID_ARGUMENT,
                "an id, or the number of ids, is beyond the model's: " + std::to_string(call.tables[0].size) +
                    " tokens, " + std::to_string(call.tables[1].size) + " positions, " +
                    std::to_string(call.tables[2].size) + " token types");
  }
  if (projection_) {
    std::vector<float> projected(size(channels_));
    projection_->run(embedded.data(), count, encoder_ ? projected.data() : states, threads);
    embedded.swap(projected);
  }
  if (!encoder_) return;
  EncoderInput input{};
  input.x = embedded.data();
  input.batch = 1;
  input.tokens = count;
  input.sequence_stride = count * channels_;
  input.row_stride = channels_;
  input.y = states;
  encoder_->run(input, threads);
}

}  // namespace squeezebert
