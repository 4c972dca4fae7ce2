// What the module's parts share.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "../core/instruction_sets.h"

namespace squeezebert {

template <typename T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

inline const KernelTable& kernels_named(const std::string& name) {
  if (const KernelTable* kernels = find_kernels(name)) return *kernels;
  throw std::invalid_argument("instruction set '" + name + "' is not usable on this machine");
}

void bind_heads(pybind11::module_& m);
void bind_training(pybind11::module_& m);
void bind_watch(pybind11::module_& m);

}  // namespace squeezebert
