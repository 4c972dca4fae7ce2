// Ids of a text, of which a row has room for the first or last few alone.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace squeezebert {

// Counts all ids, and keeps those that may be needed: in all at most twice as many.
class IdSink {
 public:
  IdSink(int64_t room, bool keep_last) : room_(room), keep_last_(keep_last) {}

  void put(int64_t id) {
    ++count_;
    if (!keep_last_) {
      if (count_ <= room_) kept_.push_back(id);
      return;
    }
    kept_.push_back(id);
    if (static_cast<int64_t>(kept_.size()) / 2 > room_) kept_.erase(kept_.begin(), kept_.end() - room_);
  }

  int64_t count() const { return count_; }

  // Whether no further id would be kept.
  bool is_full() const { return !keep_last_ && count_ >= room_; }

  // The first `length` ids, or the last; length <= room, count().
  const int64_t* part(int64_t length) const { return keep_last_ ? kept_.data() + kept_.size() - length : kept_.data(); }

 private:
  int64_t room_;
  bool keep_last_;
  int64_t count_ = 0;
  std::vector<int64_t> kept_;
};

}  // namespace squeezebert
