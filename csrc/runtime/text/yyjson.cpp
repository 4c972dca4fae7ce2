#include "yyjson.h"

#include "../third_party/yyjson/yyjson.c"
