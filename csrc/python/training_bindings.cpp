// The training kernels for Python: squeezebert_fast/backends/cpu_ops.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <tuple>
#include <vector>

#include "../core/activation.h"
#include "../core/add_layer_norm.h"
#include "../core/attention.h"
#include "../core/dropout.h"
#include "../core/grouped_mlp.h"
#include "../core/weight_gradient.h"
#include "arguments.h"

namespace py = pybind11;

namespace squeezebert {
namespace {

using Release = py::call_guard<py::gil_scoped_release>;
using DropoutTuple = std::tuple<double, uint64_t>;  // probability, seed

Dropout dropout_from(const DropoutTuple& t) { return dropout_of(std::get<0>(t), std::get<1>(t)); }

AttentionTensors tensors_of(const std::array<int64_t, 5>& sizes, const std::array<uintptr_t, 3>& qkv, uintptr_t mask,
                            const std::array<int64_t, 3>& mask_strides, const DropoutTuple& dropout,
                            uintptr_t statistics, Element element) {
  const auto& [batch, queries, keys, heads, head_size] = sizes;
  return {batch,
          queries,
          keys,
          heads,
          head_size,
          at<const void>(qkv[0]),
          at<const void>(qkv[1]),
          at<const void>(qkv[2]),
          at<const float>(mask),
          mask_strides,
          dropout_from(dropout),
          at<float>(statistics),
          element};
}

}  // namespace

void bind_training(py::module_& m) {
  py::class_<PackedGroupedMlp>(m, "PackedGroupedMlp")
      .def(py::init([](const std::string& instruction_set, Precision precision, const std::array<uintptr_t, 2>& weights,
                       const std::array<int64_t, 4>& sizes, int threads) {
             const KernelTable& kernels = kernels_named(instruction_set);
             const auto& [groups, channels, hidden, out_channels] = sizes;
             const ConvWeights in{at<const float>(weights[0]), nullptr, nullptr, nullptr, groups, channels, hidden};
             const ConvWeights out{
                 at<const float>(weights[1]), nullptr, nullptr, nullptr, groups, hidden, out_channels};
             py::gil_scoped_release release;
             return std::make_unique<PackedGroupedMlp>(kernels, precision, in, out, threads);
           }),
           py::arg("instruction_set"), py::arg("precision"), py::arg("weights"), py::arg("sizes"), py::arg("threads"))
      .def(
          "run",
          [](const PackedGroupedMlp& self, uintptr_t x, int64_t rows, const std::array<uintptr_t, 2>& biases,
             uintptr_t y, Activation activation, int threads, Element element) {
            self.run(at<const void>(x), rows, at<const float>(biases[0]), at<const float>(biases[1]), at<void>(y),
                     activation, threads, element);
          },
          py::arg("x"), py::arg("rows"), py::arg("biases"), py::arg("y"), py::arg("activation"), py::arg("threads"),
          py::arg("element"), Release())
      .def_property_readonly("bytes", &PackedGroupedMlp::bytes);
  m.def(
      "attention_forward",
      [](const std::string& instruction_set, Precision precision, const std::array<int64_t, 5>& sizes,
         const std::array<uintptr_t, 3>& qkv, uintptr_t mask, const std::array<int64_t, 3>& mask_strides,
         const DropoutTuple& dropout, uintptr_t statistics, uintptr_t context, int threads, Element element) {
        attention_forward(kernels_named(instruction_set), precision,
                          tensors_of(sizes, qkv, mask, mask_strides, dropout, statistics, element), at<void>(context),
                          threads);
      },
      py::arg("instruction_set"), py::arg("precision"), py::arg("sizes"), py::arg("qkv"), py::arg("mask"),
      py::arg("mask_strides"), py::arg("dropout"), py::arg("statistics"), py::arg("context"), py::arg("threads"),
      py::arg("element"), Release());
  m.def(
      "attention_backward",
      [](const std::string& instruction_set, Precision precision, const std::array<int64_t, 5>& sizes,
         const std::array<uintptr_t, 3>& qkv, uintptr_t mask, const std::array<int64_t, 3>& mask_strides,
         const DropoutTuple& dropout, uintptr_t statistics, uintptr_t grad, const std::array<uintptr_t, 3>& gradients,
         int threads, Element element) {
        attention_backward(
            kernels_named(instruction_set), precision,
            tensors_of(sizes, qkv, mask, mask_strides, dropout, statistics, element),
            {at<const void>(grad), at<void>(gradients[0]), at<void>(gradients[1]), at<void>(gradients[2])}, threads);
      },
      py::arg("instruction_set"), py::arg("precision"), py::arg("sizes"), py::arg("qkv"), py::arg("mask"),
      py::arg("mask_strides"), py::arg("dropout"), py::arg("statistics"), py::arg("grad"), py::arg("gradients"),
      py::arg("threads"), py::arg("element"), Release());
  m.def(
      "add_layer_norm_forward",
      [](const std::string& instruction_set, int64_t rows, int64_t channels, uintptr_t x, uintptr_t residual,
         uintptr_t weight, uintptr_t bias, float eps, const DropoutTuple& dropout, uintptr_t total, uintptr_t y,
         const std::array<uintptr_t, 2>& moments, int threads, Element element) {
        add_layer_norm_forward(kernels_named(instruction_set),
                               {at<const float>(weight), at<const float>(bias), eps, channels, at<const void>(x),
                                at<const void>(residual), at<void>(total), at<void>(y), at<float>(moments[0]),
                                at<float>(moments[1]), dropout_from(dropout), element},
                               rows, threads);
      },
      py::arg("instruction_set"), py::arg("rows"), py::arg("channels"), py::arg("x"), py::arg("residual"),
      py::arg("weight"), py::arg("bias"), py::arg("eps"), py::arg("dropout"), py::arg("total"), py::arg("y"),
      py::arg("moments"), py::arg("threads"), py::arg("element"), Release());
  m.def(
      "add_layer_norm_backward",
      [](const std::string& instruction_set, int64_t rows, int64_t channels, uintptr_t grad, uintptr_t total,
         const std::array<uintptr_t, 2>& moments, uintptr_t weight, const DropoutTuple& dropout,
         const std::array<uintptr_t, 4>& gradients, int threads, Element element) {
        add_layer_norm_backward(
            kernels_named(instruction_set),
            {at<const float>(weight), channels, at<const void>(grad), at<const void>(total),
             at<const float>(moments[0]), at<const float>(moments[1]), at<void>(gradients[0]), at<void>(gradients[1]),
             at<float>(gradients[2]), at<float>(gradients[3]), dropout_from(dropout), element},
            rows, threads);
      },
      py::arg("instruction_set"), py::arg("rows"), py::arg("channels"), py::arg("grad"), py::arg("total"),
      py::arg("moments"), py::arg("weight"), py::arg("dropout"), py::arg("gradients"), py::arg("threads"),
      py::arg("element"), Release());
  m.def(
      "dropout",
      [](const std::string& instruction_set, int64_t rows, int64_t channels, uintptr_t x, const DropoutTuple& dropout,
         uintptr_t y, int threads, Element element) {
        apply_dropout(kernels_named(instruction_set), dropout_from(dropout), at<const void>(x), at<void>(y), rows,
                      channels, threads, element);
      },
      py::arg("instruction_set"), py::arg("rows"), py::arg("channels"), py::arg("x"), py::arg("dropout"), py::arg("y"),
      py::arg("threads"), py::arg("element"), Release());
  m.def(
      "weight_gradient",
      [](const std::string& instruction_set, Precision precision, const std::vector<uintptr_t>& grads, uintptr_t x,
         const std::array<int64_t, 4>& sizes, const std::vector<uintptr_t>& weights,
         const std::vector<uintptr_t>& biases, int threads, Element element) {
        const auto& [rows, groups, in_channels, out_channels] = sizes;
        GroupedGradients gradients{{}, at<const void>(x), rows, groups, in_channels, out_channels, element};
        for (std::size_t i = 0; i < grads.size(); ++i) {
          gradients.all.push_back({at<const void>(grads[i]), at<float>(weights.at(i)), at<float>(biases.at(i))});
        }
        weight_gradient(kernels_named(instruction_set), precision, gradients, threads);
      },
      py::arg("instruction_set"), py::arg("precision"), py::arg("grads"), py::arg("x"), py::arg("sizes"),
      py::arg("weights"), py::arg("biases"), py::arg("threads"), py::arg("element"), Release());
  m.def(
      "grouped_mlp_backward",
      [](const std::string& instruction_set, Precision precision, const std::array<int64_t, 5>& sizes,
         Activation activation, const std::array<uintptr_t, 2>& x_and_grad, const std::array<uintptr_t, 3>& weights,
         const std::array<uintptr_t, 5>& gradients, int threads, Element element) {
        const auto& [rows, groups, channels, hidden, out_channels] = sizes;
        GroupedMlpBackward block{};
        block.in = {
            at<const float>(weights[0]), nullptr, nullptr, at<const float>(weights[1]), groups, channels, hidden};
        block.out = {at<const float>(weights[2]), nullptr, nullptr, nullptr, groups, hidden, out_channels};
        block.activation = activation;
        block.rows = rows;
        block.element = element;
        block.x = at<const void>(x_and_grad[0]);
        block.grad = at<const void>(x_and_grad[1]);
        block.grad_x = at<void>(gradients[0]);
        block.grad_weight_in = at<float>(gradients[1]);
        block.grad_bias_in = at<float>(gradients[2]);
        block.grad_weight_out = at<float>(gradients[3]);
        block.grad_bias_out = at<float>(gradients[4]);
        grouped_mlp_backward(kernels_named(instruction_set), precision, block, threads);
      },
      py::arg("instruction_set"), py::arg("precision"), py::arg("sizes"), py::arg("activation"), py::arg("x_and_grad"),
      py::arg("weights"), py::arg("gradients"), py::arg("threads"), py::arg("element"), Release());
  m.def(
      "activation_backward",
      [](const std::string& instruction_set, Activation activation, uintptr_t z, uintptr_t grad, int64_t count,
         int threads) {
        activation_backward(kernels_named(instruction_set), activation, at<float>(z), at<float>(grad), count, threads);
      },
      py::arg("instruction_set"), py::arg("activation"), py::arg("z"), py::arg("grad"), py::arg("count"),
      py::arg("threads"), Release());
}

}  // namespace squeezebert
