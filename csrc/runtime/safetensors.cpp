#include "safetensors.h"

#include <algorithm>
#include <utility>

#include "status.h"
#include "text/json.h"

namespace squeezebert {
namespace {

constexpr uint64_t kMostHeaderBytes = 100'000'000;  // as the format has it
constexpr const char* kMetadata = "__metadata__";

struct DtypeRow {
  const char* name;
  int64_t bytes;
  Dtype dtype;
};
// Those of other names are refused: of how many bytes they are is not known.
constexpr DtypeRow kDtypes[] = {
    {"F32", 4, Dtype::float32}, {"F16", 2, Dtype::float16}, {"BF16", 2, Dtype::bfloat16}, {"I8", 1, Dtype::int8},
    {"F64", 8, Dtype::other},   {"I64", 8, Dtype::other},   {"I32", 4, Dtype::other},     {"I16", 2, Dtype::other},
    {"U64", 8, Dtype::other},   {"U32", 4, Dtype::other},   {"U16", 2, Dtype::other},     {"U8", 1, Dtype::other},
    {"BOOL", 1, Dtype::other},
};

[[noreturn]] void damaged(const std::string& path, const std::string& how) {
  throw Error(SQUEEZEBERT_BAD_FILE, path + " is not a whole safetensors file: " + how);
}

uint64_t little_endian(const uint8_t* bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | bytes[i];
  return value;
}

// A tensor's place in the data, of which there are `size` bytes.
struct Span {
  int64_t begin, end;
  std::string name;
};

StoredTensor read_tensor(const JsonValue& entry, const uint8_t* data, int64_t size, Span& span) {
  StoredTensor tensor;
  const JsonValue dtype = entry.at("dtype"), shape = entry.at("shape"), offsets = entry.at("data_offsets");
  tensor.dtype_name = dtype.string();
  const auto row = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                [&](const DtypeRow& known) { return tensor.dtype_name == known.name; });
  if (row == std::end(kDtypes)) dtype.refuse("a dtype of floats or integers, such as 'F32'");
  tensor.dtype = row->dtype;
  tensor.elements = 1;
  shape.for_each_element([&](const JsonValue& axis) {
    tensor.shape.push_back(axis.integer(0));
    if (__builtin_mul_overflow(tensor.elements, tensor.shape.back(), &tensor.elements)) {
      shape.refuse("a shape of fewer elements");
    }
  });
  std::vector<int64_t> ends;
  offsets.for_each_element([&](const JsonValue& offset) { ends.push_back(offset.integer(0, size)); });
  if (ends.size() != 2 || ends[0] > ends[1]) offsets.refuse("where the tensor begins and ends");
  int64_t bytes = 0;
  if (__builtin_mul_overflow(tensor.elements, row->bytes, &bytes) || bytes != ends[1] - ends[0]) {
    offsets.refuse("as many bytes as " + tensor.described() + " has");
  }
  span.begin = ends[0];
  span.end = ends[1];
  tensor.data = data + ends[0];
  return tensor;
}

}  // namespace

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string StoredTensor::described() const { return dtype_name + " " + shape_text(shape); }

Safetensors::Safetensors(const std::string& path) : file_(path) {
  if (file_.size() < 8) damaged(path, "it has " + std::to_string(file_.size()) + " bytes");
  const uint64_t header = little_endian(file_.data());
  const uint64_t rest = file_.size() - 8;
  if (header > kMostHeaderBytes || header > rest) {
    damaged(path,
            "its header has " + std::to_string(header) + " bytes, and the file " + std::to_string(rest) + " more");
  }
  const Json json = Json::parse({reinterpret_cast<const char*>(file_.data()) + 8, static_cast<size_t>(header)}, path);
  const uint8_t* data = file_.data() + 8 + header;
  const auto size = static_cast<int64_t>(rest - header);
  std::vector<Span> spans;
  json.root().for_each_member([&](std::string_view name, const JsonValue& entry) {
    if (name == kMetadata) {
      entry.for_each_member(
          [&](std::string_view key, const JsonValue& value) { metadata_.emplace(key, value.string()); });
      return;
    }
    Span span{0, 0, std::string(name)};
    tensors_.emplace(name, read_tensor(entry, data, size, span));
    spans.push_back(std::move(span));
  });
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return std::make_pair(a.begin, a.end) < std::make_pair(b.begin, b.end);
  });
  int64_t end = 0;
  for (const Span& span : spans) {
    if (span.begin != end) {
      damaged(path, span.name + " begins at byte " + std::to_string(span.begin) + " of the data, expected " +
                        std::to_string(end));
    }
    end = span.end;
  }
  if (end != size) damaged(path, "its tensors end at byte " + std::to_string(end) + " of " + std::to_string(size));
}

const StoredTensor* Safetensors::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace squeezebert
