#include "workspace.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "sizes.h"

namespace squeezebert {
namespace {

constexpr std::size_t kHugePage = 2 << 20;
constexpr std::size_t kKept = 4;            // workspaces, for as many callers at once
constexpr int64_t kLargestKept = 64 << 20;  // bytes
// Of weights packed for a training step, a layer's feed-forward block has the most: 7 MB in the base model.
constexpr int64_t kLargestRecycled = 16 << 20, kRecycledBytes = 32 << 20;

std::mutex kept_mutex, recycled_mutex;
// Never destroyed: calls may outlive static objects.
std::vector<AlignedMemory>& kept() {
  static auto* memory = new std::vector<AlignedMemory>;
  return *memory;
}
std::vector<AlignedMemory>& recycled() {  // the longest there first
  static auto* memory = new std::vector<AlignedMemory>;
  return *memory;
}

}  // namespace

void AlignedMemory::Free::operator()(char* p) const { std::free(p); }

AlignedMemory::AlignedMemory(int64_t bytes) : bytes_(bytes) {
  const auto size = static_cast<std::size_t>(std::max<int64_t>(bytes, 1));
  const std::size_t alignment = size >= kHugePage ? kHugePage : kCacheLine;
  const auto rounded = static_cast<std::size_t>(aligned(static_cast<int64_t>(size)));
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, rounded) != 0) throw std::bad_alloc();
  memory_.reset(static_cast<char*>(memory));
#ifdef MADV_HUGEPAGE
  // Weights are read from end to end: with small pages, address translation is a part of the time.
  if (alignment == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);
#endif
}

// try_lock: a child forked while another thread held the lock would wait for ever.
Workspace::Workspace(int64_t bytes) {
  std::unique_lock<std::mutex> lock(kept_mutex, std::try_to_lock);
  if (lock.owns_lock()) {
    for (AlignedMemory& memory : kept()) {
      if (memory.bytes() >= bytes) {
        memory_ = std::exchange(memory, std::move(kept().back()));
        kept().pop_back();
        return;
      }
    }
    lock.unlock();
  }
  memory_ = AlignedMemory(bytes);
}

Workspace::~Workspace() {
  if (memory_.bytes() > kLargestKept) return;
  std::unique_lock<std::mutex> lock(kept_mutex, std::try_to_lock);
  if (!lock.owns_lock()) return;
  std::vector<AlignedMemory>& all = kept();
  if (all.size() < kKept) {
    all.push_back(std::move(memory_));
    return;
  }
  const auto smallest = std::min_element(
      all.begin(), all.end(), [](const AlignedMemory& a, const AlignedMemory& b) { return a.bytes() < b.bytes(); });
  if (smallest->bytes() < memory_.bytes()) std::swap(*smallest, memory_);
}

RecycledMemory::RecycledMemory(int64_t bytes) {
  std::unique_lock<std::mutex> lock(recycled_mutex, std::try_to_lock);
  if (lock.owns_lock()) {
    std::vector<AlignedMemory>& all = recycled();
    const auto same =
        std::find_if(all.rbegin(), all.rend(), [&](const AlignedMemory& memory) { return memory.bytes() == bytes; });
    if (same != all.rend()) {
      memory_ = std::move(*same);
      all.erase(std::next(same).base());
      return;
    }
    lock.unlock();
  }
  memory_ = AlignedMemory(bytes);
}

RecycledMemory::~RecycledMemory() { give_up(); }

RecycledMemory& RecycledMemory::operator=(RecycledMemory&& other) noexcept {
  if (this != &other) {
    give_up();
    memory_ = std::move(other.memory_);
  }
  return *this;
}

void RecycledMemory::give_up() {
  if (!memory_.data() || memory_.bytes() > kLargestRecycled) return;
  std::unique_lock<std::mutex> lock(recycled_mutex, std::try_to_lock);
  if (!lock.owns_lock()) return;
  std::vector<AlignedMemory>& all = recycled();
  int64_t bytes = memory_.bytes();
  for (const AlignedMemory& memory : all) bytes += memory.bytes();
  auto first = all.begin();
  for (; bytes > kRecycledBytes; ++first) bytes -= first->bytes();
  all.erase(all.begin(), first);
  all.push_back(std::move(memory_));
}

}  // namespace squeezebert
