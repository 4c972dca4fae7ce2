// What the CPU offers and the operating system saves across context switches. Compiled without instruction-set flags.
#pragma once
#include <string>
#include <vector>

namespace squeezebert {

struct CpuFeatures {
  bool avx2 = false;  // with FMA
  bool avx2_vnni = false;
  bool avx512 = false;  // F, BW, DQ and VL
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool neon = false;
  bool neon_dotprod = false;
  bool neon_i8mm = false;
  bool neon_bf16 = false;
};

const CpuFeatures& cpu_features();

// The names of the features above that are present.
std::vector<std::string> cpu_feature_names();

}  // namespace squeezebert
