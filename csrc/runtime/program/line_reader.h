// Lines of a stream, of which none may use up the memory.
#pragma once
#include <cstddef>
#include <cstdio>
#include <string>

namespace squeezebert_run {

class LineReader {
 public:
  LineReader(std::FILE* stream, size_t most_bytes) : stream_(stream), most_bytes_(most_bytes) {}

  // False at the end of the stream. The line comes without its "\n" or "\r\n". Of one with more than most_bytes, no
  // more than that is kept, and too_long() is true.
  bool next(std::string& line);
  bool too_long() const { return too_long_; }
  bool failed() const { return std::ferror(stream_) != 0; }

 private:
  std::FILE* stream_;
  size_t most_bytes_;
  bool too_long_ = false;
};

}  // namespace squeezebert_run
