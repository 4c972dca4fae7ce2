// Forwards of an encoder of the base model's shape with random weights, for counting instructions and, on this
// machine, for timing: no Python, no files.
//
//     forward BUILD PRECISION TOKENS LAYERS FORWARDS            so many forwards of one sequence, on one thread
//     forward BUILD PRECISION TOKENS LAYERS FORWARDS clock      and prints their CPU time, and the clock's rate
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../../csrc/core/encoder/encoder.h"
#include "../../csrc/core/instruction_sets.h"

using namespace squeezebert;

namespace {

constexpr int64_t kChannels = 768, kHeads = 12, kHidden = 3072;

std::vector<float> random_floats(int64_t count, float size) {
  static uint32_t state = 1;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    state = state * 1664525 + 1013904223;
    value = size * (static_cast<float>(state >> 8) * (2.0f / (1 << 24)) - 1.0f);
  }
  return values;
}

struct Conv {
  std::vector<float> weight, bias;
  ConvWeights as_taken;

  Conv(int64_t in, int64_t out, int64_t groups, int64_t scales_per_group)
      : weight(random_floats(out * in / groups, 0.1f)), bias(random_floats(out, 0.1f)) {
    as_taken = {weight.data(), nullptr, nullptr, bias.data(), groups, in, out, scales_per_group};
  }
};

// The groups of the paper's model, and int8's scales as backends/cpu_encoder.py cuts them: of 192 inputs at most.
Encoder random_encoder(const KernelTable& kernels, Precision precision, int64_t layers) {
  Encoder encoder(kernels, precision);
  const Conv query(kChannels, kChannels, 4, 1), key(kChannels, kChannels, 4, 1), value(kChannels, kChannels, 4, 1);
  const Conv post_attention(kChannels, kChannels, 1, 4), intermediate(kChannels, kHidden, 4, 1);
  const Conv output(kHidden, kChannels, 4, 4);
  const std::vector<float> ones(kChannels, 1.0f), zeros(kChannels, 0.0f);
  const NormWeights norm{ones.data(), zeros.data(), 1e-12f};
  for (int64_t l = 0; l < layers; ++l) {
    encoder.add_layer({kHeads, Activation::gelu, query.as_taken, key.as_taken, value.as_taken, post_attention.as_taken,
                       intermediate.as_taken, output.as_taken, norm, norm});
  }
  encoder.pack(1);
  return encoder;
}

double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Cycles a second, by additions that wait for each other, each of which takes one cycle.
double clock_rate() {
#if defined(__x86_64__)
  constexpr int64_t kIterations = 20'000'000;
  double best = 1e9;
  for (int attempt = 0; attempt < 3; ++attempt) {
    const double began = cpu_seconds();
    int64_t sum = 1;
    for (int64_t i = 0; i < kIterations; ++i) {
      __asm__ volatile("add %0, %0\n\tadd %0, %0\n\tadd %0, %0\n\tadd %0, %0" : "+r"(sum));
    }
    best = std::min(best, cpu_seconds() - began);
  }
  return 4.0 * kIterations / best;
#else
  return 0.0;
#endif
}

int usage() {
  std::fprintf(stderr, "forward BUILD float32|bfloat16|int8 TOKENS LAYERS FORWARDS [clock]\n");
  return 2;
}

}  // namespace

int main(int count, char** words) {
  if (count < 6) return usage();
  const KernelTable* kernels = find_kernels(words[1]);
  if (!kernels) {
    std::fprintf(stderr, "the build %s is not usable on this CPU\n", words[1]);
    return 1;
  }
  const char* const names[] = {"float32", "bfloat16", "int8"};
  const auto name = std::find(std::begin(names), std::end(names), std::string(words[2]));
  if (name == std::end(names)) return usage();
  const int64_t tokens = std::atoll(words[3]), layers = std::atoll(words[4]), forwards = std::atoll(words[5]);
  const auto precision = static_cast<Precision>(name - std::begin(names));
  const Encoder encoder = random_encoder(*kernels, precision, layers);
  const std::vector<float> x = random_floats(tokens * kChannels, 1.0f);
  std::vector<float> y(x.size());
  EncoderInput input{};
  input.x = x.data();
  input.batch = 1;
  input.tokens = tokens;
  input.sequence_stride = tokens * kChannels;
  input.row_stride = kChannels;
  input.unpad = true;
  input.y = y.data();
  std::vector<double> seconds;
  for (int64_t i = 0; i < forwards; ++i) {
    const double began = cpu_seconds();
    encoder.run(input, 1);
    seconds.push_back(cpu_seconds() - began);
  }
  std::printf("{\"packed_bytes\": %lld", static_cast<long long>(encoder.bytes()));
  if (count > 6 && std::strcmp(words[6], "clock") == 0) {
    std::sort(seconds.begin(), seconds.end());
    std::printf(", \"median_seconds\": %.9g, \"hertz\": %.6g", seconds[seconds.size() / 2], clock_rate());
  }
  std::printf("}\n");
}
