#include "line_reader.h"

namespace squeezebert_run {

bool LineReader::next(std::string& line) {
  line.clear();
  too_long_ = false;
  int c = getc(stream_);
  if (c == EOF) return false;
  for (; c != EOF && c != '\n'; c = getc_unlocked(stream_)) {
    if (line.size() == most_bytes_) {
      too_long_ = true;
    } else {
      line.push_back(static_cast<char>(c));
    }
  }
  if (!too_long_ && !line.empty() && line.back() == '\r') line.pop_back();
  return true;
}

}  // namespace squeezebert_run
