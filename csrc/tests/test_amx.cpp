// The tile instructions: the twin against arithmetic of the C++ library, the instructions against the twin. Where no
// CPU runs the instructions, their machine code runs on the emulator, whose decoder has tests of its own.
#include <atomic>
#include <csignal>
#include <memory>
#include <random>
#include <thread>

#include "../kernels/micro/amx_twin.h"
#include "amx_decoder.h"
#include "amx_emulator.h"
#include "amx_exercise.h"
#include "support.h"
#include "third_party/doctest.h"

using namespace squeezebert::test;

namespace {

// ---- numbers

// Random bits; what range their exponents have.
enum class Exponents { any, near_one, products_near_smallest, some_zero, products_near_largest };
constexpr Exponents kAllExponents[] = {Exponents::any, Exponents::near_one, Exponents::products_near_smallest,
                                       Exponents::some_zero, Exponents::products_near_largest};

uint32_t exponent_of(Exponents range, std::mt19937& random) {
  switch (range) {
    case Exponents::any:
      return random() % 256;  // NaN and infinity among them
    case Exponents::near_one:
      return 117 + random() % 20;
    case Exponents::products_near_smallest:
      return 60 + random() % 8;
    case Exponents::some_zero:
      return random() % 3 ? 127 : 0;
    case Exponents::products_near_largest:
      return 186 + random() % 8;
  }
  return 0;
}

// Sign and mantissa at random. The lower half of a float32 is bits of its mantissa.
uint16_t random_bfloat16(Exponents range, std::mt19937& random) {
  return static_cast<uint16_t>((random() & 0x807f) | exponent_of(range, random) << 7);
}

void fill_with_bfloat16(AmxTile& tile, Exponents range, std::mt19937& random) {
  for (auto& row : tile.row) {
    for (int i = 0; i < 64; i += 2) {
      const uint16_t bits = random_bfloat16(range, random);
      std::memcpy(row + i, &bits, sizeof bits);
    }
  }
}

void fill_with_float32(AmxTile& tile, Exponents range, std::mt19937& random) {
  for (auto& row : tile.row) {
    for (int i = 0; i < 64; i += 4) {
      // Sums near the smallest product begin there, too.
      const Exponents sums = range == Exponents::products_near_smallest && random() % 2 ? Exponents::some_zero : range;
      uint32_t bits = static_cast<uint32_t>(random_bfloat16(sums, random)) << 16 | (random() & 0xffff);
      if (range == Exponents::products_near_smallest && random() % 4) bits = (bits & 0x807fffff) | (random() % 3) << 23;
      std::memcpy(row + i, &bits, sizeof bits);
    }
  }
}

void fill_with_bytes(AmxTile& tile, std::mt19937& random) {
  for (auto& row : tile.row) {
    for (unsigned char& byte : row) byte = static_cast<unsigned char>(random());
  }
}

template <typename T>
T value_in(const AmxTile& tile, int row, int index) {
  T value;
  std::memcpy(&value, tile.row[row] + index * static_cast<int>(sizeof value), sizeof value);
  return value;
}

// ---- tdpbf16ps by std::fma

float without_subnormals(float value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}

float bfloat16_in(const AmxTile& tile, int row, int index) {
  const uint32_t bits = static_cast<uint32_t>(value_in<uint16_t>(tile, row, index)) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return without_subnormals(value);
}

// std::fma, with results zero that are below the smallest normal number before they lose bits as subnormals.
float flushed_fma(float a, float b, float c) {
  const float result = std::fma(a, b, c);
  if (std::fabs(result) == std::numeric_limits<float>::min()) {
    // Far from the limit, with all bits: in long double, whose 64 bits hold any sum of this size.
    const long double sum = static_cast<long double>(a) * b + c;
    if (std::fabs(static_cast<float>(sum * 0x1p100L)) < 0x1p-26f) return std::copysign(0.0f, result);
  }
  return without_subnormals(result);
}

float plain_bfloat16_sum(const AmxTile& c, const AmxTile& a, const AmxTile& b, int m, int n, int pairs) {
  float sums[2] = {0, 0};
  for (int k = 0; k < pairs; ++k) {
    for (int i = 0; i < 2; ++i) {
      sums[i] = flushed_fma(bfloat16_in(a, m, 2 * k + i), bfloat16_in(b, k, 2 * n + i), sums[i]);
    }
  }
  const float both = without_subnormals(sums[0] + sums[1]);
  return without_subnormals(without_subnormals(value_in<float>(c, m, n)) + both);
}

// Which NaN an instruction gives isn't documented.
bool same_number(float a, float b) { return (std::isnan(a) && std::isnan(b)) || bits_of(a) == bits_of(b); }

// ---- the instructions

// Whether tile instructions can run here; says why not.
bool instructions_run() {
  if (!amx_instructions_compiled()) {
    MESSAGE("the compiler knows no AMX");
    return false;
  }
  if (prepare_amx() == Amx::unavailable) {
    MESSAGE("no AMX, and nothing to emulate it on");
    return false;
  }
  return true;
}

// Eight tiles in memory that ends at a page that can't be touched, and room for the results, twice.
class Exercise {
 public:
  Exercise(int rows, int64_t extra_stride, std::mt19937& random, TileWork work) : rows_(rows) {
    for (int tile = 0; tile < 8; ++tile) {
      stride_[tile] = 64 + extra_stride * (tile % 3 + 1);
      from_[tile] = memory(tile);
      to_[tile] = memory(tile);
      AmxTile values;
      const Exponents range = kAllExponents[random() % 5];
      if (work == TileWork::bfloat16 && tile < 4) {
        fill_with_float32(values, range, random);
      } else if (work == TileWork::bfloat16) {
        fill_with_bfloat16(values, range, random);
      } else {
        fill_with_bytes(values, random);
      }
      for (int m = 0; m < rows_of(tile); ++m) {
        std::memcpy(from_[tile]->data() + m * stride_[tile], values.row[m], 64);
      }
    }
  }

  // Everything that is in the memory of the results after `run`, which takes the exercise.
  template <typename Run>
  std::vector<char> results(Run run) {
    TileExercise exercise{rows_, {}, {}};
    for (int tile = 0; tile < 8; ++tile) {
      std::memset(to_[tile]->data(), 0x5a, bytes(tile));
      exercise.from[tile] = {from_[tile]->data(), stride_[tile]};
      exercise.to[tile] = {to_[tile]->data(), stride_[tile]};
    }
    run(exercise);
    std::vector<char> all;
    for (int tile = 0; tile < 8; ++tile) all.insert(all.end(), to_[tile]->data(), to_[tile]->data() + bytes(tile));
    return all;
  }

 private:
  int rows_of(int tile) const { return tile < 6 ? rows_ : 16; }
  std::size_t bytes(int tile) const { return static_cast<std::size_t>((rows_of(tile) - 1) * stride_[tile] + 64); }
  std::unique_ptr<GuardedBytes> memory(int tile) const {
    return std::make_unique<GuardedBytes>(static_cast<int64_t>(bytes(tile)), Edge::end);
  }

  int rows_;
  int64_t stride_[8];
  std::unique_ptr<GuardedBytes> from_[8], to_[8];
};

// The twin's NaN is one of many that a CPU may give; strides and sizes are multiples of a float's.
bool same_results(const std::vector<char>& a, const std::vector<char>& b, TileWork work) {
  if (work != TileWork::bfloat16) return a == b;
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); i += sizeof(float)) {
    float x, y;
    std::memcpy(&x, &a[i], sizeof x);
    std::memcpy(&y, &b[i], sizeof y);
    if (!same_number(x, y)) return false;
  }
  return true;
}

bool instructions_give_what_the_twin_gives(int rows, int64_t extra_stride, TileWork work, uint32_t seed) {
  std::mt19937 random(seed);
  Exercise exercise(rows, extra_stride, random, work);
  const auto expected = exercise.results([work](const TileExercise& e) { run_exercise<AmxTwin>(e, work); });
  const auto actual = exercise.results([work](const TileExercise& e) { run_exercise_on_instructions(e, work); });
  return same_results(expected, actual, work);
}

}  // namespace

TEST_CASE("the twin's bfloat16 product is Intel's chain of rounded steps, bit for bit") {
  std::mt19937 random(1);
  for (int repeat = 0; repeat < 40 / tested_every() + 1; ++repeat) {
    for (const Exponents range : kAllExponents) {
      CAPTURE(static_cast<int>(range));
      AmxTile a, b, c;
      fill_with_bfloat16(a, range, random);
      fill_with_bfloat16(b, range, random);
      fill_with_float32(c, range, random);
      const int rows = 1 + static_cast<int>(random() % 16), pairs = 1 + static_cast<int>(random() % 16);
      AmxTile result = c;
      amx_multiply_add_bfloat16(result, a, b, rows, 16, pairs);
      int different = 0;
      for (int m = 0; m < 16; ++m) {
        for (int n = 0; n < 16; ++n) {
          const float before = value_in<float>(c, m, n), after = value_in<float>(result, m, n);
          const bool same = m < rows ? same_number(after, plain_bfloat16_sum(c, a, b, m, n, pairs))
                                     : bits_of(after) == bits_of(before);
          different += !same;
        }
      }
      CHECK(different == 0);
    }
  }
}

TEST_CASE("the twin rounds once, flushes what is subnormal, and keeps infinities and NaN apart") {
  const float infinity = std::numeric_limits<float>::infinity();
  const auto product = [](std::vector<uint16_t> operands, std::vector<uint16_t> weights, float sum) {
    AmxTile a{}, b{}, c{};
    std::memcpy(a.row[0], operands.data(), operands.size() * 2);
    for (std::size_t k = 0; k < weights.size(); ++k) std::memcpy(b.row[k / 2] + k % 2 * 2, &weights[k], 2);
    std::memcpy(c.row[0], &sum, sizeof sum);
    amx_multiply_add_bfloat16(c, a, b, 1);
    return value_in<float>(c, 0, 0);
  };
  constexpr uint16_t kOne = 0x3f80, kTwo = 0x4000, kSmallest = 0x0080, kSubnormal = 0x0040, kLargest = 0x7f7f,
                     kHalf = 0x3f00, kInfinity = 0x7f80, kNan = 0x7fc0, kNegative = 0x8000;
  CHECK(product({kOne}, {kTwo}, 3) == 5);
  CHECK(product({kSubnormal}, {kTwo}, 0) == 0);
  CHECK(product({kSmallest}, {kHalf}, 0) == 0);
  CHECK(product({kOne}, {kOne}, 0x1p-127f) == 1);
  // The first product is subnormal and the second not; an even and the next even k are one chain.
  CHECK(product({kSmallest, 0, kSmallest, 0}, {kHalf, 0, kTwo, 0}, 0) == 0x1p-125f);
  // Fused: a product beyond the largest float, brought back by a sum.
  CHECK(product({kLargest, 0, kLargest, 0}, {kLargest, 0, kOne, 0}, 0) == infinity);
  CHECK(product({kLargest | kNegative, 0, kLargest, 0}, {kOne, 0, kTwo, 0}, 0) == 0x1.fep127f);
  // The same across an even and an odd k overflows, since these are chains of their own.
  CHECK(product({kLargest | kNegative, kLargest}, {kOne, kTwo}, 0) == infinity);
  CHECK(std::isnan(product({kInfinity}, {0}, 0)));
  CHECK(std::isnan(product({kInfinity}, {kOne}, -infinity)));
  CHECK(bits_of(product({kNan}, {0}, 0)) == 0xffc00000);
  CHECK(product({kInfinity}, {kTwo}, 1) == infinity);
  // 2^-126 less a little, which with 24 bits rounds to 2^-126 up to a little of 2^-151, and is zero beyond.
  const auto smallest_less = [&](uint16_t factor) {
    return product({kSmallest, 0, kSmallest | kNegative, 0}, {kOne, 0, factor, 0}, 0);
  };
  constexpr uint16_t kPowerOf25 = (127 - 25) << 7, kOneAndAHalf = 0x40;
  CHECK(smallest_less(kPowerOf25) == 0x1p-126f);
  CHECK(smallest_less(kPowerOf25 | kOneAndAHalf) == 0);
}

TEST_CASE("the twin's int8 product is of unsigned operands and signed weights, and wraps") {
  std::mt19937 random(2);
  for (int repeat = 0; repeat < 20; ++repeat) {
    AmxTile a, b, c;
    fill_with_bytes(a, random);
    fill_with_bytes(b, random);
    fill_with_bytes(c, random);
    if (repeat == 0) {
      std::memset(&a, 0xff, sizeof a);
      std::memset(&b, 0x80, sizeof b);
    }
    const int rows = 1 + static_cast<int>(random() % 16), fours = 1 + static_cast<int>(random() % 16);
    AmxTile result = c;
    amx_multiply_add_int8(result, a, b, rows, 16, fours);
    int different = 0;
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 16; ++n) {
        int64_t sum = value_in<int32_t>(c, m, n);
        for (int k = 0; m < rows && k < 4 * fours; ++k) {
          sum += static_cast<int64_t>(value_in<uint8_t>(a, m, k)) * value_in<int8_t>(b, k / 4, 4 * n + k % 4);
        }
        different += value_in<uint32_t>(result, m, n) != static_cast<uint32_t>(sum);
      }
    }
    CHECK(different == 0);
  }
}

TEST_CASE("tile instructions give the twin's bits, with any number of rows and any stride") {
  if (!instructions_run()) return;
  const int64_t before = emulated_amx_instructions();
  uint32_t seed = 0;
  for (const TileWork work : {TileWork::none, TileWork::bfloat16, TileWork::int8}) {
    for (int rows = 1; rows <= 16; ++rows) {
      for (const int64_t extra_stride : {0, 4, 64, 1000}) {
        CAPTURE(static_cast<int>(work));
        CAPTURE(rows);
        CAPTURE(extra_stride);
        CHECK(instructions_give_what_the_twin_gives(rows, extra_stride, work, ++seed));
      }
    }
  }
  CHECK((emulated_amx_instructions() > before) == (prepare_amx() == Amx::emulated));
}

TEST_CASE("every thread has tiles of its own, whatever the number of threads") {
  if (!instructions_run()) return;
  std::atomic<int> different{0};
  std::vector<std::thread> threads;
  for (uint32_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([thread, &different] {
      for (uint32_t repeat = 0; repeat < 20; ++repeat) {
        const TileWork work = (thread + repeat) % 2 ? TileWork::bfloat16 : TileWork::int8;
        const int rows = 1 + static_cast<int>((thread * 5 + repeat) % 16);
        different += !instructions_give_what_the_twin_gives(rows, 64, work, 1000 * thread + repeat);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(different == 0);
}

TEST_CASE("the emulator ends the process where a CPU would refuse a tile instruction") {
  if (!instructions_run() || prepare_amx() != Amx::emulated) return;
  const auto emulated = [](void (*run)()) {
    return end_of_child([run] {
      prepare_amx();
      run();
    });
  };
  const ChildEnd not_configured = emulated(run_product_without_configuration);
  CHECK(not_configured.signal == SIGABRT);
  CHECK(not_configured.message == "AMX emulator: a tile instruction before ldtilecfg\n");
  const ChildEnd shapes = emulated(run_product_of_shapes_that_differ);
  CHECK(shapes.signal == SIGABRT);
  CHECK(shapes.message == "AMX emulator: a product: sums and operands differ in rows\n");
}

#if defined(__x86_64__)
TEST_CASE("an illegal instruction that is none of a tile stays one") {
  prepare_amx();
  const ChildEnd end = end_of_child([] {
    prepare_amx();
    __asm__ volatile("ud2");
  });
  CHECK(end.signal == SIGILL);
}
#endif

// Bytes as the GNU assembler 2.40 writes them.
TEST_CASE("the emulator decodes tile instructions with any registers and addresses") {
  uint64_t registers[16];
  for (uint64_t i = 0; i < 16; ++i) registers[i] = 0x100000000 * (i + 1);
  enum { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 };
  const auto& r = registers;
  using Operation = TileOperation;
  const struct {
    const char* text;
    std::vector<uint8_t> code;
    Operation operation;
    int tile, operands, weights;
    uint64_t address, row_stride;
  } cases[] = {
      {"ldtilecfg (%rax)", {0xc4, 0xe2, 0x78, 0x49, 0x00}, Operation::configure, 0, 0, 0, r[rax], 0},
      {"ldtilecfg 0x40(%rsp)",
       {0xc4, 0xe2, 0x78, 0x49, 0x44, 0x24, 0x40},
       Operation::configure,
       0,
       0,
       0,
       r[rsp] + 0x40,
       0},
      {"ldtilecfg -8(%rbp)", {0xc4, 0xe2, 0x78, 0x49, 0x45, 0xf8}, Operation::configure, 0, 0, 0, r[rbp] - 8, 0},
      {"ldtilecfg 0x12345(%r12)",
       {0xc4, 0xc2, 0x78, 0x49, 0x84, 0x24, 0x45, 0x23, 0x01, 0x00},
       Operation::configure,
       0,
       0,
       0,
       r[r12] + 0x12345,
       0},
      {"ldtilecfg (%r13)", {0xc4, 0xc2, 0x78, 0x49, 0x45, 0x00}, Operation::configure, 0, 0, 0, r[r13], 0},
      {"ldtilecfg 8(%rax,%r9,4)",
       {0xc4, 0xa2, 0x78, 0x49, 0x44, 0x88, 0x08},
       Operation::configure,
       0,
       0,
       0,
       r[rax] + 4 * r[r9] + 8,
       0},
      {"tilerelease", {0xc4, 0xe2, 0x78, 0x49, 0xc0}, Operation::release, 0, 0, 0, 0, 0},
      {"tilezero %tmm7", {0xc4, 0xe2, 0x7b, 0x49, 0xf8}, Operation::zero, 7, 0, 0, 0, 0},
      {"tileloadd (%rdi,%rsi), %tmm0", {0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x37}, Operation::load, 0, 0, 0, r[rdi], r[rsi]},
      {"tileloadd 0x7f(%rsp,%rbp,2), %tmm3",
       {0xc4, 0xe2, 0x7b, 0x4b, 0x5c, 0x6c, 0x7f},
       Operation::load,
       3,
       0,
       0,
       r[rsp] + 0x7f,
       2 * r[rbp]},
      {"tileloadd -0x80(%rbp,%r12,4), %tmm4",
       {0xc4, 0xa2, 0x7b, 0x4b, 0x64, 0xa5, 0x80},
       Operation::load,
       4,
       0,
       0,
       r[rbp] - 0x80,
       4 * r[r12]},
      {"tileloadd 0x1234567(%r13,%r15,8), %tmm7",
       {0xc4, 0x82, 0x7b, 0x4b, 0xbc, 0xfd, 0x67, 0x45, 0x23, 0x01},
       Operation::load,
       7,
       0,
       0,
       r[r13] + 0x1234567,
       8 * r[r15]},
      {"tileloadd (%r13,%r8), %tmm1",
       {0xc4, 0x82, 0x7b, 0x4b, 0x4c, 0x05, 0x00},
       Operation::load,
       1,
       0,
       0,
       r[r13],
       r[r8]},
      {"tileloadd (%r12), %tmm2", {0xc4, 0xc2, 0x7b, 0x4b, 0x14, 0x24}, Operation::load, 2, 0, 0, r[r12], 0},
      {"tileloadd 0x1000(,%rcx,8), %tmm5",
       {0xc4, 0xe2, 0x7b, 0x4b, 0x2c, 0xcd, 0x00, 0x10, 0x00, 0x00},
       Operation::load,
       5,
       0,
       0,
       0x1000,
       8 * r[rcx]},
      {"tileloaddt1 (%r10,%r11), %tmm6",
       {0xc4, 0x82, 0x79, 0x4b, 0x34, 0x1a},
       Operation::load,
       6,
       0,
       0,
       r[r10],
       r[r11]},
      {"tilestored %tmm2, -0x100(%rbx,%rdx,2)",
       {0xc4, 0xe2, 0x7a, 0x4b, 0x94, 0x53, 0x00, 0xff, 0xff, 0xff},
       Operation::store,
       2,
       0,
       0,
       r[rbx] - 0x100,
       2 * r[rdx]},
      {"tdpbf16ps %tmm6, %tmm4, %tmm0",
       {0xc4, 0xe2, 0x4a, 0x5c, 0xc4},
       Operation::multiply_add_bfloat16,
       0,
       4,
       6,
       0,
       0},
      {"tdpbf16ps %tmm7, %tmm5, %tmm3",
       {0xc4, 0xe2, 0x42, 0x5c, 0xdd},
       Operation::multiply_add_bfloat16,
       3,
       5,
       7,
       0,
       0},
      {"tdpbusd %tmm7, %tmm5, %tmm2", {0xc4, 0xe2, 0x41, 0x5e, 0xd5}, Operation::multiply_add_int8, 2, 5, 7, 0, 0},
  };
  for (const auto& expected : cases) {
    CAPTURE(std::string(expected.text));
    const auto decoded = decode_tile_instruction(expected.code.data(), registers);
    REQUIRE(decoded.has_value());
    CHECK(decoded->operation == expected.operation);
    CHECK(decoded->length == static_cast<int>(expected.code.size()));
    CHECK(decoded->tile == expected.tile);
    CHECK(decoded->operands == expected.operands);
    CHECK(decoded->weights == expected.weights);
    CHECK(decoded->address == expected.address);
    CHECK(decoded->row_stride == expected.row_stride);
  }
  const uint8_t relative[] = {0xc4, 0xe2, 0x78, 0x49, 0x05, 0x00, 0x01, 0x00, 0x00};  // ldtilecfg 0x100(%rip)
  CHECK(decode_tile_instruction(relative, registers)->address ==
        reinterpret_cast<uint64_t>(relative + sizeof relative) + 0x100);
}

TEST_CASE("the emulator takes no other instruction for one of tiles") {
  const uint64_t registers[16] = {};
  const struct {
    const char* text;
    std::vector<uint8_t> code;
  } cases[] = {
      {"ud2", {0x0f, 0x0b}},
      {"sttilecfg (%rax)", {0xc4, 0xe2, 0x79, 0x49, 0x00}},
      {"tdpbssd %tmm7, %tmm5, %tmm2", {0xc4, 0xe2, 0x43, 0x5e, 0xd5}},
      {"{vex} vpdpbusd %ymm1, %ymm2, %ymm3", {0xc4, 0xe2, 0x6d, 0x50, 0xd9}},
      {"vfmadd231ps %ymm1, %ymm2, %ymm3", {0xc4, 0xe2, 0x6d, 0xb8, 0xd9}},
      {"vpdpbusd %ymm1, %ymm2, %ymm3", {0x62, 0xf2, 0x6d, 0x28, 0x50, 0xd9}},
  };
  for (const auto& other : cases) {
    CAPTURE(std::string(other.text));
    CHECK(!decode_tile_instruction(other.code.data(), registers).has_value());
  }
}
