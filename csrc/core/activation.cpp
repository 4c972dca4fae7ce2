#include "activation.h"

#include <algorithm>

#include "sizes.h"
#include "thread_team.h"

namespace squeezebert {

void activate(const KernelTable& kernels, Activation activation, float* x, int64_t count, int threads) {
  run_tasks(divide_up(count, kElementsPerTask), threads, [&](int64_t task) {
    const int64_t first = task * kElementsPerTask;
    kernels.activate(activation, x + first, std::min(kElementsPerTask, count - first));
  });
}

void activation_backward(const KernelTable& kernels, Activation activation, float* z, float* grad, int64_t count,
                         int threads) {
  run_tasks(divide_up(count, kElementsPerTask), threads, [&](int64_t task) {
    const int64_t first = task * kElementsPerTask;
    kernels.training.activation_backward(activation, false, z + first, grad + first,
                                         std::min(kElementsPerTask, count - first));
  });
}

}  // namespace squeezebert
