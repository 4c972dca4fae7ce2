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
  // vdpbf16ps does half as many operations a second as float32's multiply-adds, not twice as many: on Intel's CPUs, as
  // the register-only loops showed on one of them with AMX.
  bool slow_bf16 = false;
  bool amx = false;  // TILE, BF16 and INT8, and the operating system lets this process use them
  bool neon = false;
  bool neon_dotprod = false;
  bool neon_i8mm = false;
  bool neon_bf16 = false;
};

const CpuFeatures& cpu_features();

// Why AMX can't be used although the CPU has it; empty where it can, or the CPU has none.
const std::string& amx_refusal();

// The names of the features above that are present.
std::vector<std::string> cpu_feature_names();

}  // namespace squeezebert
