// Tasks that need memory to work in.
#pragma once
#include <algorithm>

#include "sizes.h"
#include "thread_team.h"
#include "workspace.h"

namespace squeezebert {

// Calls body(task, scratch) for every task, with `bytes` of scratch for each thread. Everything else as in run_tasks.
template <class Body>
void run_with_scratch(int64_t tasks, int threads, int64_t bytes, const Body& body) {
  threads = static_cast<int>(std::clamp<int64_t>(tasks, 1, threads));
  bytes = aligned(bytes);
  const Workspace workspace(bytes * threads);
  run_team(threads, [&](Team& team, int id) {
    team.run(id, tasks, [&](int64_t task, int member) { body(task, workspace.data() + member * bytes); });
  });
}

}  // namespace squeezebert
