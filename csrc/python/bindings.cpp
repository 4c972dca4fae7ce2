// squeezebert_fast._native: the kernels for Python, on addresses, sizes and strides.
//
// Nothing here looks at a tensor: squeezebert_fast/backends/cpu.py checks dtype, shape, strides and device, in one
// place, and keeps the tensors alive during a call. The interpreter lock is released while a kernel runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../core/cpu_features.h"
#include "../core/embeddings.h"
#include "../core/encoder/encoder.h"
#include "../core/fingerprint.h"
#include "../core/grouped_pointwise_conv.h"
#include "../core/instruction_sets.h"
#include "../core/rates.h"
#include "../core/thread_team.h"
#include "../core/weight_gradient.h"
#include "arguments.h"

namespace py = pybind11;
using namespace squeezebert;

namespace {

// A convolution as Python hands it over: addresses of weight, quantized weight, scale and bias, groups, in and out
// channels, scales of a group. Of weight and quantized one is 0, as are scale and bias where there is none.
using ConvTuple = std::tuple<uintptr_t, uintptr_t, uintptr_t, uintptr_t, int64_t, int64_t, int64_t, int64_t>;
using PackedConvs = std::vector<const PackedGroupedPointwiseConv*>;
using NormTuple = std::tuple<uintptr_t, uintptr_t, float>;  // weight, bias, eps

ConvWeights conv_of(const ConvTuple& t) {
  const auto& [weight, quantized, scale, bias, groups, in_channels, out_channels, scales] = t;
  return {at<const float>(weight),
          at<const int8_t>(quantized),
          at<const float>(scale),
          at<const float>(bias),
          groups,
          in_channels,
          out_channels,
          scales};
}

NormWeights norm_of(const NormTuple& t) {
  const auto& [weight, bias, eps] = t;
  return {at<const float>(weight), at<const float>(bias), eps};
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Kernels on addresses, sizes and strides. Private: use squeezebert_fast.ops.";

  m.def("cpu_features", &cpu_feature_names, "Names of the features that kernels use and CPU and system support.");
  m.def("amx_refusal", &amx_refusal, "Why AMX can't be used although the CPU has it, or an empty string.");
  m.def(
      "instruction_sets",
      [] {
        std::vector<std::string> names;
        for (const KernelTable* kernels : usable_kernels()) names.emplace_back(kernels->name);
        return names;
      },
      "Names of the kernel builds that are usable here, best first.");
  m.def("thread_runtime", &thread_runtime, "Where threads come from: a borrowed OpenMP runtime or the own pool.");

  py::enum_<Activation>(m, "Activation")
      .value("none", Activation::none)
      .value("gelu", Activation::gelu)
      .value("gelu_tanh", Activation::gelu_tanh)
      .value("relu", Activation::relu)
      .value("silu", Activation::silu)
      .value("tanh", Activation::tanh);

  py::enum_<Precision>(m, "Precision")
      .value("float32", Precision::float32)
      .value("bfloat16", Precision::bfloat16)
      .value("int8", Precision::int8)
      .value("float32_highest", Precision::float32_highest)
      .value("float32_high", Precision::float32_high)
      .value("float32_medium", Precision::float32_medium);

  py::enum_<Element>(m, "Element").value("float32", Element::float32).value("bfloat16", Element::bfloat16);

  const auto rate = [&](const char* name, auto function, const char* doc) {
    m.def(
        name,
        [function](const std::string& instruction_set, Precision precision, int threads, double seconds) {
          return function(kernels_named(instruction_set), precision, threads, seconds);
        },
        py::arg("instruction_set"), py::arg("precision"), py::arg("threads"), py::arg("seconds"),
        py::call_guard<py::gil_scoped_release>(), doc);
  };
  rate("multiply_add_rate", &multiply_add_rate,
       "Operations per second of register-only multiply-adds: the limit to measure against.");
  rate("tile_rate", &tile_rate, "Operations per second of one tile of a product that stays in the first-level cache.");
  m.def(
      "has_instruction",
      [](const std::string& name, Precision precision) {
        const KernelTable& kernels = kernels_named(name);
        return precision == Precision::float32 || kernels.precision[static_cast<int>(precision)].native;
      },
      py::arg("instruction_set"), py::arg("precision"),
      "Whether the build multiplies in this precision by an instruction made for it, not by wider ones.");
  m.def(
      "has_gradients",
      [](const std::string& name, Precision precision) { return has_gradients(kernels_named(name), precision); },
      py::arg("instruction_set"), py::arg("precision"), "Whether products of gradients run in this precision.");

  m.def(
      "scores_precision",
      [](const std::string& name, Precision precision) {
        return kernels_named(name).precision[static_cast<int>(precision)].scores;
      },
      py::arg("instruction_set"), py::arg("precision"),
      "What an encoder in this precision multiplies attention's scores and values in.");
  m.def(
      "products_by_parts",
      [](const std::string& name, Precision precision) {
        return kernels_named(name).precision[static_cast<int>(precision)].products;
      },
      py::arg("instruction_set"), py::arg("precision"),
      "How many products of bfloat16 on matrix units stand for one of float32; 0 where none do.");

  // rows, whether they are taken to int8 and back, quantized, scale, size
  using TableTuple = std::tuple<uintptr_t, bool, uintptr_t, uintptr_t, int64_t>;
  m.def(
      "embeddings",
      [](const std::string& instruction_set, const std::array<TableTuple, 3>& tables,
         const std::array<uintptr_t, 3>& ids, const NormTuple& norm, int64_t rows, int64_t tokens, int64_t channels,
         uintptr_t y, int threads) {
        Embeddings e{};
        for (std::size_t t = 0; t < 3; ++t) {
          const auto& [floats, rounded, quantized, scale, size] = tables[t];
          e.tables[t] = {at<const float>(floats), rounded, at<const int8_t>(quantized), at<const float>(scale), size};
          e.ids[t] = at<const int64_t>(ids[t]);
        }
        const NormWeights weights = norm_of(norm);
        e.norm_weight = weights.weight;
        e.norm_bias = weights.bias;
        e.eps = weights.eps;
        e.tokens = tokens;
        e.channels = channels;
        e.y = at<float>(y);
        return run_embeddings(kernels_named(instruction_set), e, rows, threads);
      },
      py::arg("instruction_set"), py::arg("tables"), py::arg("ids"), py::arg("norm"), py::arg("rows"),
      py::arg("tokens"), py::arg("channels"), py::arg("y"), py::arg("threads"),
      py::call_guard<py::gil_scoped_release>(),
      "Sum of three tables' rows, normalised. False, with nothing written, when an id is out of its table's range.");

  bind_heads(m);
  bind_training(m);
  bind_watch(m);

  using SpansTuple = std::tuple<uintptr_t, int64_t, int64_t>;  // values, size, elements of a span
  py::class_<Fingerprint>(m, "Fingerprint")
      .def(py::init([](const std::vector<SpansTuple>& tensors, int64_t samples, int threads) {
             std::vector<Fingerprint::Tensor> all;
             for (const auto& [values, size, span] : tensors) all.push_back({at<const float>(values), size, span});
             py::gil_scoped_release release;
             return std::make_unique<Fingerprint>(all, samples, threads);
           }),
           py::arg("tensors"), py::arg("samples"), py::arg("threads"))
      .def("match", &Fingerprint::match, py::arg("rows"), py::arg("threads"), py::call_guard<py::gil_scoped_release>())
      .def(
          "spans_match",
          [](const Fingerprint& self, uintptr_t indices, int64_t count) {
            return self.spans_match(at<const int64_t>(indices), count);
          },
          py::arg("indices"), py::arg("count"), py::call_guard<py::gil_scoped_release>())
      .def_readonly_static("rows_for_all", &Fingerprint::kRowsForAll);

  py::class_<PackedGroupedPointwiseConv>(m, "PackedGroupedPointwiseConv")
      .def(py::init([](const std::string& instruction_set, Precision precision, const ConvTuple& conv, int threads,
                       bool transposed) {
             const KernelTable& kernels = kernels_named(instruction_set);
             ConvWeights weights = conv_of(conv);
             weights.transposed = transposed;
             py::gil_scoped_release release;
             return std::make_unique<PackedGroupedPointwiseConv>(kernels, precision, weights, threads);
           }),
           py::arg("instruction_set"), py::arg("precision"), py::arg("conv"), py::arg("threads"),
           py::arg("transposed") = false)
      .def(
          "run",
          [](const PackedGroupedPointwiseConv& self, uintptr_t x, int64_t x_row_stride, int64_t tokens, uintptr_t bias,
             uintptr_t y, int64_t y_row_stride, Activation activation, int threads, Element element) {
            self.run(at<const void>(x), x_row_stride, tokens, at<const float>(bias), at<void>(y), y_row_stride,
                     activation, threads, element);
          },
          py::arg("x"), py::arg("x_row_stride"), py::arg("tokens"), py::arg("bias"), py::arg("y"),
          py::arg("y_row_stride"), py::arg("activation"), py::arg("threads"), py::arg("element"),
          py::call_guard<py::gil_scoped_release>())
      .def_static(
          "run_side_by_side",
          [](const PackedConvs& convs, uintptr_t x, int64_t tokens, const std::vector<uintptr_t>& biases,
             const std::vector<uintptr_t>& ys, int threads, Element element) {
            std::vector<PackedGroupedPointwiseConv::Term> terms;
            for (std::size_t i = 0; i < convs.size(); ++i) {
              terms.push_back({convs[i], at<const void>(x), at<const float>(biases.at(i)), at<void>(ys.at(i))});
            }
            PackedGroupedPointwiseConv::run_side_by_side(terms, tokens, threads, element);
          },
          py::arg("convs"), py::arg("x"), py::arg("tokens"), py::arg("biases"), py::arg("ys"), py::arg("threads"),
          py::arg("element"), py::call_guard<py::gil_scoped_release>())
      .def_static(
          "run_sum",
          [](const PackedConvs& convs, const std::vector<uintptr_t>& xs, int64_t tokens, uintptr_t y, int threads,
             Element element) {
            std::vector<PackedGroupedPointwiseConv::Term> terms;
            for (std::size_t i = 0; i < convs.size(); ++i) {
              terms.push_back({convs[i], at<const void>(xs.at(i)), nullptr, at<void>(y)});
            }
            PackedGroupedPointwiseConv::run_sum(terms, tokens, threads, element);
          },
          py::arg("convs"), py::arg("xs"), py::arg("tokens"), py::arg("y"), py::arg("threads"), py::arg("element"),
          py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("instruction_set",
                             [](const PackedGroupedPointwiseConv& self) { return self.kernels().name; })
      .def_property_readonly("precision", &PackedGroupedPointwiseConv::precision)
      .def_property_readonly("in_channels", &PackedGroupedPointwiseConv::in_channels)
      .def_property_readonly("out_channels", &PackedGroupedPointwiseConv::out_channels)
      .def_property_readonly("groups", &PackedGroupedPointwiseConv::groups)
      .def_property_readonly("bytes", &PackedGroupedPointwiseConv::bytes);

  const auto input_of = [](uintptr_t x, int64_t batch, int64_t tokens, int64_t sequence_stride, int64_t row_stride,
                           uintptr_t mask, const std::array<int64_t, 3>& mask_strides, bool unpad, uintptr_t y,
                           const std::vector<uintptr_t>& states) {
    EncoderInput input{};
    input.x = at<const float>(x);
    input.batch = batch;
    input.tokens = tokens;
    input.sequence_stride = sequence_stride;
    input.row_stride = row_stride;
    input.mask = at<const float>(mask);
    input.mask_sequence_stride = mask_strides[0];
    input.mask_head_stride = mask_strides[1];
    input.mask_query_stride = mask_strides[2];
    input.unpad = unpad;
    input.y = at<float>(y);
    input.states = states.empty() ? nullptr : reinterpret_cast<float* const*>(states.data());
    return input;
  };
  py::class_<Encoder>(m, "Encoder")
      .def(py::init([](const std::string& instruction_set, Precision precision) {
             return std::make_unique<Encoder>(kernels_named(instruction_set), precision);
           }),
           py::arg("instruction_set"), py::arg("precision"))
      .def(
          "add_layer",
          [](Encoder& self, int64_t heads, Activation activation, const std::array<ConvTuple, 6>& convs,
             const std::array<NormTuple, 2>& norms) {
            self.add_layer({heads, activation, conv_of(convs[0]), conv_of(convs[1]), conv_of(convs[2]),
                            conv_of(convs[3]), conv_of(convs[4]), conv_of(convs[5]), norm_of(norms[0]),
                            norm_of(norms[1])});
          },
          py::arg("heads"), py::arg("activation"), py::arg("convs"), py::arg("norms"))
      .def("pack", &Encoder::pack, py::arg("threads"), py::call_guard<py::gil_scoped_release>())
      .def(
          "run",
          [input_of](const Encoder& self, uintptr_t x, int64_t batch, int64_t tokens, int64_t sequence_stride,
                     int64_t row_stride, uintptr_t mask, const std::array<int64_t, 3>& mask_strides, bool unpad,
                     uintptr_t y, const std::vector<uintptr_t>& states, int threads) {
            self.run(input_of(x, batch, tokens, sequence_stride, row_stride, mask, mask_strides, unpad, y, states),
                     threads);
          },
          py::arg("x"), py::arg("batch"), py::arg("tokens"), py::arg("sequence_stride"), py::arg("row_stride"),
          py::arg("mask"), py::arg("mask_strides"), py::arg("unpad"), py::arg("y"), py::arg("states"),
          py::arg("threads"), py::call_guard<py::gil_scoped_release>())
      .def(
          "profile",
          [input_of](const Encoder& self, uintptr_t x, int64_t batch, int64_t tokens, int64_t sequence_stride,
                     int64_t row_stride, uintptr_t y, int threads) {
            Encoder::Times times;
            self.run(input_of(x, batch, tokens, sequence_stride, row_stride, 0, {}, false, y, {}), threads, &times);
            return std::array<double, 3>{times.attention, times.post_attention, times.feed_forward};
          },
          py::arg("x"), py::arg("batch"), py::arg("tokens"), py::arg("sequence_stride"), py::arg("row_stride"),
          py::arg("y"), py::arg("threads"), py::call_guard<py::gil_scoped_release>(),
          "As run; returns the seconds that the attention, post-attention and feed-forward passes took.")
      .def_property_readonly("instruction_set", [](const Encoder& self) { return self.kernels().name; })
      .def_property_readonly("precision", &Encoder::precision)
      .def_property_readonly("bytes", &Encoder::bytes)
      .def_property_readonly_static("long_sequence", [](const py::object&) { return Encoder::kLongSequence; });
}
