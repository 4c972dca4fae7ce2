// Runs the tasks of one kernel call on several threads.
//
// Where an OpenMP runtime is already loaded into the process (PyTorch brings one), its threads are borrowed: a second
// runtime, or a pool that spins, fights with PyTorch's own for the cores. Elsewhere, and in a forked child, where a
// borrowed runtime would hang, a pool of our own serves: its threads sleep between calls, a fork starts it afresh, and
// it is never joined, so that it can't hold up the end of the process.
#pragma once
#include <cstdint>

namespace squeezebert {

using Task = void (*)(const void* context, int64_t index);

// Calls task(context, i) once for every i in [0, count), on at most `threads` threads, and returns when all are done.
// Which thread runs a task is open, so a task's result must not depend on it. Tasks must not throw. Calls from several
// threads at once are safe. Called from inside one of its own tasks or of an OpenMP region, it runs serially.
void run_tasks(int64_t count, int threads, Task task, const void* context);

// What run_tasks uses now: "openmp: PATH of the borrowed runtime", or "own pool".
const char* thread_runtime();

}  // namespace squeezebert
