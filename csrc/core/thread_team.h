// Runs the tasks of one kernel call, or of one pass of a whole forward, on several threads.
//
// Where an OpenMP runtime is already loaded into the process (PyTorch brings one), its threads are borrowed: a second
// runtime, or a pool that spins, fights with PyTorch's own for the cores. Before a fork they are given back, so that
// the child, PyTorch's operations in it too, starts threads of its own. Elsewhere a pool of our own serves: its threads
// sleep between calls, a fork starts it afresh, and it is never joined, so that it can't hold up the end of the
// process.
#pragma once
#include <atomic>
#include <cstdint>

namespace squeezebert {

namespace detail {
using Task = void (*)(const void* context, int64_t index);
void run_tasks(int64_t count, int threads, Task task, const void* context);
}  // namespace detail

// Calls body(i) once for every i in [0, count), on at most `threads` threads, and returns when all are done. Which
// thread runs a task is open, so a task's result must not depend on it. Tasks must not throw. Calls from several
// threads at once are safe. Called from inside one of its own tasks or of an OpenMP region, it runs serially.
template <class Body>
void run_tasks(int64_t count, int threads, const Body& body) {
  detail::run_tasks(count, threads, [](const void* b, int64_t i) { (*static_cast<const Body*>(b))(i); }, &body);
}

// Threads that run one function side by side, pass after pass, without leaving it in between.
class Team {
 public:
  // Every member calls it with the same count; body(i, member) runs once for each i in [0, count), spread over the
  // members as they get free. All have run when it returns, and what they wrote is visible to every member.
  template <class Body>
  void run(int member, int64_t count, const Body& body) {
    for (int64_t i = next_.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next_.fetch_add(1, std::memory_order_relaxed)) {
      body(i, member);
    }
    wait();
  }

  int join(int size);  // called once by each member, first of all: its number, from 0

 private:
  void wait();

  std::atomic<int> size_{0};
  std::atomic<int> joined_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> generation_{0};
};

namespace detail {
using TeamBody = void (*)(const void* context, Team& team, int member);
void run_team(int threads, TeamBody body, const void* context);
}  // namespace detail

// Calls body(team, member) on at most `threads` threads at once, and returns when all calls have. Everything else as in
// run_tasks.
template <class Body>
void run_team(int threads, const Body& body) {
  detail::run_team(
      threads, [](const void* b, Team& team, int member) { (*static_cast<const Body*>(b))(team, member); }, &body);
}

// What they use now: "openmp: PATH of the borrowed runtime", or "own pool".
const char* thread_runtime();

}  // namespace squeezebert
