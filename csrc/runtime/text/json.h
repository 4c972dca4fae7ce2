// JSON files that may be damaged: a typed reader, over yyjson. Every fault is an Error (../status.h) whose message
// names the file and the place in it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

struct yyjson_val;

namespace squeezebert {

struct JsonDocument;

// A value in a Json, which must outlive it and the strings that it gives.
class JsonValue {
 public:
  bool is_null() const;
  bool is_boolean() const;
  bool is_number() const;
  bool is_string() const;
  bool is_array() const;
  bool is_object() const;

  // The value, or an error that names the place, what is there and what was expected.
  bool boolean() const;
  double number() const;
  // A whole number; 1e3 and 2.0 are some too.
  int64_t integer(int64_t least = INT64_MIN, int64_t most = INT64_MAX) const;
  std::string_view string() const;  // valid UTF-8, which may hold a NUL

  size_t size() const;  // how many members an object has, or elements an array

  // A member of an object; nothing where it has none of that name. at() takes that for an error.
  std::optional<JsonValue> find(std::string_view name) const;
  JsonValue at(std::string_view name) const;

  // Calls visit(name, value) for each member of an object, in order.
  template <class Visit>
  void for_each_member(Visit visit) const {
    JsonValue name = first_child(true), value = name;
    for (size_t left = size(); left > 0; --left) {
      value = name.value_of_name();
      visit(name.string(), value);
      name = value.next();
    }
  }

  // Calls visit(value) for each element of an array, in order.
  template <class Visit>
  void for_each_element(Visit visit) const {
    JsonValue value = first_child(false);
    for (size_t left = size(); left > 0; --left) {
      visit(value);
      value = value.next();
    }
  }

  // "FILE: model.vocab is a list, expected an object": what a caller finds wrong, in the same words.
  [[noreturn]] void refuse(const std::string& expected) const;
  std::string place() const;    // "FILE: model.vocab"
  std::string summary() const;  // "a list", "'a string'", "12"

 private:
  friend class Json;
  JsonValue(const JsonDocument* document, yyjson_val* value) : document_(document), value_(value) {}
  JsonValue first_child(bool of_object) const;
  JsonValue value_of_name() const;
  JsonValue next() const;

  const JsonDocument* document_;
  yyjson_val* value_;
};

// A whole document. Refused are, beside what isn't JSON (RFC 8259): invalid UTF-8, names that come twice in an object,
// numbers beyond double, values nested more than kMostDepth deep, and files beyond the size that the caller allows.
class Json {
 public:
  static constexpr int kMostDepth = 64;

  static Json read(const std::string& path, size_t most_bytes);
  // The same; nothing where there is no file of that name.
  static std::optional<Json> read_if_any(const std::string& path, size_t most_bytes);
  // `name` stands for the file in messages.
  static Json parse(std::string text, const std::string& name);

  Json(Json&&) noexcept;
  Json& operator=(Json&&) noexcept;
  ~Json();

  JsonValue root() const;

 private:
  explicit Json(std::unique_ptr<const JsonDocument> document);
  std::unique_ptr<const JsonDocument> document_;
};

}  // namespace squeezebert
