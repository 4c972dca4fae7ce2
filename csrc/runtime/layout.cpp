#include "layout.h"

namespace squeezebert {
namespace {

constexpr SizeNames kBertSizes = {"hidden_size",       "num_hidden_layers", "num_attention_heads",
                                  "intermediate_size", "hidden_act",        nullptr,
                                  "type_vocab_size",   "layer_norm_eps"};
constexpr SizeNames kElectraSizes = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                                     "hidden_act",  "embedding_size",    "type_vocab_size",     "layer_norm_eps"};
constexpr SizeNames kDistilBertSizes = {"dim",        "n_layers", "n_heads", "hidden_dim",
                                        "activation", nullptr,    nullptr,   nullptr};

constexpr LayerNames kBertLayer = {
    "attention.self.query",       "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense",         "output.LayerNorm"};
constexpr LayerNames kSqueezeBertLayer = {
    "attention.query",          "attention.key",       "attention.value", "post_attention.conv1d",
    "post_attention.layernorm", "intermediate.conv1d", "output.conv1d",   "output.layernorm"};
constexpr LayerNames kDistilBertLayer = {"attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
                                         "sa_layer_norm",   "ffn.lin1",        "ffn.lin2",        "output_layer_norm"};

constexpr ClassifierNames kBertClassifier = {"pooler.dense", Activation::tanh, "classifier"};
constexpr WordHeadNames kBertWords = {"cls.predictions.transform.dense",
                                      "cls.predictions.transform.LayerNorm",
                                      "cls.predictions.decoder.weight",
                                      {"cls.predictions.bias", "cls.predictions.decoder.bias"},
                                      false};

constexpr Layout kLayouts[] = {
    {"squeezebert", "SqueezeBert", "transformer.", "embeddings.LayerNorm", nullptr, "encoder.layers.", false,
     kBertSizes, kSqueezeBertLayer, kBertClassifier, kBertWords},
    {"bert", "Bert", "bert.", "embeddings.LayerNorm", nullptr, "encoder.layer.", true, kBertSizes, kBertLayer,
     kBertClassifier, kBertWords},
    {"distilbert",
     "DistilBert",
     "distilbert.",
     "embeddings.LayerNorm",
     nullptr,
     "transformer.layer.",
     false,
     kDistilBertSizes,
     kDistilBertLayer,
     {"pre_classifier", Activation::relu, "classifier"},
     {"vocab_transform", "vocab_layer_norm", "vocab_projector.weight", {"vocab_projector.bias", nullptr}, false}},
    {"electra",
     "Electra",
     "electra.",
     "embeddings.LayerNorm",
     "embeddings_project",
     "encoder.layer.",
     true,
     kElectraSizes,
     kBertLayer,
     {"classifier.dense", Activation::gelu, "classifier.out_proj"},
     {"generator_predictions.dense",
      "generator_predictions.LayerNorm",
      "generator_lm_head.weight",
      {"generator_lm_head.bias", nullptr},
      true}},
};

}  // namespace

const Layout* layout_of(std::string_view model_type) {
  for (const Layout& layout : kLayouts) {
    if (model_type == layout.model_type) return &layout;
  }
  return nullptr;
}

}  // namespace squeezebert
