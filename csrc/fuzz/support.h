// What the fuzz targets share. A target is a program for libFuzzer, which gives LLVMFuzzerTestOneInput bytes;
// replay.cpp gives it files, without clang.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../runtime/status.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace squeezebert::fuzz {

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Calls work(). An Error is an answer, with a code and one line; anything else that is thrown is a fault.
template <class Work>
bool answers(Work work) {
  try {
    work();
    return true;
  } catch (const Error& error) {
    const std::string_view message = error.what();
    require(error.code() != SQUEEZEBERT_OK && error.code() != SQUEEZEBERT_INTERNAL, "an error has no proper code");
    require(!message.empty() && message.find('\n') == message.npos, "a message isn't one line");
    return false;
  }
}

// A folder of this process, gone at its end.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::string& path() const { return path_; }
  void write(const std::string& name, std::string_view content);
  void clear();

 private:
  std::string path_;
  std::vector<std::string> names_;
};

// Files in one text, each below a line "%% NAME". Those of other names than `known` are left out.
std::vector<std::pair<std::string, std::string_view>> unpack(std::string_view text,
                                                             const std::vector<std::string_view>& known);

}  // namespace squeezebert::fuzz
