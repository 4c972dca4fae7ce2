#include "config.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "status.h"
#include "text/json.h"

namespace squeezebert {
namespace {

constexpr size_t kMostBytes = 64 << 20;       // tens of thousands of labels have some megabytes
constexpr int64_t kMostOfAnything = 1 << 24;  // so that no product of two sizes overflows
constexpr int64_t kMostUnnamedLabels = 10'000;

constexpr struct {
  const char* name;
  Activation activation;
} kActivations[] = {
    {"gelu", Activation::gelu},
    {"gelu_python", Activation::gelu},
    {"gelu_accurate", Activation::gelu_tanh},
    {"gelu_fast", Activation::gelu_tanh},
    {"gelu_new", Activation::gelu_tanh},
    {"gelu_python_tanh", Activation::gelu_tanh},
    {"gelu_pytorch_tanh", Activation::gelu_tanh},
    {"relu", Activation::relu},
    {"silu", Activation::silu},
    {"swish", Activation::silu},
};

// A member that isn't null.
std::optional<JsonValue> given(const JsonValue& object, const char* name) {
  const std::optional<JsonValue> value = name ? object.find(name) : std::nullopt;
  return value && !value->is_null() ? value : std::nullopt;
}

int64_t size_of(const JsonValue& root, const char* name, int64_t otherwise, int64_t least = 1) {
  const auto value = given(root, name);
  return value ? value->integer(least, kMostOfAnything) : otherwise;
}

float eps_of(const JsonValue& root, const char* name, double otherwise) {
  const auto value = given(root, name);
  if (!value) return static_cast<float>(otherwise);
  if (!(value->number() >= 0.0 && value->number() < 1.0)) value->refuse("a number from 0 to 1");
  return static_cast<float>(value->number());
}

bool flag(const JsonValue& root, const char* name, bool otherwise) {
  const auto value = given(root, name);
  return value ? value->boolean() : otherwise;
}

const Layout* read_layout(const JsonValue& root) {
  const auto type = given(root, "model_type");
  const std::string name(type ? type->string() : "squeezebert");
  if (const Layout* layout = layout_of(name)) return layout;
  const bool is_roberta = name == "roberta" || name == "xlm-roberta" || name == "camembert";
  throw Error(SQUEEZEBERT_UNSUPPORTED,
              root.place() + ": model_type is '" + name + "', expected squeezebert, bert, distilbert or electra" +
                  (is_roberta ? "; its tokenizer is byte pairs or SentencePiece, and here is WordPiece alone" : ""));
}

Activation read_activation(const JsonValue& root, const char* name) {
  const auto value = given(root, name);
  const std::string wanted(value ? value->string() : "gelu");
  for (const auto& row : kActivations) {
    if (wanted == row.name) return row.activation;
  }
  throw Error(SQUEEZEBERT_UNSUPPORTED, value->place() + " is '" + wanted + "', which no kernel applies");
}

// A name that ends in a NUL, as a caller in C gets it, must not hold one.
std::string checked_label(const JsonValue& name) {
  if (name.string().find('\0') != std::string_view::npos) name.refuse("a label without a NUL");
  return std::string(name.string());
}

// Reads id2label, label2id or num_labels.
std::vector<std::string> read_labels(const JsonValue& root) {
  std::map<int64_t, std::string> named;
  if (const auto names = given(root, "id2label")) {
    names->for_each_member([&](std::string_view key, const JsonValue& name) {
      int64_t index = -1;
      const auto parsed = std::from_chars(key.data(), key.data() + key.size(), index);
      if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size()) names->refuse("names by integer indices");
      named[index] = name.is_string() ? checked_label(name) : name.summary();
    });
  } else if (const auto indices = given(root, "label2id")) {
    indices->for_each_member([&](std::string_view name, const JsonValue& index) {
      if (name.find('\0') != name.npos) index.refuse("a label without a NUL");
      named[index.integer(0)] = name;
    });
  }
  std::vector<std::string> labels;
  if (named.empty()) {
    const int64_t count = size_of(root, "num_labels", 2);
    if (count > kMostUnnamedLabels) root.at("num_labels").refuse("at most 10000 where id2label doesn't name them");
    for (int64_t i = 0; i < count; ++i) labels.push_back("LABEL_" + std::to_string(i));
    return labels;
  }
  for (const auto& [index, name] : named) {
    if (index != static_cast<int64_t>(labels.size())) {
      throw Error(SQUEEZEBERT_BAD_FILE, root.place() + ": id2label has the index " + std::to_string(index) +
                                            ", expected 0 to " + std::to_string(named.size() - 1));
    }
    labels.push_back(name);
  }
  return labels;
}

squeezebert_kind read_kind(const JsonValue& root, size_t labels) {
  const auto problem = given(root, "problem_type");
  const std::string_view name = problem ? problem->string() : "";
  if (name == "regression" || labels == 1) return SQUEEZEBERT_REGRESSION;
  if (name == "multi_label_classification") return SQUEEZEBERT_MULTI_LABEL;
  if (name.empty() || name == "single_label_classification") return SQUEEZEBERT_SINGLE_LABEL;
  problem->refuse("regression, single_label_classification or multi_label_classification");
}

Head read_head(const std::string& architecture) {
  const size_t at = architecture.find("For");
  const std::string head = at == std::string::npos ? "" : architecture.substr(at + 3);
  if (head == "SequenceClassification") return Head::labels;
  return head == "MaskedLM" || head == "PreTraining" ? Head::words : Head::none;
}

void check_divides(const std::string& file, const char* name, int64_t divisor, int64_t size) {
  if (size % divisor == 0) return;
  throw Error(SQUEEZEBERT_BAD_FILE, file + ": " + name + " is " + std::to_string(divisor) + ", expected a divisor of " +
                                        std::to_string(size));
}

void read_groups(const JsonValue& root, Config& config) {
  const struct {
    const char* name;
    int64_t* groups;
    int64_t in, out;
  } rows[] = {
      {"q_groups", &config.groups.query, config.channels, config.channels},
      {"k_groups", &config.groups.key, config.channels, config.channels},
      {"v_groups", &config.groups.value, config.channels, config.channels},
      {"post_attention_groups", &config.groups.post_attention, config.channels, config.channels},
      {"intermediate_groups", &config.groups.intermediate, config.channels, config.hidden},
      {"output_groups", &config.groups.output, config.hidden, config.channels},
  };
  for (const auto& row : rows) {
    *row.groups = size_of(root, row.name, row.groups == &config.groups.post_attention ? 1 : 4);
    check_divides(root.place(), row.name, *row.groups, row.in);
    check_divides(root.place(), row.name, *row.groups, row.out);
  }
}

}  // namespace

Config read_config(const std::string& folder) {
  const Json json = Json::read(folder + "/config.json", kMostBytes);
  const JsonValue root = json.root();
  if (!root.is_object()) root.refuse("an object");
  Config config{};
  config.layout = read_layout(root);
  const SizeNames& names = config.layout->sizes;
  if (const auto architectures = given(root, "architectures")) {
    architectures->for_each_element([&](const JsonValue& name) {
      if (config.architecture.empty()) config.architecture = name.string();
    });
  }
  config.head = read_head(config.architecture);
  config.words = size_of(root, "vocab_size", 30522);
  config.positions = size_of(root, "max_position_embeddings", 512);
  config.token_types = names.token_types ? size_of(root, names.token_types, 2) : 1;
  config.channels = size_of(root, names.channels, 768);
  config.embedding_channels = size_of(root, names.embedding_channels, config.channels);
  config.layers = size_of(root, names.layers, 12, 0);
  config.heads = size_of(root, names.heads, 12);
  config.hidden = size_of(root, names.hidden, 3072);
  config.activation = read_activation(root, names.activation);
  config.embeddings_eps = eps_of(root, names.layer_norm_eps, 1e-12);
  config.layer_eps = config.layout->layers_have_eps ? config.embeddings_eps : 1e-12f;
  config.decoder_is_tied = flag(root, "tie_word_embeddings", true);
  check_divides(root.place(), names.heads, config.heads, config.channels);
  const bool is_squeezebert = config.layout == layout_of("squeezebert");
  if (is_squeezebert) {
    const auto size = given(root, "embedding_size");
    if (size && size->integer() != config.channels) size->refuse("the same as hidden_size");
    read_groups(root, config);
  }
  const auto positions = given(root, "position_embedding_type");
  if (positions && positions->string() != "absolute") {
    throw Error(SQUEEZEBERT_UNSUPPORTED, positions->place() + " is " + positions->summary() + ", expected 'absolute'");
  }
  for (const char* name :
       {"is_decoder", "add_cross_attention"}) {  // causal masks, and layers for another model's states
    if (!flag(root, name, false)) continue;
    throw Error(SQUEEZEBERT_UNSUPPORTED, root.at(name).place() + " is true, expected false: an encoder");
  }
  config.kind = SQUEEZEBERT_NO_LABELS;
  if (config.head == Head::labels) {
    config.labels = read_labels(root);
    config.kind = read_kind(root, config.labels.size());
  }
  if (const auto ours = given(root, "squeezebert_fast")) {
    if (const auto length = given(*ours, "max_length")) config.usual_length = length->integer(0, kMostOfAnything);
  }
  return config;
}

}  // namespace squeezebert
