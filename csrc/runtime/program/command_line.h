// What squeezebert-run is asked for.
#pragma once
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace squeezebert_run {

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct CommandLine {
  std::string command;  // or "--help" or "--version"
  std::string model;
  std::vector<std::string> texts;  // none: lines of standard input
  std::optional<int> threads;
  std::string precision;  // "" for the folder's own
  size_t top = 0;         // 0: what is usual
  bool json = false, pairs = false, normalize = false;
};

extern const char* const kHelp;

// Throws UsageError.
CommandLine parse(int count, const char* const* words);

}  // namespace squeezebert_run
