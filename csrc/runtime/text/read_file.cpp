#include "read_file.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "../status.h"

namespace squeezebert {
namespace {

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

[[noreturn]] void cannot_read(const std::string& path, int error) {
  throw Error(SQUEEZEBERT_NOT_FOUND, path + " can't be read: " + std::strerror(error));
}

}  // namespace

std::optional<std::string> read_file_if_any(const std::string& path, size_t most_bytes) {
  // Before it is opened, which for a pipe would wait until something is written to it.
  struct stat about;
  if (stat(path.c_str(), &about) != 0) {
    if (errno == ENOENT) return std::nullopt;
    cannot_read(path, errno);
  }
  if (!S_ISREG(about.st_mode)) throw Error(SQUEEZEBERT_NOT_FOUND, path + " isn't a file");
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  if (file == nullptr) cannot_read(path, errno);
  std::string content;
  // What is read counts and not the size that the file had: it may grow meanwhile, and /proc says 0.
  for (char part[1 << 16];;) {
    const size_t got = std::fread(part, 1, sizeof part, file.get());
    if (got == 0) break;
    if (got > most_bytes - content.size()) {
      throw Error(SQUEEZEBERT_BAD_FILE, path + " is larger than " + std::to_string(most_bytes) +
                                            " bytes, the most that is expected of such a file");
    }
    content.append(part, got);
  }
  if (std::ferror(file.get())) cannot_read(path, errno);
  return content;
}

std::string read_file(const std::string& path, size_t most_bytes) {
  std::optional<std::string> content = read_file_if_any(path, most_bytes);
  if (!content) throw Error(SQUEEZEBERT_NOT_FOUND, path + " isn't there");
  return *std::move(content);
}

}  // namespace squeezebert
