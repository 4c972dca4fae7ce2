// What texts begin with in sentence-transformers' models: prompts of config_sentence_transformers.json.
#pragma once
#include <string>

#include "text/json.h"

namespace squeezebert {

// The default one of the file's content; "" where there is none.
std::string default_prompt(const JsonValue& about);

}  // namespace squeezebert
