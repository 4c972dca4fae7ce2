// Folders of a model: files in one text, see unpack(). By the C API, as an application opens them.
#include <string>
#include <vector>

#include "../runtime/squeezebert.h"
#include "support.h"

namespace {

using squeezebert::fuzz::require;

void check(squeezebert_status status) {
  if (status == SQUEEZEBERT_OK) return;
  const std::string_view message = squeezebert_last_error();
  require(status != SQUEEZEBERT_INTERNAL, "a call ended in an internal error");
  require(!message.empty() && message.find('\n') == message.npos, "a message isn't one line");
}

void use(squeezebert_model* model) {
  constexpr std::string_view kText = "Hello [MASK] world, unaffable!", kSecond = "and that";
  const size_t labels = squeezebert_label_count(model), channels = squeezebert_embedding_size(model);
  for (size_t index = 0; index <= labels; ++index) squeezebert_label(model, index);
  squeezebert_label_kind(model);
  std::vector<float> logits(labels), scores(labels), vector(channels);
  check(squeezebert_classify(model, kText.data(), kText.size(), nullptr, 0, logits.data(), scores.data()));
  check(
      squeezebert_classify(model, kText.data(), kText.size(), kSecond.data(), kSecond.size(), logits.data(), nullptr));
  check(squeezebert_embed(model, kText.data(), kText.size(), 1, vector.data()));
  std::vector<squeezebert_candidate> candidates(4);
  size_t masks = 0;
  check(squeezebert_fill_mask(model, kText.data(), kText.size(), 2, candidates.data(), candidates.size(), &masks));
  std::vector<int64_t> ids(64);
  size_t count = 0;
  check(squeezebert_tokenize(model, kText.data(), kText.size(), nullptr, 0, ids.data(), nullptr, ids.size(), &count));
  const int64_t asked[] = {0, 3, -1, int64_t{1} << 40};
  std::vector<float> states(4 * channels);
  for (const size_t some : {1, 2, 4}) check(squeezebert_hidden_states(model, asked, nullptr, some, states.data()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static squeezebert::fuzz::Folder folder;
  folder.clear();
  for (const auto& [name, content] : squeezebert::fuzz::unpack(
           squeezebert::fuzz::text_of(data, size),
           {"config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
            "model.safetensors", "model_int8.safetensors", "modules.json", "1_Pooling/config.json",
            "sentence_bert_config.json", "config_sentence_transformers.json"})) {
    folder.write(name, content);
  }
  squeezebert_model* model = nullptr;
  const squeezebert_status status = squeezebert_open(folder.path().c_str(), nullptr, &model);
  check(status);
  if (status != SQUEEZEBERT_OK) return 0;
  squeezebert_set_threads(model, 1);
  use(model);
  squeezebert_close(model);
  return 0;
}
