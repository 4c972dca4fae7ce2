// A hash table from tokens to ids, for vocabularies that may come from an enemy: looking up takes kMostProbes
// comparisons of a tag at most, whatever the tokens are.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace squeezebert {

class TokenTable {
 public:
  // A hash that is made byte by byte, so that all prefixes of a word cost no more than the word.
  class Hash {
   public:
    void add(char byte) { state_ = (state_ ^ static_cast<unsigned char>(byte)) * 0x9E3779B97F4A7C15u; }
    void add(std::string_view text) {
      for (const char byte : text) add(byte);
    }

   private:
    friend class TokenTable;
    explicit Hash(uint64_t seed) : state_(seed) {}
    uint64_t finished() const;
    uint64_t state_;
  };

  // Tokens that are equal keep the id of the last. The views must outlive the table. Throws Error for tokens that
  // nobody but an enemy would choose.
  explicit TokenTable(const std::vector<std::string_view>& tokens, const std::vector<int64_t>& ids);

  int64_t find(std::string_view token) const;  // -1 if there is none
  // The same of prefix + rest, of which `hash` was made.
  int64_t find(const Hash& hash, std::string_view prefix, std::string_view rest) const;
  Hash begin_hash() const { return Hash(seed_); }
  size_t longest() const { return longest_; }  // token, in bytes

 private:
  struct Slot {
    uint32_t tag = 0;
    uint32_t entry = 0;  // and 1; 0 for none
  };
  struct Entry {
    std::string_view token;
    int64_t id;
  };

  bool fill(const std::vector<std::string_view>& tokens, const std::vector<int64_t>& ids);

  uint64_t seed_ = 0;
  uint64_t mask_ = 0;
  size_t longest_ = 0;
  std::vector<Slot> slots_;
  std::vector<Entry> entries_;
};

}  // namespace squeezebert
