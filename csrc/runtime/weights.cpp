#include "weights.h"

#include <cstring>
#include <utility>

#include "status.h"

namespace squeezebert {
namespace {

constexpr const char* kFloatName = "/model.safetensors";
constexpr const char* kInt8Name = "/model_int8.safetensors";
constexpr const char* kOtherNames[] = {"/model.safetensors.index.json", "/pytorch_model.bin"};  // that others read
const std::pair<const char*, const char*> kInt8Metadata[] = {{"format", "squeezebert_fast int8"}, {"version", "1"}};

std::string file_of(const std::string& folder) {
  for (const char* name : {kFloatName, kInt8Name}) {
    if (exists(folder + name)) return folder + name;
  }
  for (const char* name : kOtherNames) {
    if (!exists(folder + name)) continue;
    throw Error(SQUEEZEBERT_UNSUPPORTED,
                folder + name + " isn't read here, expected one file with all weights, model.safetensors");
  }
  throw Error(SQUEEZEBERT_NOT_FOUND, folder + " has no weights: neither model.safetensors nor model_int8.safetensors");
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float from_float16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits >> 15) << 31, exponent = bits >> 10 & 31u, fraction = bits & 1023u;
  if (exponent == 0) {  // zero or subnormal: fraction times 2^-24
    const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;
    return sign ? -magnitude : magnitude;
  }
  return from_bits(sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13);
}

}  // namespace

Weights::Weights(const std::string& folder, std::string prefix) : file_(file_of(folder)), prefix_(std::move(prefix)) {
  is_int8_ = ends_with(file_.path(), kInt8Name);
  if (!is_int8_) return;
  for (const auto& [key, value] : kInt8Metadata) {
    const auto found = file_.metadata().find(key);
    if (found == file_.metadata().end() || found->second != value) {
      const std::string is = found == file_.metadata().end() ? "nothing" : "'" + found->second + "'";
      throw Error(SQUEEZEBERT_BAD_FILE,
                  file_.path() + ": " + key + " of its metadata is " + is + ", expected '" + value + "'");
    }
  }
}

const StoredTensor* Weights::find(const std::string& name) const {
  const StoredTensor* bare = file_.find(name);
  const StoredTensor* prefixed = file_.find(prefix_ + name);
  if (bare && prefixed) {
    throw Error(SQUEEZEBERT_BAD_FILE, file_.path() + ": " + name + " and " + prefix_ + name + " are both the model's");
  }
  if (bare || prefixed) return bare ? bare : prefixed;
  // As TensorFlow named them, and checkpoints that were converted from there still do.
  for (const auto& [now, once] :
       {std::pair("LayerNorm.weight", "LayerNorm.gamma"), {"LayerNorm.bias", "LayerNorm.beta"}}) {
    if (ends_with(name, now)) return find(name.substr(0, name.size() - std::strlen(now)) + once);
  }
  return nullptr;
}

const StoredTensor& Weights::at(const std::string& name) const {
  if (const StoredTensor* tensor = find(name)) return *tensor;
  throw Error(SQUEEZEBERT_BAD_FILE, file_.path() + " lacks the model's " + name);
}

void Weights::refuse(const std::string& name, const StoredTensor& tensor, const std::string& expected) const {
  throw Error(SQUEEZEBERT_BAD_FILE,
              file_.path() + ": " + name + " is " + tensor.described() + ", expected " + expected);
}

const float* Weights::floats(const std::string& name, const std::vector<int64_t>& shape) {
  const StoredTensor& tensor = at(name);
  const bool is_float = tensor.dtype == Dtype::float32 ||
                        (!is_int8_ && (tensor.dtype == Dtype::float16 || tensor.dtype == Dtype::bfloat16));
  if (!is_float || tensor.shape != shape) refuse(name, tensor, "F32 " + shape_text(shape));
  return converted(tensor);
}

Matrix Weights::matrix(const std::string& name, int64_t rows, int64_t columns, int64_t blocks, bool stays_float) {
  const StoredTensor& tensor = at(name);
  std::vector<int64_t> shape = {rows, columns};
  if (tensor.shape.size() == 3) shape.push_back(1);
  if (!is_int8_ || stays_float) return {floats(name, shape), nullptr, nullptr};
  if (tensor.dtype != Dtype::int8 || tensor.shape != shape) refuse(name, tensor, "I8 " + shape_text(shape));
  return {nullptr, reinterpret_cast<const int8_t*>(tensor.data), floats(name + "_scale", {rows, blocks})};
}

const float* Weights::converted(const StoredTensor& tensor) {
  const bool aligned = reinterpret_cast<uintptr_t>(tensor.data) % alignof(float) == 0;
  if (tensor.dtype == Dtype::float32 && aligned) return reinterpret_cast<const float*>(tensor.data);
  std::vector<float>& values = converted_.emplace_back(static_cast<size_t>(tensor.elements));
  for (size_t i = 0; i < values.size(); ++i) {
    if (tensor.dtype == Dtype::float32) {
      std::memcpy(&values[i], tensor.data + 4 * i, 4);
    } else {
      uint16_t bits;
      std::memcpy(&bits, tensor.data + 2 * i, 2);
      values[i] = tensor.dtype == Dtype::float16 ? from_float16(bits) : from_bits(static_cast<uint32_t>(bits) << 16);
    }
  }
  return values.data();
}

}  // namespace squeezebert
