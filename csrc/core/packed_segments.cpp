#include "packed_segments.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "thread_team.h"

namespace squeezebert {
namespace {

// How many segments follow each other along a group's inputs. int8 has one for each scale; otherwise they are as deep
// as suits the build's micro-kernel.
int64_t segments_along_depth(const KernelTable& kernels, Precision precision, const ConvWeights& conv) {
  if (precision == Precision::int8) return conv.scales_per_group;
  const PrecisionKernels& of_precision = kernels.precision[static_cast<int>(precision)];
  return std::max<int64_t>(1, divide_up(conv.in_per_group(), of_precision.deepest_segment));
}

}  // namespace

float quantize_row(const float* row, int64_t count, int8_t* ints) {
  float bound = 0.0f, poison = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    bound = std::max(bound, std::fabs(row[i]));
    poison += row[i] * 0.0f;
  }
  const float inverse = bound > 1e-36f ? 127.0f / bound : 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float value = std::nearbyint(row[i] * inverse);
    ints[i] = static_cast<int8_t>(std::isfinite(value) ? std::clamp(value, -127.0f, 127.0f) : 0.0f);
  }
  return bound / 127.0f + poison;
}

int64_t PackedSegments::array_bytes(int64_t columns) const {
  return aligned(divide_up(columns, kernels_->lanes) * kernels_->lanes * 4);
}

Piece PackedSegments::add(const std::vector<Strip>& strips, int64_t in_begin, int64_t out_begin) {
  const int64_t depth = strips.front().conv.in_per_group();
  const int64_t count = segments_along_depth(*kernels_, precision_, strips.front().conv);
  const int64_t first = size();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t k0 = depth * i / count, k1 = depth * (i + 1) / count;
    add(strips, in_begin, out_begin, k0, k1 - k0, i == 0);
  }
  return since(first);
}

Piece PackedSegments::add(const std::vector<Strip>& strips, int64_t in_begin, int64_t out_begin, int64_t k_begin,
                          int64_t k_count, bool first) {
  Segment segment{};
  for (const Strip& strip : strips) segment.columns = std::max(segment.columns, strip.column + strip.rows);
  segment.in_begin = in_begin + k_begin;
  segment.depth = k_count;
  segment.out_begin = out_begin;
  segment.accumulate = !first;
  segments_.push_back(segment);
  sources_.push_back({strips, k_begin, first, 0});
  return {size() - 1, 1};
}

std::vector<Piece> PackedSegments::add(const ConvWeights& conv) {
  std::vector<Piece> pieces;
  for (int64_t group = 0; group < conv.groups; ++group) {
    cut(0, conv.out_per_group(), kSegmentColumns, [&](int64_t row, int64_t stop) {
      const int64_t channel = group * conv.out_per_group() + row;
      pieces.push_back(add({{conv, channel, stop - row, 0}}, group * conv.in_per_group(), channel));
    });
  }
  return pieces;
}

void PackedSegments::pack(int threads) {
  int64_t bytes = 0;
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const Segment& segment = segments_[i];
    sources_[i].offset = bytes;
    bytes +=
        aligned(precision_kernels().packed_bytes(segment.columns, segment.depth)) + 3 * array_bytes(segment.columns);
  }
  memory_ = RecycledMemory(bytes + kSlack);
  run_tasks(size(), threads, [&](int64_t i) { pack_one(i); });
  sources_ = {};
}

void PackedSegments::pack_one(int64_t index) {
  Segment& segment = segments_[static_cast<std::size_t>(index)];
  const Source& source = sources_[static_cast<std::size_t>(index)];
  const PrecisionKernels& kernels = precision_kernels();
  const int64_t columns = segment.columns, depth = segment.depth;
  char* memory = memory_.data() + source.offset;
  char* weight = memory;
  memory += aligned(kernels.packed_bytes(columns, depth));
  const int64_t array = array_bytes(columns);
  auto* bias = reinterpret_cast<float*>(memory);
  auto* scale = reinterpret_cast<float*>(memory + array);
  auto* start = reinterpret_cast<int32_t*>(memory + 2 * array);
  std::memset(memory, 0, static_cast<std::size_t>(3 * array));

  std::vector<float> floats;
  std::vector<int8_t> ints;
  const bool quantized = precision_ == Precision::int8;
  const bool by_parts = kernels.products > 0;
  const bool in_place = !quantized && source.strips.size() == 1 && source.strips.front().column == 0;
  if (quantized) {
    ints.assign(static_cast<std::size_t>(columns * depth), 0);
  } else if (!in_place) {
    floats.assign(static_cast<std::size_t>(columns * depth), 0.0f);
  }
  for (const Strip& strip : source.strips) {
    const int64_t stride = strip.conv.in_per_group();
    for (int64_t r = 0; r < strip.rows; ++r) {
      const int64_t row = strip.row + r, column = strip.column + r;
      const int64_t from = row * stride + source.k_begin, to = column * depth;
      if (source.bias && strip.conv.bias) bias[column] = strip.conv.bias[row];
      if (depth == 0) continue;  // no weights, no scale: the bias is all
      if (!quantized) {
        if (!in_place) {
          std::memcpy(&floats[static_cast<std::size_t>(to)], strip.conv.weight + from,
                      static_cast<std::size_t>(depth) * 4);
        }
        continue;
      }
      int8_t* target = &ints[static_cast<std::size_t>(to)];
      if (strip.conv.quantized) {
        std::memcpy(target, strip.conv.quantized + from, static_cast<std::size_t>(depth));
        scale[column] = strip.conv.scale[row * strip.conv.scales_per_group + source.k_begin / depth];
      } else {
        scale[column] = quantize_row(strip.conv.weight + from, depth, target);
      }
      int32_t sum = 0;
      for (int64_t k = 0; k < depth; ++k) sum += target[k];
      start[column] = -kernels.operand_shift * sum;
    }
  }
  if (in_place) {
    const Strip& strip = source.strips.front();
    const ConvWeights& conv = strip.conv;
    if (conv.transposed) {
      const int64_t group = strip.row / conv.out_per_group(), width = conv.out_per_group();
      const float* first = conv.weight + (group * conv.in_per_group() + source.k_begin) * width + strip.row % width;
      kernels.pack(first, 1, width, columns, depth, weight, scale);
    } else {
      const int64_t stride = conv.in_per_group();
      kernels.pack(conv.weight + strip.row * stride + source.k_begin, stride, 1, columns, depth, weight, scale);
    }
  } else {
    kernels.pack(quantized ? static_cast<const void*>(ints.data()) : floats.data(), depth, 1, columns, depth, weight,
                 scale);
  }
  segment.weight = weight;
  segment.bias = source.bias ? bias : nullptr;
  segment.scale = quantized || by_parts ? scale : nullptr;
  segment.start = start;
}

}  // namespace squeezebert
