// yyjson as it is compiled here: without what reading RFC 8259's JSON doesn't need.
#pragma once
#define YYJSON_DISABLE_WRITER 1
#define YYJSON_DISABLE_UTILS 1
#define YYJSON_DISABLE_INCR_READER 1
#define YYJSON_DISABLE_NON_STANDARD 1
#include "../third_party/yyjson/yyjson.h"
