// Compiled with the flags that run_tests.py gives it: empty functions where the compiler knows no AMX.
#include "amx_exercise.h"

#if defined(__AMX_TILE__)
#include "../kernels/micro/amx_instructions.h"

namespace squeezebert::test {

bool amx_instructions_compiled() { return true; }

void run_exercise_on_instructions(const TileExercise& exercise, TileWork work) {
  run_exercise<AmxInstructions>(exercise, work);
}

void run_product_without_configuration() { __asm__ volatile("tdpbf16ps %tmm6, %tmm4, %tmm0"); }

void run_product_of_shapes_that_differ() {
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 0, 0, 0, 64, 0, 64};
    uint8_t rows[16] = {16, 0, 0, 0, 8, 0, 16};
  } config;
  __asm__ volatile("ldtilecfg %0\n\ttdpbf16ps %%tmm6, %%tmm4, %%tmm0" : : "m"(config));
}

}  // namespace squeezebert::test

#else

namespace squeezebert::test {

bool amx_instructions_compiled() { return false; }
void run_exercise_on_instructions(const TileExercise&, TileWork) {}
void run_product_without_configuration() {}
void run_product_of_shapes_that_differ() {}

}  // namespace squeezebert::test

#endif
