// What goes wrong, inside the runtime: an exception with the C API's code and a message for the caller.
#pragma once
#include <exception>
#include <string>
#include <utility>

#include "squeezebert.h"

namespace squeezebert {

// Thrown within csrc/runtime/ alone: the C API turns it into its code, and keeps the message for
// squeezebert_last_error(). The message is one line that names the file or argument, what came and what was expected.
class Error : public std::exception {
 public:
  Error(squeezebert_status code, std::string message) : code_(code), message_(std::move(message)) {}

  squeezebert_status code() const { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  squeezebert_status code_;
  std::string message_;
};

}  // namespace squeezebert
