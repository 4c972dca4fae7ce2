#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "../core/cpu_features.h"
#include "../core/instruction_sets.h"
#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

using Names = std::set<std::string>;

Names words(const std::string& line) {
  std::istringstream in(line);
  Names found;
  for (std::string word; in >> word;) found.insert(word);
  return found;
}

Names detected() {
  const std::vector<std::string> names = cpu_feature_names();
  return Names(names.begin(), names.end());
}

// The features of /proc/cpuinfo; empty when it is missing, or another machine's (an emulator shows its host's).
Names cpuinfo_features() {
#if defined(__x86_64__)
  const std::string key = "flags";
#else
  const std::string key = "Features";
#endif
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.compare(0, key.size(), key) == 0) return words(line.substr(line.find(':') + 1));
  }
  return {};
}

}  // namespace

TEST_CASE("detected features are those that the kernel lists") {
  const Names listed = cpuinfo_features();
  if (listed.empty()) {
    MESSAGE("no features of this CPU in /proc/cpuinfo");
    return;
  }
  const auto lists = [&](const Names& all) {
    return std::includes(listed.begin(), listed.end(), all.begin(), all.end());
  };
  const struct {
    const char* name;
    Names requires_all;
  } table[] = {
#if defined(__x86_64__)
      {"avx2", {"avx2", "fma"}},
      {"avx2_vnni", {"avx_vnni"}},
      {"avx512", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}},
      {"avx512_vnni", {"avx512_vnni"}},
      {"avx512_bf16", {"avx512_bf16"}},
#else
      {"neon", {"asimd"}},
      {"neon_dotprod", {"asimddp"}},
      {"neon_i8mm", {"i8mm"}},
      {"neon_bf16", {"bf16"}},
#endif
  };
  for (const auto& feature : table) {
    CAPTURE(std::string(feature.name));
    CHECK((detected().count(feature.name) == 1) == lists(feature.requires_all));
  }
}

// The operating system may refuse it, to one process and not to another.
TEST_CASE("AMX is there, or refused with a reason, where the kernel lists it") {
  const bool usable = detected().count("amx") == 1, refused = !amx_refusal().empty();
  const Names listed = cpuinfo_features();
  const bool all = listed.count("amx_tile") && listed.count("amx_bf16") && listed.count("amx_int8");
  if (all) CHECK((usable || refused));
  // A kernel that doesn't list it may still leave it in what the CPU says of itself.
  if (usable && !listed.empty()) CHECK(all);
  CHECK(!(usable && refused));
}

// run_tests.py names what each emulated CPU has.
TEST_CASE("detected features are those of the emulated CPU") {
  if (const char* expected = std::getenv("SQUEEZEBERT_TEST_CPU_FEATURES")) CHECK(detected() == words(expected));
}

TEST_CASE("usable builds are those that the CPU supports, best first, scalar last") {
  Names supported = {"scalar"};
  for (const std::string name : {"avx512_vnni", "avx512", "avx2_vnni", "avx2", "neon_dotprod", "neon"}) {
    if (detected().count(name)) supported.insert(name);
  }
  if (detected().count("avx512_bf16") && detected().count("avx512_vnni")) {
    supported.insert("avx512_bf16");
    if (detected().count("amx")) supported.insert("avx512_amx");
  }
  if (detected().count("neon_i8mm") && detected().count("neon_bf16")) supported.insert("neon_i8mm");
  Names expected;
  // A compiler may not know the instructions of a build that the CPU supports.
#define BUILD(NAME, CPU) \
  if (supported.count(#NAME) && NAME##_kernels()) expected.insert(#NAME);
#include "../isa/builds.inc"
#undef BUILD
  const auto& usable = usable_kernels();
  Names names;
  for (const KernelTable* kernels : usable) names.insert(kernels->name);
  CHECK(names == expected);
  CHECK(usable.size() == expected.size());
  CHECK(std::string(usable.back()->name) == "scalar");
  for (std::size_t i = 1; i < usable.size(); ++i) CHECK(usable[i - 1]->lanes >= usable[i]->lanes);
}

TEST_CASE("a build says which precisions it has an instruction for") {
  const Names bfloat16 = {"avx512_amx", "avx512_bf16", "neon_i8mm"},
              int8 = {"avx512_amx", "avx512_bf16", "avx512_vnni", "avx2_vnni", "neon_i8mm", "neon_dotprod"};
  for (const KernelTable* kernels : usable_kernels()) {
    CAPTURE(std::string(kernels->name));
    CHECK(kernels_in(*kernels, Precision::bfloat16).native == (bfloat16.count(kernels->name) == 1));
    CHECK(kernels_in(*kernels, Precision::int8).native == (int8.count(kernels->name) == 1));
  }
}

// So a wrong choice among builds can't pass on an emulated CPU: that one has what its model has, and no more.
#if defined(__aarch64__)
TEST_CASE("a build that the CPU doesn't support is one that it can't run") {
  const KernelTable* const builds[] = {
#define BUILD(NAME, CPU) NAME##_kernels(),
#include "../isa/builds.inc"
#undef BUILD
  };
  for (const KernelTable* kernels : builds) {
    if (!kernels || find_kernels(kernels->name)) continue;
    CAPTURE(std::string(kernels->name));
    for (Precision precision : {Precision::bfloat16, Precision::int8}) {
      const PrecisionKernels& of_precision = kernels_in(*kernels, precision);
      if (!of_precision.native) continue;
      CHECK(end_of_child([&] { of_precision.multiply_add_chains(1); }).signal == SIGILL);
    }
  }
}
#endif

TEST_CASE("a build is found by its name, and no other") {
  for (const KernelTable* kernels : usable_kernels()) CHECK(find_kernels(kernels->name) == kernels);
  CHECK(find_kernels("") == nullptr);
  CHECK(find_kernels("avx1024") == nullptr);
}

TEST_CASE("the register-only loop counts what it computes") {
  for (const KernelTable* kernels : tested_builds()) {
    CAPTURE(std::string(kernels->name));
    for (const PrecisionKernels& of_precision : kernels->precision) {
      const auto chains = of_precision.multiply_add_chains;
      const int64_t once = chains(1);
      CHECK(once > 0);
      CHECK(chains(1000) == 1000 * once);
    }
  }
}
