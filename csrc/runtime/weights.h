// A checkpoint's tensors by the names that a model has for them, checked against the shapes that it expects.
#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "safetensors.h"

namespace squeezebert {

// A matrix as the kernels take it: floats, or ints with a scale for each row and block of columns.
struct Matrix {
  const float* floats;
  const int8_t* ints;
  const float* scale;
};

// Values stay where they are in the file where that can be; they live as long as this does.
class Weights {
 public:
  // Of folder/model.safetensors, or if there is none folder/model_int8.safetensors. prefix: what names of the body
  // begin with in the file of a model with a head. Throws Error.
  Weights(const std::string& folder, std::string prefix);

  bool is_int8() const { return is_int8_; }
  const std::string& path() const { return file_.path(); }
  size_t size() const { return file_.tensors().size(); }

  // Whether there is a tensor of that name, with or without the prefix.
  bool has(const std::string& name) const { return find(name) != nullptr; }

  // float32 of that shape; of smaller floats converted.
  const float* floats(const std::string& name, const std::vector<int64_t>& shape);

  // [rows, columns], perhaps with a last axis of 1. In an int8 file ints with `blocks` scales a row, unless
  // `stays_float`.
  Matrix matrix(const std::string& name, int64_t rows, int64_t columns, int64_t blocks, bool stays_float = false);

 private:
  const StoredTensor* find(const std::string& name) const;
  const StoredTensor& at(const std::string& name) const;
  const float* converted(const StoredTensor& tensor);
  [[noreturn]] void refuse(const std::string& name, const StoredTensor& tensor, const std::string& expected) const;

  bool is_int8_;
  Safetensors file_;
  std::string prefix_;
  std::deque<std::vector<float>> converted_;
};

}  // namespace squeezebert
