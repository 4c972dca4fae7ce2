#include "token_table.h"

#include <algorithm>

#include "../status.h"

namespace squeezebert {
namespace {

// In a table that is half full, chance alone makes a run of 85 slots once in ten million tokens.
constexpr int kMostProbes = 128;
// Other seeds are tried where more tokens collide; who can make them collide for each gets an error.
constexpr uint64_t kSeeds = 8;

}  // namespace

uint64_t TokenTable::Hash::finished() const {
  uint64_t value = state_;
  value = (value ^ value >> 32) * 0xD6E8FEB86659FD93u;
  value = (value ^ value >> 32) * 0xD6E8FEB86659FD93u;
  return value ^ value >> 32;
}

TokenTable::TokenTable(const std::vector<std::string_view>& tokens, const std::vector<int64_t>& ids) {
  uint64_t slots = 16;
  while (slots < 2 * tokens.size()) slots *= 2;
  mask_ = slots - 1;
  entries_.reserve(tokens.size());
  for (const std::string_view token : tokens) longest_ = std::max(longest_, token.size());
  for (uint64_t attempt = 1; attempt <= kSeeds; ++attempt) {
    seed_ = attempt * 0xA0761D6478BD642Fu;
    slots_.assign(slots, Slot{});
    entries_.clear();
    if (fill(tokens, ids)) return;
  }
  throw Error(SQUEEZEBERT_BAD_FILE, "the vocabulary's tokens are chosen to collide; expected another vocabulary");
}

bool TokenTable::fill(const std::vector<std::string_view>& tokens, const std::vector<int64_t>& ids) {
  for (size_t index = 0; index < tokens.size(); ++index) {
    Hash hash = begin_hash();
    hash.add(tokens[index]);
    const uint64_t value = hash.finished();
    const auto tag = static_cast<uint32_t>(value >> 32);
    int probes = 0;
    for (uint64_t at = value & mask_;; at = (at + 1) & mask_) {
      if (++probes > kMostProbes) return false;
      Slot& slot = slots_[at];
      if (slot.entry == 0) {
        entries_.push_back({tokens[index], ids[index]});
        slot = {tag, static_cast<uint32_t>(entries_.size())};
        break;
      }
      Entry& entry = entries_[slot.entry - 1];
      if (slot.tag == tag && entry.token == tokens[index]) {
        entry.id = ids[index];
        break;
      }
    }
  }
  return true;
}

int64_t TokenTable::find(std::string_view token) const {
  Hash hash = begin_hash();
  hash.add(token);
  return find(hash, {}, token);
}

int64_t TokenTable::find(const Hash& hash, std::string_view prefix, std::string_view rest) const {
  const uint64_t value = hash.finished();
  const auto tag = static_cast<uint32_t>(value >> 32);
  for (uint64_t at = value & mask_; slots_[at].entry != 0; at = (at + 1) & mask_) {
    if (slots_[at].tag != tag) continue;
    const Entry& entry = entries_[slots_[at].entry - 1];
    if (entry.token.size() == prefix.size() + rest.size() && entry.token.substr(0, prefix.size()) == prefix &&
        entry.token.substr(prefix.size()) == rest) {
      return entry.id;
    }
  }
  return -1;
}

}  // namespace squeezebert
