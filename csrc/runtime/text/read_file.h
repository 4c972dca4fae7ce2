// Small files, whole.
#pragma once
#include <cstddef>
#include <optional>
#include <string>

namespace squeezebert {

// The content of a file of at most `most_bytes`; nothing where there is none of that name. Throws Error for a larger
// one, and for what can't be read.
std::optional<std::string> read_file_if_any(const std::string& path, size_t most_bytes);

// The same, with an Error where there is none.
std::string read_file(const std::string& path, size_t most_bytes);

}  // namespace squeezebert
