// One text's answer, as a line.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>

#include "../squeezebert.h"
#include "command_line.h"

namespace squeezebert_run {

// A call of the library that failed.
struct Failure : std::runtime_error {
  explicit Failure(squeezebert_status status) : runtime_error(squeezebert_last_error()), status(status) {}
  Failure(squeezebert_status status, const std::string& message) : runtime_error(message), status(status) {}
  squeezebert_status status;
};

// Throws Failure.
std::string answer(const CommandLine& line, const squeezebert_model* model, std::string_view text);

// What stands in an answer's place.
std::string answer_to_blank(const CommandLine& line);
std::string answer_to_failure(const CommandLine& line, const Failure& failure);

// The name of a status, such as "bad_text".
const char* name_of(squeezebert_status status);

}  // namespace squeezebert_run
