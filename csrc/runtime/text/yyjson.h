// yyjson, compiled into the file that includes this, without what reading RFC 8259's JSON doesn't need. Its functions
// are that file's own: a program that links the static library may have a yyjson too, of another release.
#pragma once
#define YYJSON_DISABLE_WRITER 1
#define YYJSON_DISABLE_UTILS 1
#define YYJSON_DISABLE_INCR_READER 1
#define YYJSON_DISABLE_NON_STANDARD 1
#define yyjson_api [[maybe_unused]] static
#include "../third_party/yyjson/yyjson.c"
