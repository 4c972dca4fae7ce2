// Memory that calls work in or pack weights into: aligned, reused by the calls that follow, and given back when it is
// large.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace squeezebert {

// Aligned to a cache line, and large ones to what the kernel can back by huge pages. Throws std::bad_alloc.
class AlignedMemory {
 public:
  AlignedMemory() = default;
  explicit AlignedMemory(int64_t bytes);
  char* data() const { return memory_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(char* p) const;
  };
  std::unique_ptr<char, Free> memory_;
  int64_t bytes_ = 0;
};

// The memory of one call. Calls at the same time each have their own.
class Workspace {
 public:
  explicit Workspace(int64_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  char* data() const { return memory_.data(); }

 private:
  AlignedMemory memory_;
};

// Memory that is kept for the next one of the same size when it is given up: training packs the same shapes at every
// step, and to the pages of new memory the kernel must write zeros first. Of `PackedSegments`, encoders' too.
class RecycledMemory {
 public:
  RecycledMemory() = default;
  explicit RecycledMemory(int64_t bytes);
  ~RecycledMemory();
  RecycledMemory(RecycledMemory&&) = default;
  RecycledMemory& operator=(RecycledMemory&& other) noexcept;
  char* data() const { return memory_.data(); }
  int64_t bytes() const { return memory_.bytes(); }

 private:
  void give_up();
  AlignedMemory memory_;
};

}  // namespace squeezebert
