// Nothing here links OpenMP, so this is the pool that serves programs without PyTorch and forked children.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "../core/thread_team.h"
#include "third_party/doctest.h"

using namespace squeezebert;

namespace {

bool runs_every_index_once(int64_t count, int threads) {
  std::vector<std::atomic<int>> times(static_cast<std::size_t>(count));
  run_tasks(count, threads, [&](int64_t i) { ++times[static_cast<std::size_t>(i)]; });
  for (const auto& n : times) {
    if (n != 1) return false;
  }
  return true;
}

// Sleeps rather than spins: there may be fewer cores than threads. Gives up, so that a failure is no hang.
template <typename Condition>
bool wait_until(const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return true;
}

// Tasks that each wait for all others can end only when each has a thread.
bool runs_at_the_same_time(int threads) {
  std::atomic<int> arrived{0}, met{0};
  run_tasks(threads, threads, [&](int64_t) {
    ++arrived;
    if (wait_until([&] { return arrived == threads; })) ++met;
  });
  return met == threads;
}

// Each pass reads what the one before wrote, from other places, without a lock: a pass that begins too early gets it
// wrong, and ThreadSanitizer sees it.
bool passes_see_each_other(int threads, int passes, int64_t count) {
  const auto size = static_cast<std::size_t>(count);
  std::vector<int64_t> from(size, 1), to(size, 0);
  run_team(threads, [&](Team& members, int id) {
    for (int pass = 0; pass < passes; ++pass) {
      const std::vector<int64_t>& before = pass % 2 ? to : from;
      std::vector<int64_t>& after = pass % 2 ? from : to;
      members.run(id, count, [&](int64_t i, int) {
        after[static_cast<std::size_t>(i)] = before[static_cast<std::size_t>((i * 7 + pass) % count)] + 1;
      });
      members.run(id, pass % 3, [](int64_t, int) {});  // passes with less to do than members, or nothing
    }
  });
  for (int64_t value : passes % 2 ? to : from) {
    if (value != passes + 1) return false;
  }
  return true;
}

// What `function` returned in a forked child.
template <typename Function>
bool in_child(const Function& function) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(30);  // a hang is a failure
    _exit(function() ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

TEST_CASE("without an OpenMP runtime in the process, threads come from the own pool") {
  CHECK(std::string(thread_runtime()) == "own pool");
}

TEST_CASE("every task runs exactly once") {
  for (int64_t count : {0, 1, 2, 3, 7, 64, 1000}) {
    for (int threads : {0, 1, 2, 3, 5, 16}) {
      CAPTURE(count);
      CAPTURE(threads);
      CHECK(runs_every_index_once(count, threads));
    }
  }
}

TEST_CASE("tasks have threads of their own, also after the team shrank and grew") {
  for (int threads : {3, 2, 5, 2, 4}) {
    CAPTURE(threads);
    CHECK(runs_at_the_same_time(threads));
  }
}

TEST_CASE("many short calls in a row lose no task") {
  for (int i = 0; i < 2000; ++i) REQUIRE(runs_every_index_once(1 + i % 5, 1 + i % 3));
}

TEST_CASE("a task that calls again runs the inner tasks itself") {
  std::atomic<int> inner{0}, elsewhere{0};
  run_tasks(6, 3, [&](int64_t) {
    const auto here = std::this_thread::get_id();
    run_tasks(10, 3, [&](int64_t) {
      ++inner;
      if (std::this_thread::get_id() != here) ++elsewhere;
    });
  });
  CHECK(inner == 60);
  CHECK(elsewhere == 0);
  CHECK(runs_at_the_same_time(3));  // and the pool serves again
}

TEST_CASE("callers at the same time each get all their tasks") {
  std::atomic<int> failures{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&failures, caller] {
      for (int i = 0; i < 300; ++i) {
        if (!runs_every_index_once(1 + (i + caller) % 17, 1 + i % 4)) ++failures;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(failures == 0);
}

TEST_CASE("a caller that finds the pool taken does not wait for it") {
  std::atomic<bool> second_done{false};
  bool met = true;
  std::thread second;
  run_tasks(2, 2, [&](int64_t i) {
    if (i != 0) return;
    second = std::thread([&] {
      runs_every_index_once(50, 2);
      second_done = true;
    });
    met = wait_until([&] { return second_done.load(); });
  });
  second.join();
  CHECK(met);
}

TEST_CASE("a forked child has a working pool, and so has its own child") {
  CHECK(runs_at_the_same_time(2));
  CHECK(in_child([] {
    return runs_at_the_same_time(3) && runs_every_index_once(100, 2) &&
           in_child([] { return runs_at_the_same_time(2); });
  }));
  CHECK(runs_at_the_same_time(3));
}

TEST_CASE("a fork while another thread uses the pool harms neither side") {
  std::atomic<bool> stop{false};
  std::atomic<int> failures{0};
  std::thread busy([&] {
    while (!stop) {
      if (!runs_every_index_once(20, 3)) ++failures;
    }
  });
  for (int i = 0; i < 10; ++i) CHECK(in_child([] { return runs_every_index_once(100, 2); }));
  stop = true;
  busy.join();
  CHECK(failures == 0);
}

TEST_CASE("members of a team have numbers of their own, from 0") {
  for (int threads : {0, 1, 2, 3, 5, 16}) {
    CAPTURE(threads);
    std::vector<std::atomic<int>> members(16);
    run_team(threads, [&](Team&, int id) { ++members[static_cast<std::size_t>(id)]; });
    const int expected = threads < 1 ? 1 : threads;
    for (int id = 0; id < 16; ++id) CHECK(members[static_cast<std::size_t>(id)] == (id < expected ? 1 : 0));
  }
}

TEST_CASE("every task of a pass runs exactly once, on a member that there is") {
  for (int64_t count : {0, 1, 2, 7, 1000}) {
    for (int threads : {1, 2, 3, 16}) {
      CAPTURE(count);
      CAPTURE(threads);
      std::vector<std::atomic<int>> times(static_cast<std::size_t>(count));
      std::atomic<int> strangers{0};
      run_team(threads, [&](Team& members, int id) {
        members.run(id, count, [&](int64_t i, int member) {
          ++times[static_cast<std::size_t>(i)];
          if (member != id || member >= threads) ++strangers;
        });
      });
      for (const auto& n : times) CHECK(n == 1);
      CHECK(strangers == 0);
    }
  }
}

TEST_CASE("a pass is over before the next begins") {
  CHECK(passes_see_each_other(1, 5, 10));
  CHECK(passes_see_each_other(2, 2000, 5));
  CHECK(passes_see_each_other(3, 500, 64));
  CHECK(passes_see_each_other(16, 50, 100));
}

TEST_CASE("a pass waits for its slowest task") {
  std::atomic<int> done{0}, too_early{0};
  run_team(3, [&](Team& members, int id) {
    members.run(id, 3, [&](int64_t i, int) {
      if (i == 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));  // far longer than members spin
      ++done;
    });
    if (done != 3) ++too_early;
  });
  CHECK(too_early == 0);
}

TEST_CASE("a team within a task is its caller alone") {
  std::atomic<int> inner{0}, crowded{0};
  run_team(3, [&](Team& members, int id) {
    members.run(id, 6, [&](int64_t, int) {
      run_team(3, [&](Team& alone, int member) {
        if (member != 0) ++crowded;
        alone.run(member, 10, [&](int64_t, int) { ++inner; });
      });
    });
  });
  CHECK(inner == 60);
  CHECK(crowded == 0);
}

TEST_CASE("teams of callers at the same time don't meet") {
  std::atomic<int> failures{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&failures, caller] {
      for (int i = 0; i < 60; ++i) {
        if (!passes_see_each_other(1 + (i + caller) % 4, 6, 1 + i % 9)) ++failures;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(failures == 0);
}

TEST_CASE("a forked child has teams, also when another thread's was at work during the fork") {
  CHECK(passes_see_each_other(3, 20, 10));
  std::atomic<bool> stop{false};
  std::atomic<int> failures{0};
  std::thread busy([&] {
    while (!stop) {
      if (!passes_see_each_other(2, 20, 10)) ++failures;
    }
  });
  for (int i = 0; i < 5; ++i) {
    CHECK(in_child(
        [] { return passes_see_each_other(3, 20, 10) && in_child([] { return passes_see_each_other(2, 20, 10); }); }));
  }
  stop = true;
  busy.join();
  CHECK(failures == 0);
}
