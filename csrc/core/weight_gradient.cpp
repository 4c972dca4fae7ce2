#include "weight_gradient.h"

#include <algorithm>
#include <stdexcept>

#include "elements.h"
#include "packed_segments.h"
#include "scratch.h"

namespace squeezebert {
namespace {

// Rows and columns of a weight's gradient that a task computes: the larger, the fewer copies of its operands, where
// that leaves every thread enough tasks.
constexpr int64_t kTaskSize = 384, kSmallTaskSize = 192;

}  // namespace

bool has_gradients(const KernelTable& kernels, Precision precision) {
  return kernels.precision[static_cast<int>(precision)].weight_gradient;
}

const PrecisionKernels& gradient_kernels(const KernelTable& table, Precision precision, Element element) {
  if (!has_gradients(table, precision)) throw std::invalid_argument("the build has no gradients in this precision");
  const PrecisionKernels& kernels = table.precision[static_cast<int>(precision)];
  if (kernels.products > 0 && element != Element::float32) {
    throw std::invalid_argument("gradients by parts are of tensors in float32");
  }
  return kernels;
}

void weight_gradient(const KernelTable& table, Precision precision, const GroupedGradients& g, int threads) {
  const PrecisionKernels& kernels = gradient_kernels(table, precision, g.element);
  const int64_t in = g.in_channels / g.groups, out = g.out_channels / g.groups;
  std::vector<WeightGradient> tasks;
  const int64_t large =
      static_cast<int64_t>(g.all.size()) * g.groups * divide_up(out, kTaskSize) * divide_up(in, kTaskSize);
  const int64_t size = large >= kTasksPerThread * threads ? kTaskSize : kSmallTaskSize;
  for (int64_t group = 0; group < g.groups; ++group) {
    for (const GroupedGradients::Of& of : g.all) {
      cut(0, out, size, [&](int64_t first_row, int64_t row_end) {
        cut(0, in, size, [&](int64_t column, int64_t column_end) {
          const int64_t row = group * out + first_row;
          WeightGradient task{};
          task.grad_element = task.x_element = g.element;
          task.grad = at(of.grad, row, g.element);
          task.grad_row_stride = g.out_channels;
          task.x = at(g.x, group * in + column, g.element);
          task.x_row_stride = g.in_channels;
          task.rows = g.rows;
          task.out = row_end - first_row;
          task.in = column_end - column;
          task.y = of.weight + row * in + column;
          task.y_row_stride = in;
          task.bias = of.bias && column == 0 ? of.bias + row : nullptr;
          tasks.push_back(task);
        });
      });
    }
  }
  const int64_t scratch_bytes = kernels.weight_gradient_scratch(std::min(out, size), std::min(in, size));
  run_with_scratch(static_cast<int64_t>(tasks.size()), threads, scratch_bytes, [&](int64_t i, char* scratch) {
    kernels.weight_gradient(tasks[static_cast<std::size_t>(i)], scratch);
  });
}

}  // namespace squeezebert
