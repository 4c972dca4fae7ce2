// Training's tensors, which are of one element or another.
#pragma once
#include <type_traits>

#include "../kernels/kernel_table.h"

namespace squeezebert {

constexpr int64_t bytes_of(Element element) { return element == Element::bfloat16 ? 2 : 4; }

// The element at `index` of a tensor; null stays null.
template <class Pointer>
Pointer at(Pointer tensor, int64_t index, Element element) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  return tensor ? static_cast<Byte*>(tensor) + index * bytes_of(element) : nullptr;
}

}  // namespace squeezebert
