// One binary an architecture: every build of the kernels that the machine can run is tested in it.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "third_party/doctest.h"
