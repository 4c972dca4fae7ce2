#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "status.h"

namespace squeezebert {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

[[noreturn]] void unreadable(const std::string& path, const char* reason) {
  throw Error(SQUEEZEBERT_NOT_FOUND, path + " can't be read: " + reason);
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor file(
      open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a named pipe would wait for its writer
  if (file.number() < 0) unreadable(path, std::strerror(errno));
  struct stat about;
  if (fstat(file.number(), &about) != 0) unreadable(path, std::strerror(errno));
  if (!S_ISREG(about.st_mode)) unreadable(path, "it is not a file");
  size_ = static_cast<size_t>(about.st_size);
  if (size_ == 0) return;  // of which there is no mapping
  void* memory = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number(), 0);
  if (memory == MAP_FAILED) unreadable(path, std::strerror(errno));
  data_ = static_cast<const uint8_t*>(memory);
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<uint8_t*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

bool exists(const std::string& path) {
  struct stat about;
  return stat(path.c_str(), &about) == 0;
}

}  // namespace squeezebert
