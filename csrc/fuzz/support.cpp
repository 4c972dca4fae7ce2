#include "support.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace squeezebert::fuzz {
namespace {

constexpr const char* kInner = "/1_Pooling";  // the folder within one of sentence-transformers

}  // namespace

Folder::Folder() {
  // In memory where there is such a place: thousands of files are written each second.
  const char* parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
  path_ = std::string(parent) + "/squeezebert-fuzz-XXXXXX";
  require(mkdtemp(path_.data()) != nullptr, "no folder could be made");
  require(mkdir((path_ + kInner).c_str(), 0700) == 0, "no folder could be made");
}

Folder::~Folder() {
  clear();
  rmdir((path_ + kInner).c_str());
  rmdir(path_.c_str());
}

void Folder::write(const std::string& name, std::string_view content) {
  names_.push_back(name);
  std::FILE* file = std::fopen((path_ + "/" + name).c_str(), "wb");
  require(file != nullptr, "no file could be made");
  require(std::fwrite(content.data(), 1, content.size(), file) == content.size(), "a file could not be written");
  require(std::fclose(file) == 0, "a file could not be written");
}

void Folder::clear() {
  for (const std::string& name : names_) unlink((path_ + "/" + name).c_str());
  names_.clear();
}

std::vector<std::pair<std::string, std::string_view>> unpack(std::string_view text,
                                                             const std::vector<std::string_view>& known) {
  constexpr std::string_view kMark = "%% ";
  std::vector<std::pair<std::string, std::string_view>> files;
  const auto next_mark = [&](size_t from) {
    if (from == 0 && text.substr(0, kMark.size()) == kMark) return from;
    const size_t found = text.find("\n%% ", from);
    return found == text.npos ? text.size() : found + 1;
  };
  for (size_t at = next_mark(0); at < text.size();) {
    const size_t line_end = std::min(text.find('\n', at), text.size());
    const std::string_view name = text.substr(at + kMark.size(), line_end - at - kMark.size());
    const size_t end = next_mark(line_end);
    const size_t begin = std::min(line_end + 1, end);
    // The newline before a mark is the mark's.
    const size_t stop = end < text.size() && end > begin ? end - 1 : end;
    if (std::find(known.begin(), known.end(), name) != known.end()) {
      files.emplace_back(name, text.substr(begin, stop - begin));
    }
    at = end;
  }
  return files;
}

}  // namespace squeezebert::fuzz
