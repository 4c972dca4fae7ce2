#include "embeddings.h"

#include <algorithm>

#include "sizes.h"
#include "thread_team.h"

namespace squeezebert {
namespace {

constexpr int64_t kRowsPerTask = 64;

}  // namespace

bool run_embeddings(const KernelTable& kernels, const Embeddings& e, int64_t rows, int threads) {
  const int64_t longest[] = {0, e.tokens, 1};  // of ids that are not given
  for (int t = 0; t < 3; ++t) {
    if (!e.ids[t] && rows > 0 && longest[t] > e.tables[t].size) return false;
    for (int64_t r = 0; e.ids[t] && r < rows; ++r) {
      if (e.ids[t][r] < 0 || e.ids[t][r] >= e.tables[t].size) return false;
    }
  }
  run_tasks(divide_up(rows, kRowsPerTask), threads, [&](int64_t task) {
    const int64_t begin = task * kRowsPerTask;
    kernels.embeddings(e, {begin, std::min(begin + kRowsPerTask, rows)});
  });
  return true;
}

}  // namespace squeezebert
