#include "rates.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "packed_segments.h"
#include "sizes.h"
#include "thread_team.h"
#include "workspace.h"

namespace squeezebert {
namespace {

constexpr int64_t kTileDepth = 192;  // the base model's channels in a group

// `work(thread, iterations)` does `operations` in each iteration.
template <class Work>
double rate_of(const Work& work, int64_t operations, int threads, double seconds) {
  int64_t iterations = 1000;
  const auto run = [&] {
    const auto start = std::chrono::steady_clock::now();
    run_tasks(threads, threads, [&](int64_t thread) { work(thread, iterations); });
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  run();  // starts the threads
  // A thread that waits for its turn makes a short run as long as a long one: so go on until work takes the time.
  double elapsed = run(), before = 0;
  do {
    before = elapsed;
    iterations *= 4;
    elapsed = run();
  } while (elapsed < seconds || elapsed < 2 * before);
  return static_cast<double>(operations) * static_cast<double>(iterations) * threads / elapsed;
}

}  // namespace

double multiply_add_rate(const KernelTable& kernels, Precision precision, int threads, double seconds) {
  const auto chains = kernels.precision[static_cast<int>(precision)].multiply_add_chains;
  return rate_of([&](int64_t, int64_t iterations) { chains(iterations); }, chains(1), threads, seconds);
}

double tile_rate(const KernelTable& kernels, Precision precision, int threads, double seconds) {
  const PrecisionKernels& shape = kernels.precision[static_cast<int>(precision)];
  const int64_t rows = shape.block_rows, columns = shape.panel_columns, depth = kTileDepth;
  const std::vector<float> ones(static_cast<std::size_t>(std::max(rows, columns) * depth), 1.0f);
  PackedSegments segments(kernels, precision);
  segments.add({{{ones.data(), nullptr, nullptr, nullptr, 1, depth, columns}, 0, columns, 0}}, 0, 0);
  segments.pack(1);
  const PrecisionKernels& of_precision = segments.precision_kernels();

  struct Buffers {
    std::vector<float> scale, y;
    AlignedMemory operands;
  };
  std::vector<Buffers> buffers(static_cast<std::size_t>(threads));
  std::vector<Product> products;
  for (Buffers& b : buffers) {
    b.scale.resize(static_cast<std::size_t>(rows));
    b.y.resize(static_cast<std::size_t>(rows * columns));
    Product product{};
    product.x = {const_cast<float*>(ones.data()), depth, b.scale.data(), 1, depth};
    if (of_precision.operand_bytes > 0) {
      b.operands = AlignedMemory(rows * depth * of_precision.operand_bytes + kSlack);
      product.x.data = b.operands.data();
      of_precision.prepare(ones.data(), depth, {0, rows}, product.x);
    }
    product.segments = segments.data();
    product.segment_count = segments.size();
    product.y = b.y.data();
    product.y_row_stride = columns;
    product.activation = Activation::none;
    products.push_back(product);
  }
  const auto work = [&](int64_t thread, int64_t iterations) {
    const Product& product = products[static_cast<std::size_t>(thread)];
    for (int64_t i = 0; i < iterations; ++i) of_precision.product(product, {0, rows});
  };
  return rate_of(work, 2 * rows * columns * depth, threads, seconds);
}

}  // namespace squeezebert
