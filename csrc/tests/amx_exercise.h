// The same work on tiles for AmxTwin and for AmxInstructions, so that tests can compare the two.
#pragma once
#include <cstdint>

namespace squeezebert::test {

struct TileRows {
  char* first;
  int64_t row_stride;
};

// Memory of the eight tiles: all are loaded from `from` and, after the work, stored to `to`.
struct TileExercise {
  int rows;
  TileRows from[8], to[8];
};

// Every tile of sums with both of operands and both of weights, twice, and one tile of sums made zero between.
enum class TileWork { none, bfloat16, int8 };

template <typename Amx>
void run_exercise(const TileExercise& e, TileWork work) {
  Amx amx(e.rows);
  amx.template load<0>(e.from[0].first, e.from[0].row_stride);
  amx.template load<1>(e.from[1].first, e.from[1].row_stride);
  amx.template load<2>(e.from[2].first, e.from[2].row_stride);
  amx.template load<3>(e.from[3].first, e.from[3].row_stride);
  amx.template load<4>(e.from[4].first, e.from[4].row_stride);
  amx.template load<5>(e.from[5].first, e.from[5].row_stride);
  amx.template load<6>(e.from[6].first, e.from[6].row_stride);
  amx.template load<7>(e.from[7].first, e.from[7].row_stride);
  if (work == TileWork::bfloat16) {
    amx.template multiply_add_bfloat16<0, 4, 6>();
    amx.template multiply_add_bfloat16<1, 4, 7>();
    amx.template multiply_add_bfloat16<2, 5, 6>();
    amx.template multiply_add_bfloat16<3, 5, 7>();
    amx.template zero<1>();
    amx.template multiply_add_bfloat16<0, 5, 7>();
    amx.template multiply_add_bfloat16<1, 4, 6>();
  } else if (work == TileWork::int8) {
    amx.template multiply_add_int8<0, 4, 6>();
    amx.template multiply_add_int8<1, 4, 7>();
    amx.template multiply_add_int8<2, 5, 6>();
    amx.template multiply_add_int8<3, 5, 7>();
    amx.template zero<1>();
    amx.template multiply_add_int8<0, 5, 7>();
    amx.template multiply_add_int8<1, 4, 6>();
  }
  amx.template store<0>(e.to[0].first, e.to[0].row_stride);
  amx.template store<1>(e.to[1].first, e.to[1].row_stride);
  amx.template store<2>(e.to[2].first, e.to[2].row_stride);
  amx.template store<3>(e.to[3].first, e.to[3].row_stride);
  amx.template store<4>(e.to[4].first, e.to[4].row_stride);
  amx.template store<5>(e.to[5].first, e.to[5].row_stride);
  amx.template store<6>(e.to[6].first, e.to[6].row_stride);
  amx.template store<7>(e.to[7].first, e.to[7].row_stride);
}

// On AmxInstructions: machine code of its own, compiled where the assembler knows it.
bool amx_instructions_compiled();
void run_exercise_on_instructions(const TileExercise& exercise, TileWork work);
// A product without ldtilecfg, and one of operands with 8 rows and sums with 16: a CPU refuses both.
void run_product_without_configuration();
void run_product_of_shapes_that_differ();

}  // namespace squeezebert::test
