// A vocabulary: which token has which id.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"
#include "token_table.h"

namespace squeezebert {

class Vocabulary {
 public:
  // Of a vocab.txt, one token a line, whose id is the line's number from 0. Of equal lines the last counts, and an
  // empty one is the token "", which no text has. A byte order mark at the start is skipped.
  static Vocabulary read_lines(const std::string& path);

  // Of an object from tokens to ids, each of its own.
  static Vocabulary of_object(const JsonValue& object);

  // Move-only: the table looks into the text.
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  int64_t find(std::string_view token) const { return table_.find(token); }  // -1 if there is none
  std::optional<std::string_view> token(int64_t id) const;
  int64_t size() const { return static_cast<int64_t>(by_id_.size()); }  // the highest id, and 1
  const TokenTable& table() const { return table_; }

 private:
  Vocabulary(std::unique_ptr<const std::string> text, const std::vector<std::string_view>& tokens,
             const std::vector<int64_t>& ids);

  std::unique_ptr<const std::string> text_;
  TokenTable table_;
  std::vector<std::string_view> by_id_;  // without data where no token has the id
};

}  // namespace squeezebert
