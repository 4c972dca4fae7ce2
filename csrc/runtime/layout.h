// What kinds of models there are, and the names that each has for its sizes and weights: a row for every model type.
#pragma once
#include <string_view>

#include "../kernels/kernel_table.h"

namespace squeezebert {

// Names of tensors; a product has NAME.weight and NAME.bias, and so has a norm.
struct LayerNames {
  const char *query, *key, *value;
  const char *post_attention, *post_attention_norm;
  const char *intermediate, *output, *output_norm;
};

// Names in config.json; null for what a type's configuration doesn't say.
struct SizeNames {
  const char *channels, *layers, *heads, *hidden, *activation;
  const char* embedding_channels;  // smaller than `channels` in a model that projects its embeddings
  const char* token_types;         // null: there is no such table
  const char* layer_norm_eps;      // null: 1e-12
};

// A dense layer, an activation and a norm before the product with every word; the product's weight, if it isn't that of
// the word embeddings, and its bias.
struct WordHeadNames {
  const char *dense, *norm;
  const char* decoder_weight;
  const char* decoder_biases[2];  // the first that is there; the second may be null
  bool activation_is_gelu;        // whatever the configuration's is
};

struct ClassifierNames {
  const char* dense;
  Activation activation;
  const char* classifier;
};

struct Layout {
  const char* model_type;
  const char* class_prefix;  // of architectures
  const char* prefix;        // of all names of the body, in a model with a head
  const char* embeddings_norm;
  const char* embeddings_projection;  // or null
  const char* layers;                 // before a layer's number
  bool layers_have_eps;               // the configuration's; otherwise 1e-12
  SizeNames sizes;
  LayerNames layer;
  ClassifierNames classifier;
  WordHeadNames word_head;
};

// The row of a model type, or null.
const Layout* layout_of(std::string_view model_type);

}  // namespace squeezebert
