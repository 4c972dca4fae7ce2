// What stands around an encoder beside products: activations, LayerNorm and the pooling of token vectors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <tuple>

#include "../core/activation.h"
#include "../core/add_layer_norm.h"
#include "../core/pooling.h"
#include "arguments.h"

namespace py = pybind11;

namespace squeezebert {

void bind_heads(py::module_& m) {
  m.def(
      "activate",
      [](const std::string& instruction_set, Activation activation, uintptr_t x, int64_t count, int threads) {
        activate(kernels_named(instruction_set), activation, at<float>(x), count, threads);
      },
      py::arg("instruction_set"), py::arg("activation"), py::arg("x"), py::arg("count"), py::arg("threads"),
      py::call_guard<py::gil_scoped_release>(), "An activation, in place.");

  using NormTuple = std::tuple<uintptr_t, uintptr_t, float>;  // weight, bias, eps
  m.def(
      "layer_norm",
      [](const std::string& instruction_set, const NormTuple& norm, uintptr_t x, int64_t rows, int64_t channels,
         int threads) {
        const auto& [weight, bias, eps] = norm;
        layer_norm(kernels_named(instruction_set), {at<const float>(weight), at<const float>(bias), eps, channels},
                   at<float>(x), rows, threads);
      },
      py::arg("instruction_set"), py::arg("norm"), py::arg("x"), py::arg("rows"), py::arg("channels"),
      py::arg("threads"), py::call_guard<py::gil_scoped_release>(), "LayerNorm of each row, in place.");

  m.def(
      "mean_pool",
      [](uintptr_t x, uintptr_t mask, const std::array<int64_t, 3>& shape, uintptr_t y, int threads) {
        const auto [batch, tokens, channels] = shape;
        mean_pool({at<const float>(x), at<const int64_t>(mask), batch, tokens, channels, at<float>(y)}, threads);
      },
      py::arg("x"), py::arg("mask"), py::arg("shape"), py::arg("y"), py::arg("threads"),
      py::call_guard<py::gil_scoped_release>(), "The mean of each sequence's rows whose mask isn't 0.");

  m.def(
      "to_unit_length",
      [](uintptr_t x, int64_t rows, int64_t channels) { to_unit_length(at<float>(x), rows, channels); }, py::arg("x"),
      py::arg("rows"), py::arg("channels"), py::call_guard<py::gil_scoped_release>(),
      "Each row over its length, in place.");
}

}  // namespace squeezebert
