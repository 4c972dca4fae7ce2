// The build for AMX on the emulator.
#pragma once
#include "../core/instruction_sets.h"

namespace squeezebert::test {

// The shipped avx512_amx where tiles have to be emulated and the CPU has everything else that it uses; null elsewhere.
// Each test case asks anew, for the reason that prepare_amx gives.
const KernelTable* emulated_amx_kernels();

}  // namespace squeezebert::test
