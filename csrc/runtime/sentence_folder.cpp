#include "sentence_folder.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "mapped_file.h"
#include "prompts.h"
#include "status.h"
#include "text/json.h"

namespace squeezebert {
namespace {

constexpr size_t kMostBytes = 16 << 20;
constexpr int64_t kMostTokens = 1 << 24;
constexpr const char* kTransformerConfigs[] = {"sentence_bert_config.json", "sentence_roberta_config.json",
                                               "sentence_distilbert_config.json", "sentence_camembert_config.json",
                                               "sentence_xlm-roberta_config.json"};
constexpr std::string_view kLegacyPooling = "pooling_mode_";

struct Module {
  std::string kind, place;  // the class's name without its library, and the folder that it is in
};

bool is_safe(std::string_view place) {  // no way out of the folder
  if (place.empty()) return true;
  if (place.front() == '/' || place.find('\\') != std::string_view::npos) return false;
  for (size_t begin = 0; begin <= place.size();) {
    const size_t end = std::min(place.find('/', begin), place.size());
    const std::string_view part = place.substr(begin, end - begin);
    if (part.empty() || part.front() == '.') return false;
    begin = end + 1;
  }
  return true;
}

Module read_module(const JsonValue& entry) {
  const std::string kind(entry.at("type").string()), place(entry.at("path").string());
  if (!is_safe(place)) entry.at("path").refuse("a path in the folder");
  if (kind.rfind("sentence_transformers.", 0) != 0) {
    entry.at("type").refuse("a class of sentence_transformers: code of the folder's own isn't run");
  }
  return {kind.substr(kind.rfind('.') + 1), place};
}

std::string path_of(const std::string& folder, const std::string& place) {
  return place.empty() ? folder : folder + "/" + place;
}

std::string is_text(const JsonValue& value) {
  return value.is_string() ? std::string(value.string()) : value.summary();
}

void read_transformer(SentenceFolder& found) {
  for (const char* name : kTransformerConfigs) {
    const std::string path = found.transformer + "/" + name;
    if (!exists(path)) continue;
    const Json json = Json::read(path, kMostBytes);
    json.root().for_each_member([&](std::string_view field, const JsonValue& value) {
      if (value.is_null()) return;
      if (field == "max_seq_length") {
        found.max_length = value.integer(0, kMostTokens);
      } else if (field == "do_lower_case" && value.boolean()) {
        found.beyond = "do_lower_case of its transformer is true";
      }
    });
    return;
  }
}

void read_pooling(const std::string& path, SentenceFolder& found) {
  std::vector<std::string> modes;
  if (exists(path)) {
    const Json json = Json::read(path, kMostBytes);
    const JsonValue root = json.root();
    root.for_each_member([&](std::string_view field, const JsonValue& value) {
      if (field.substr(0, kLegacyPooling.size()) == kLegacyPooling && value.boolean()) {
        modes.emplace_back(field.substr(kLegacyPooling.size()));
      }
      if (field == "include_prompt" && !value.boolean()) found.beyond = "include_prompt of its pooling is false";
    });
    if (const auto mode = root.find("pooling_mode")) {
      modes.clear();
      if (mode->is_array()) {
        mode->for_each_element([&](const JsonValue& each) { modes.push_back(is_text(each)); });
      } else {
        modes.push_back(is_text(*mode));
      }
    }
  }
  const std::string mode = modes.empty() ? "mean" : modes.size() == 1 ? modes.front() : "several at once";
  found.first_token = mode == "cls" || mode == "cls_token";
  if (!found.first_token && mode != "mean" && mode != "mean_tokens") found.beyond = "its pooling is " + mode;
}

}  // namespace

SentenceFolder read_sentence_folder(const std::string& folder) {
  SentenceFolder found;
  found.transformer = folder;
  const std::string path = folder + "/modules.json";
  if (!exists(path)) return found;
  found.is_one = true;
  const Json json = Json::read(path, kMostBytes);
  std::vector<Module> modules;
  json.root().for_each_element([&](const JsonValue& entry) { modules.push_back(read_module(entry)); });
  if (modules.empty() || modules.front().kind != "Transformer") json.root().refuse("a Transformer first");
  found.transformer = path_of(folder, modules.front().place);
  std::string kinds;
  for (const Module& module : modules) kinds += (kinds.empty() ? "" : ", ") + module.kind;
  if (kinds != "Transformer, Pooling" && kinds != "Transformer, Pooling, Normalize") {
    found.beyond = "its modules are " + kinds;
    return found;
  }
  read_transformer(found);
  read_pooling(path_of(folder, modules[1].place) + "/config.json", found);
  found.normalize = modules.size() == 3;
  const std::string about = folder + "/config_sentence_transformers.json";
  if (exists(about)) found.prompt = default_prompt(Json::read(about, kMostBytes).root());
  return found;
}

}  // namespace squeezebert
