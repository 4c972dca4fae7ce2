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

struct Work {
  int64_t count;
  Task task;
  const void* context;
  std::atomic<int64_t> next{0};

  void run() {
    for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      task(context, i);
    }
  }
};

// ---- a borrowed OpenMP runtime

struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;  // GOMP_parallel: libgomp, libomp, libiomp5
  int (*in_parallel)() = nullptr;
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
  if (!openmp.parallel || !openmp.in_parallel) return OpenMp{};
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
  bool try_run(Work& work, int threads) {
    std::unique_lock<std::mutex> user(user_, std::try_to_lock);
    if (!user.owns_lock()) return false;
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
      work_ = &work;
      helpers_ = std::min(started_, threads - 1);
      busy_ = helpers_;
      ++generation_;
    }
    wake_.notify_all();
    in_pool_task = true;
    work.run();
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
      Work* work = work_;
      lock.unlock();
      work->run();
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex user_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Work* work_ = nullptr;
  uint64_t generation_ = 0;
  int started_ = 0, helpers_ = 0, busy_ = 0;
};

// Never destroyed: threads may still sleep in it when the process ends, and a forked child leaves its parent's behind.
std::atomic<Pool*> pool{new Pool};
std::atomic<bool> forked{false};

void start_afresh_in_child() {
  forked = true;
  pool = new Pool;
  in_pool_task = false;
}

const int fork_handler = pthread_atfork(nullptr, nullptr, start_afresh_in_child);

}  // namespace

void run_tasks(int64_t count, int threads, Task task, const void* context) {
  Work work{count, task, context};
  if (threads > count) threads = static_cast<int>(count);
  if (threads > 1 && !in_pool_task) {
    if (!forked && openmp().parallel) {
      if (!openmp().in_parallel()) {
        // The runtime may give fewer threads than asked for; the shared counter deals the tasks out to any number.
        openmp().parallel([](void* w) { static_cast<Work*>(w)->run(); }, &work, static_cast<unsigned>(threads), 0);
        return;
      }
    } else if (pool.load()->try_run(work, threads)) {
      return;
    }
  }
  work.run();
}

const char* thread_runtime() { return !forked && openmp().parallel ? openmp().description.c_str() : "own pool"; }

}  // namespace squeezebert
