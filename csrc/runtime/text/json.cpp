#include "json.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <new>
#include <vector>

#include "../status.h"
#include "read_file.h"
#include "utf8.h"
#include "yyjson.h"

namespace squeezebert {

struct JsonDocument {
  std::string name;
  std::string text;  // what yyjson took the strings from, and put them back into unescaped
  yyjson_doc* doc = nullptr;

  ~JsonDocument() { yyjson_doc_free(doc); }
};

namespace {

[[noreturn]] void refuse_text(const std::string& name, size_t at, const std::string& why) {
  throw Error(SQUEEZEBERT_BAD_FILE, name + " is not valid JSON: " + why + " at byte " + std::to_string(at));
}

// Before it is parsed, which takes 16 bytes for each bracket.
void check_depth(const std::string& name, std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char byte = text[at];
    if (in_string) {
      if (byte == '\\') ++at;
      if (byte == '"') in_string = false;
      continue;
    }
    if (byte == '"') in_string = true;
    if (byte == '[' || byte == '{') ++depth;
    if (byte == ']' || byte == '}') --depth;
    if (depth > Json::kMostDepth) {
      refuse_text(name, at, "nesting of more than " + std::to_string(Json::kMostDepth) + " levels");
    }
  }
}

std::string_view view(yyjson_val* value) { return {yyjson_get_str(value), yyjson_get_len(value)}; }

// Calls visit(name) for each name of an object.
template <class Visit>
void for_each_name(yyjson_val* object, Visit visit) {
  yyjson_obj_iter names = yyjson_obj_iter_with(object);
  while (yyjson_val* name = yyjson_obj_iter_next(&names)) visit(name);
}

void check_names(const JsonDocument& document, yyjson_val* object) {
  std::vector<std::string_view> names;
  names.reserve(yyjson_obj_size(object));
  for_each_name(object, [&](yyjson_val* name) { names.push_back(view(name)); });
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return;
  // The first of the two may not be the earlier one.
  const char* at = std::max(twice[0].data(), twice[1].data());
  refuse_text(document.name, static_cast<size_t>(at - document.text.data()),
              "the name " + quoted(*twice) + " for the second time in one object");
}

// The steps from `from` to `wanted`, which it holds: "model.vocab", "list[3]".
bool find_path(yyjson_val* from, yyjson_val* wanted, std::string* path) {
  if (from == wanted) return true;
  const size_t length = path->size();
  if (yyjson_is_obj(from)) {
    yyjson_obj_iter names = yyjson_obj_iter_with(from);
    while (yyjson_val* name = yyjson_obj_iter_next(&names)) {
      if (length > 0) *path += '.';
      *path += view(name);
      if (name == wanted || find_path(yyjson_obj_iter_get_val(name), wanted, path)) return true;
      path->resize(length);
    }
  } else if (yyjson_is_arr(from)) {
    yyjson_arr_iter elements = yyjson_arr_iter_with(from);
    for (size_t index = 0; yyjson_val* element = yyjson_arr_iter_next(&elements); ++index) {
      *path += '[' + std::to_string(index) + ']';
      if (find_path(element, wanted, path)) return true;
      path->resize(length);
    }
  }
  return false;
}

}  // namespace

Json::Json(std::unique_ptr<const JsonDocument> document) : document_(std::move(document)) {}
Json::Json(Json&&) noexcept = default;
Json& Json::operator=(Json&&) noexcept = default;
Json::~Json() = default;

Json Json::read(const std::string& path, size_t most_bytes) { return parse(read_file(path, most_bytes), path); }

std::optional<Json> Json::read_if_any(const std::string& path, size_t most_bytes) {
  std::optional<std::string> text = read_file_if_any(path, most_bytes);
  if (!text) return std::nullopt;
  return parse(*std::move(text), path);
}

Json Json::parse(std::string text, const std::string& name) {
  check_depth(name, text);
  auto document = std::make_unique<JsonDocument>();
  document->name = name;
  document->text = std::move(text);
  const size_t size = document->text.size();
  document->text.resize(size + YYJSON_PADDING_SIZE, '\0');
  yyjson_read_err error;
  document->doc = yyjson_read_opts(document->text.data(), size, YYJSON_READ_INSITU, nullptr, &error);
  if (document->doc == nullptr) {
    if (error.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION) throw std::bad_alloc();
    refuse_text(name, error.pos, error.msg);
  }
  // All values of a document are one array.
  yyjson_val* const values = yyjson_doc_get_root(document->doc);
  for (size_t index = 0; index < yyjson_doc_get_val_count(document->doc); ++index) {
    if (yyjson_is_obj(values + index)) check_names(*document, values + index);
  }
  return Json(std::move(document));
}

JsonValue Json::root() const { return {document_.get(), yyjson_doc_get_root(document_->doc)}; }

bool JsonValue::is_null() const { return yyjson_is_null(value_); }
bool JsonValue::is_boolean() const { return yyjson_is_bool(value_); }
bool JsonValue::is_number() const { return yyjson_is_num(value_); }
bool JsonValue::is_string() const { return yyjson_is_str(value_); }
bool JsonValue::is_array() const { return yyjson_is_arr(value_); }
bool JsonValue::is_object() const { return yyjson_is_obj(value_); }

bool JsonValue::boolean() const {
  if (!is_boolean()) refuse("true or false");
  return yyjson_get_bool(value_);
}

double JsonValue::number() const {
  if (!is_number()) refuse("a number");
  return yyjson_get_num(value_);
}

int64_t JsonValue::integer(int64_t least, int64_t most) const {
  std::string expected = "a whole number";
  if (least != INT64_MIN) expected += " of at least " + std::to_string(least);
  if (most != INT64_MAX) expected += (least != INT64_MIN ? " and at most " : " of at most ") + std::to_string(most);
  if (!is_number()) refuse(expected);
  int64_t result;
  if (yyjson_is_sint(value_)) {
    result = yyjson_get_sint(value_);
  } else if (yyjson_is_uint(value_)) {
    const uint64_t value = yyjson_get_uint(value_);
    if (value > static_cast<uint64_t>(INT64_MAX)) refuse(expected);
    result = static_cast<int64_t>(value);
  } else {
    constexpr double kBeyond = 9223372036854775808.0;  // 2^63
    const double value = yyjson_get_real(value_);
    if (!(value >= -kBeyond && value < kBeyond) || value != std::floor(value)) refuse(expected);
    result = static_cast<int64_t>(value);
  }
  if (result < least || result > most) refuse(expected);
  return result;
}

std::string_view JsonValue::string() const {
  if (!is_string()) refuse("a string");
  return view(value_);
}

size_t JsonValue::size() const { return yyjson_is_arr(value_) ? yyjson_arr_size(value_) : yyjson_obj_size(value_); }

std::optional<JsonValue> JsonValue::find(std::string_view name) const {
  if (!is_object()) refuse("an object");
  yyjson_val* found = yyjson_obj_getn(value_, name.data(), name.size());
  if (found == nullptr) return std::nullopt;
  return JsonValue(document_, found);
}

JsonValue JsonValue::at(std::string_view name) const {
  const std::optional<JsonValue> found = find(name);
  if (!found) throw Error(SQUEEZEBERT_BAD_FILE, place() + " has no " + quoted(name));
  return *found;
}

JsonValue JsonValue::first_child(bool of_object) const {
  if (of_object && !is_object()) refuse("an object");
  if (!of_object && !is_array()) refuse("a list");
  return {document_, size() == 0 ? value_ : unsafe_yyjson_get_first(value_)};
}

JsonValue JsonValue::value_of_name() const { return {document_, yyjson_obj_iter_get_val(value_)}; }
JsonValue JsonValue::next() const { return {document_, unsafe_yyjson_get_next(value_)}; }

void JsonValue::refuse(const std::string& expected) const {
  throw Error(SQUEEZEBERT_BAD_FILE, place() + " is " + summary() + "; expected " + expected);
}

std::string JsonValue::place() const {
  std::string path;
  find_path(yyjson_doc_get_root(document_->doc), value_, &path);
  if (path.empty()) return document_->name;
  const std::string shown = quoted(path);
  return document_->name + ": " + shown.substr(1, shown.size() - 2);
}

std::string JsonValue::summary() const {
  if (is_null()) return "null";
  if (is_boolean()) return yyjson_get_bool(value_) ? "true" : "false";
  if (is_array()) return "a list";
  if (is_object()) return "an object";
  if (is_string()) return quoted(view(value_));
  if (yyjson_is_uint(value_)) return std::to_string(yyjson_get_uint(value_));
  if (yyjson_is_sint(value_)) return std::to_string(yyjson_get_sint(value_));
  char text[32];
  std::snprintf(text, sizeof text, "%g", yyjson_get_real(value_));
  return text;
}

}  // namespace squeezebert
