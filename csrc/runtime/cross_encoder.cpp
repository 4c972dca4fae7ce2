#include "cross_encoder.h"

#include <optional>

#include "mapped_file.h"
#include "prompts.h"
#include "status.h"
#include "text/json.h"

namespace squeezebert {
namespace {

constexpr size_t kMostBytes = 64 << 20;
constexpr struct {
  const char* name;
  CrossEncoder::Activation activation;
} kActivations[] = {
    {"Identity", CrossEncoder::Activation::identity},
    {"Sigmoid", CrossEncoder::Activation::sigmoid},
    {"Tanh", CrossEncoder::Activation::tanh},
};

// A member that says something.
std::optional<std::string> said(const JsonValue& object, const char* name) {
  const auto value = object.is_object() ? object.find(name) : std::nullopt;
  if (!value || value->is_null() || (value->is_string() && value->string().empty())) return std::nullopt;
  return std::string(value->string());
}

}  // namespace

CrossEncoder read_cross_encoder(const std::string& folder) {
  CrossEncoder found;
  std::optional<std::string> name;
  const std::string about_path = folder + "/config_sentence_transformers.json";
  if (exists(about_path)) {
    const Json about = Json::read(about_path, kMostBytes);
    if (said(about.root(), "model_type") == "CrossEncoder") {
      name = said(about.root(), "activation_fn");
      found.prompt = default_prompt(about.root());
    }
  }
  const Json config = Json::read(folder + "/config.json", kMostBytes);
  const JsonValue root = config.root();
  const auto ours = root.find("squeezebert_fast");
  if (ours && said(*ours, "task")) return found;  // it has learnt logits since, whatever its configuration still says
  const auto inside = root.find("sentence_transformers");
  if (!name && inside) name = said(*inside, "activation_fn");
  if (!name) name = said(root, "sbert_ce_default_activation_function");
  if (!name) return found;
  const std::string last = name->substr(name->rfind('.') + 1);
  for (const auto& row : kActivations) {
    if (last == row.name) found.activation = row.activation;
  }
  if (found.activation == CrossEncoder::Activation::none) {
    throw Error(SQUEEZEBERT_UNSUPPORTED, folder + " is a CrossEncoder with the activation '" + *name +
                                             "', expected one of Identity, Sigmoid, Tanh");
  }
  return found;
}

}  // namespace squeezebert
