// A file in memory, read as it is needed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace squeezebert {

// Read-only. A file that somebody shortens meanwhile ends the process (SIGBUS), as with every mapping.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // throws Error
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Whether there is something of that name.
bool exists(const std::string& path);

}  // namespace squeezebert
