#include "thread_team.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <link.h>
#endif

namespace squeezebert {
namespace {

// What every thread of a region calls, with the number of threads in it.
struct Region {
  void (*function)(void* context, int size);
  void* context;
};

// ---- a borrowed OpenMP runtime

struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;  // GOMP_parallel: libgomp, libomp, libiomp5
  int (*in_parallel)() = nullptr;
  int (*threads)() = nullptr;
  int (*release_threads)(int) = nullptr;  // libgomp's omp_pause_resource_all
  std::string description = "own pool";
};

#if defined(__linux__)

struct Candidate {
  std::string path;
  int rank = 0;
};

// PyTorch's own copy first: with several runtimes loaded, it is the one whose threads are warm.
int collect(dl_phdr_info* info, size_t, void* found) {
  const char* path = info->dlpi_name;
  const char* slash = std::strrchr(path, '/');
  const char* file = slash ? slash + 1 : path;
  int rank = 0;
  for (const char* name : {"libgomp", "libomp", "libiomp5"}) {
    if (std::strncmp(file, name, std::strlen(name)) == 0) rank = 1;
  }
  if (rank && std::strstr(path, "torch")) rank = 2;
  auto* best = static_cast<Candidate*>(found);
  if (rank > best->rank) *best = {path, rank};
  return 0;
}

OpenMp borrow_openmp() {
  OpenMp openmp;
  Candidate best;
  dl_iterate_phdr(collect, &best);
  if (best.rank == 0) return openmp;
  void* library = dlopen(best.path.c_str(), RTLD_LAZY | RTLD_NOLOAD);  // kept: the runtime must not go away
  if (!library) return openmp;
  openmp.parallel = reinterpret_cast<decltype(openmp.parallel)>(dlsym(library, "GOMP_parallel"));
  openmp.in_parallel = reinterpret_cast<decltype(openmp.in_parallel)>(dlsym(library, "omp_in_parallel"));
  openmp.threads = reinterpret_cast<decltype(openmp.threads)>(dlsym(library, "omp_get_num_threads"));
  if (!openmp.parallel || !openmp.in_parallel || !openmp.threads) return OpenMp{};
  if (best.path.find("libgomp") != std::string::npos) {  // others see to forks by themselves, each in its way
    openmp.release_threads =
        reinterpret_cast<decltype(openmp.release_threads)>(dlsym(library, "omp_pause_resource_all"));
  }
  openmp.description = "openmp: " + best.path;
  return openmp;
}

#else

OpenMp borrow_openmp() { return {}; }

#endif

// Looked up at the first call with several threads, when PyTorch has long been loaded.
const OpenMp& openmp() {
  static const OpenMp found = borrow_openmp();
  return found;
}

// ---- our own pool

thread_local bool in_pool_task = false;

class Pool {
 public:
  // False when another caller is using the pool: the caller then works alone, which beats waiting.
  bool try_run(const Region& region, int threads) {
    std::unique_lock<std::mutex> user(user_, std::try_to_lock);
    if (!user.owns_lock()) return false;
    int size;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (started_ < threads - 1) {
        try {
          std::thread(&Pool::serve, this, started_).detach();
        } catch (const std::system_error&) {
          break;  // the system has no thread to give: those there are do the work
        }
        ++started_;
      }
      region_ = &region;
      helpers_ = std::min(started_, threads - 1);
      busy_ = helpers_;
      size = helpers_ + 1;
      ++generation_;
    }
    wake_.notify_all();
    in_pool_task = true;
    region.function(region.context, size);
    in_pool_task = false;
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    return true;
  }

 private:
  void serve(int id) {
    in_pool_task = true;
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      if (id >= helpers_) continue;
      const Region* region = region_;
      const int size = helpers_ + 1;
      lock.unlock();
      region->function(region->context, size);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex user_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const Region* region_ = nullptr;
  uint64_t generation_ = 0;
  int started_ = 0, helpers_ = 0, busy_ = 0;
};

// Never destroyed: threads may still sleep in it when the process ends, and a forked child leaves its parent's behind.
std::atomic<Pool*> pool{new Pool};

// ---- fork

std::atomic<bool> openmp_hangs{false};    // in a child whose runtime waits for its parent's threads
std::atomic<bool> openmp_released{true};  // before the last fork

// A forked child has the forking thread alone, and an OpenMP runtime that remembers its parent's threads waits for them
// there for ever: in our kernels, and in any operation of PyTorch that wants more than one. So the forking thread gives
// its threads back before, and parent and child start new ones when they next want some.
void release_openmp_threads() {
  constexpr int kHard = 2;               // omp_pause_hard
  const OpenMp found = borrow_openmp();  // anew: PyTorch may have come since, and used its threads without us
  openmp_released = !found.parallel || (found.release_threads && found.release_threads(kHard) == 0);
}

void start_afresh_in_child() {
  if (!openmp_released) openmp_hangs = true;
  pool = new Pool;
  in_pool_task = false;
}

const int fork_handlers = pthread_atfork(release_openmp_threads, nullptr, start_afresh_in_child);

// Runs the region on at most `threads` threads; alone where no others are to be had.
void run_region(const Region& region, int threads) {
  if (threads > 1 && !in_pool_task) {
    if (!openmp_hangs && openmp().parallel) {
      if (!openmp().in_parallel()) {
        openmp().parallel(
            [](void* r) {
              const auto* inside = static_cast<const Region*>(r);
              inside->function(inside->context, openmp().threads());  // may be fewer than asked for
            },
            const_cast<Region*>(&region), static_cast<unsigned>(threads), 0);
        return;
      }
    } else if (pool.load()->try_run(region, threads)) {
      return;
    }
  }
  region.function(region.context, 1);
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

void detail::run_tasks(int64_t count, int threads, Task task, const void* context) {
  struct Work {
    int64_t count;
    Task task;
    const void* context;
    std::atomic<int64_t> next{0};
  } work{count, task, context};
  const Region region{[](void* c, int) {
                        Work& w = *static_cast<Work*>(c);
                        for (int64_t i = w.next.fetch_add(1, std::memory_order_relaxed); i < w.count;
                             i = w.next.fetch_add(1, std::memory_order_relaxed)) {
                          w.task(w.context, i);
                        }
                      },
                      &work};
  run_region(region, static_cast<int>(std::min<int64_t>(threads, count)));
}

int Team::join(int size) {
  size_.store(size, std::memory_order_relaxed);  // every member the same number, before it waits
  return joined_.fetch_add(1, std::memory_order_relaxed);
}

void Team::wait() {
  constexpr int kSpins = 2000;  // tens of microseconds: passes are short, and a sleep costs as much
  const uint32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_.load(std::memory_order_relaxed)) {
    arrived_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; generation_.load(std::memory_order_acquire) == generation; ++spins) {
    if (spins < kSpins) {
      pause();
    } else {
      std::this_thread::yield();  // the others may be waiting for this core
    }
  }
}

void detail::run_team(int threads, TeamBody body, const void* context) {
  struct Call {
    TeamBody body;
    const void* context;
    Team team;
  } call{body, context, {}};
  const Region region{[](void* c, int size) {
                        Call& inside = *static_cast<Call*>(c);
                        const int member = inside.team.join(size);
                        inside.body(inside.context, inside.team, member);
                      },
                      &call};
  run_region(region, threads);
}

const char* thread_runtime() { return !openmp_hangs && openmp().parallel ? openmp().description.c_str() : "own pool"; }

}  // namespace squeezebert
