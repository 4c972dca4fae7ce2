// Gives the target each file that is named on the command line: what libFuzzer once found must stay mended, also where
// there is no clang.
#include <cstdio>
#include <string>

#include "../runtime/text/read_file.h"
#include "support.h"

int main(int count, char** arguments) {
  for (int index = 1; index < count; ++index) {
    std::fprintf(stderr, "%s\n", arguments[index]);  // so that the last line names the input that ended it
    const std::string content = squeezebert::read_file(arguments[index], 64 << 20);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(content.data()), content.size());
  }
  return 0;
}
