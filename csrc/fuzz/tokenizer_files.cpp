// Folders of a tokenizer: files in one text, see unpack().
#include <string>

#include "../runtime/text/tokenizer.h"
#include "support.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace squeezebert;
  static fuzz::Folder folder;
  folder.clear();
  for (const auto& [name, content] : fuzz::unpack(
           fuzz::text_of(data, size),
           {"vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"})) {
    folder.write(name, content);
  }
  fuzz::answers([&] {
    const Tokenizer tokenizer(folder.path());
    const std::string_view second = "and  that, \xE4\xB8\xAD\xC3\xA9";
    for (const int64_t most : {int64_t{4}, Tokenizer::kUnlimited}) {
      const Encoding row = tokenizer.encode(" Hello[MASK] unaffable <e> new_tok [NEW]!", &second, most);
      for (const int64_t id : row.ids) fuzz::require(id >= 0 && id < tokenizer.size(), "an id is out of range");
    }
    fuzz::require(tokenizer.pad_id() < tokenizer.size() && tokenizer.mask_id() < tokenizer.size(),
                  "an id is too large");
    for (int64_t id = -1; id < 40; ++id) tokenizer.token(id);
  });
  return 0;
}
