// Lets the machine code of the AMX build run on CPUs that have no AMX: tile instructions are illegal there, and the
// signal's handler does what they would do, by csrc/kernels/micro/amx_twin.h, on tiles of the thread's own.
//
// What a CPU refuses ends the process with a message: tiles used before ldtilecfg, shapes that don't fit together. So
// does any other illegal instruction, as without the emulator. Under AddressSanitizer, tile loads and stores are
// checked like any of C++.
#pragma once
#include <cstdint>

namespace squeezebert::test {

enum class Amx { instructions, emulated, unavailable };

// Asks the kernel for the CPU's tiles where it has some; else takes over SIGILL. To be called by each test case that
// runs tile instructions: doctest's own handlers are in force from a case's beginning to its end. Unavailable where the
// kernel refuses tiles, and anywhere but on x86-64 Linux.
Amx prepare_amx();

// Tile instructions emulated so far, by all threads.
int64_t emulated_amx_instructions();

}  // namespace squeezebert::test
