// A safetensors file: eight bytes with the length of a JSON header, the header, and the tensors' bytes.
//
//   {"NAME": {"dtype": "F32", "shape": [2, 384], "data_offsets": [8, 3080]}, ..., "__metadata__": {"version": "1"}}
//
// Source: https://github.com/huggingface/safetensors, whose checks these are too.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "mapped_file.h"

namespace squeezebert {

enum class Dtype { float32, float16, bfloat16, int8, other };

struct StoredTensor {
  Dtype dtype;
  std::string dtype_name;  // as the file has it
  std::vector<int64_t> shape;
  const uint8_t* data;  // perhaps not aligned
  int64_t elements;

  std::string described() const;  // "F32 [2, 384]"
};

class Safetensors {
 public:
  // Every tensor's bytes lie in the file, as many as its shape says, one after the other. Throws Error.
  explicit Safetensors(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const StoredTensor* find(const std::string& name) const;  // or null
  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  MappedFile file_;
  std::map<std::string, StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

std::string shape_text(const std::vector<int64_t>& shape);  // "[2, 384]"

}  // namespace squeezebert
