#include "fingerprint.h"

#include <algorithm>
#include <cstring>

#include "sizes.h"
#include "thread_team.h"

namespace squeezebert {
namespace {

constexpr int64_t kShareOfOneThread = 2 << 20;  // a tenth of a millisecond: others aren't worth waking

uint32_t bits_at(const float* value) {
  uint32_t bits;
  std::memcpy(&bits, value, sizeof bits);
  return bits;
}

// For a given sum it maps words one to one, and for a given word sums: once two sums differ, equal words that follow
// keep them apart.
uint64_t mix(uint64_t sum, uint64_t word) {
  sum += word;
  sum ^= sum >> 31;
  return sum + (sum << 9);
}

// Depends on where each value stands. A change of one word shows for certain, since `mix` can't undo it; others but for
// one in 2^64.
uint64_t checksum(const float* values, int64_t size) {
  constexpr int64_t kLanes = 8, kStep = kLanes * 2;  // words of two values side by side, for vector instructions
  uint64_t sums[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] = static_cast<uint64_t>(lane + 1) * 0x9e3779b97f4a7c15;
  const auto add = [&](const float* from) {
    uint64_t words[kLanes];
    std::memcpy(words, from, sizeof words);
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] = mix(sums[lane], words[lane]);
  };
  int64_t i = 0;
  for (; i + kStep <= size; i += kStep) add(values + i);
  if (i < size) {
    float rest[kStep] = {};
    std::memcpy(rest, values + i, static_cast<std::size_t>(size - i) * sizeof(float));
    add(rest);
  }
  uint64_t sum = 0;
  for (const uint64_t each : sums) sum = mix(sum, each);
  return sum;
}

}  // namespace

Fingerprint::Fingerprint(const std::vector<Tensor>& tensors, int64_t samples, int threads) {
  for (const auto& [values, size, span] : tensors) {
    const int64_t count = std::min(samples, size);
    // For a [768, 192] weight and 64 samples: 64 rows at varying columns.
    for (int64_t i = 0; i < count; ++i) {
      const float* at = values + (2 * i + 1) * size / (2 * count);
      elements_.push_back({at, bits_at(at)});
    }
    for (int64_t i = 0; span > 0 && i < size; i += span) {
      spans_.push_back({values + i, std::min(span, size - i), 0});
      bytes_ += spans_.back().size * static_cast<int64_t>(sizeof(float));
    }
  }
  run_tasks(static_cast<int64_t>(spans_.size()), threads, [&](int64_t i) {
    Span& span = spans_[static_cast<std::size_t>(i)];
    span.checksum = checksum(span.at, span.size);
  });
}

bool Fingerprint::match(int64_t rows, int threads) {
  const auto same = [](const Element& e) { return bits_at(e.at) == e.bits; };
  if (!std::all_of(elements_.begin(), elements_.end(), same)) return false;
  const auto all = static_cast<int64_t>(spans_.size());
  if (all == 0) return true;
  // Rounded up, so that a round leaves none out.
  const int64_t share = divide_up(all * std::min(rows, kRowsForAll), kRowsForAll);
  const int64_t least = divide_up(all * kLeastBytes, bytes_);
  const int64_t count = std::min(all, std::max(share, least));
  const int64_t first = next_.fetch_add(count, std::memory_order_relaxed);
  std::atomic<bool> unchanged{true};
  run_tasks(count, bytes_ / all * count < kShareOfOneThread ? 1 : threads, [&](int64_t i) {
    const Span& span = spans_[static_cast<std::size_t>(first + i) % spans_.size()];
    if (checksum(span.at, span.size) != span.checksum) unchanged.store(false, std::memory_order_relaxed);
  });
  return unchanged;
}

bool Fingerprint::spans_match(const int64_t* indices, int64_t count) const {
  return std::all_of(indices, indices + count, [&](int64_t index) {
    if (index < 0 || index >= static_cast<int64_t>(spans_.size())) return false;
    const Span& span = spans_[static_cast<std::size_t>(index)];
    return checksum(span.at, span.size) == span.checksum;
  });
}

}  // namespace squeezebert
