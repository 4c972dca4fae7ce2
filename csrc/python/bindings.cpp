// squeezebert_fast._native: the kernels for Python, on addresses, sizes and strides.
//
// Nothing here looks at a tensor: squeezebert_fast/backends/cpu.py checks dtype, shape, strides and device, in one
// place, and keeps the tensors alive during a call. The interpreter lock is released while a kernel runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>

#include "../core/cpu_features.h"
#include "../core/grouped_pointwise_conv.h"
#include "../core/instruction_sets.h"
#include "../core/thread_team.h"

namespace py = pybind11;
using namespace squeezebert;

namespace {

const KernelTable& kernels_named(const std::string& name) {
  if (const KernelTable* kernels = find_kernels(name)) return *kernels;
  throw std::invalid_argument("instruction set '" + name + "' is not usable on this machine");
}

template <typename T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Floating-point operations per second of independent multiply-adds in registers, on `threads` threads, over about
// `seconds`.
double multiply_add_rate(const std::string& instruction_set, int threads, double seconds) {
  const KernelTable& kernels = kernels_named(instruction_set);
  using Clock = std::chrono::steady_clock;
  struct Context {
    const KernelTable* kernels;
    int64_t iterations;
  } context{&kernels, 20'000};
  const auto run = [&] {
    const auto start = Clock::now();
    run_tasks(
        threads, threads,
        [](const void* c, int64_t) {
          const auto* work = static_cast<const Context*>(c);
          work->kernels->multiply_add_chains(work->iterations);
        },
        &context);
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  run();  // starts the threads
  const double trial = std::min(run(), run());
  context.iterations = std::max<int64_t>(1000, static_cast<int64_t>(context.iterations * seconds / trial));
  const double elapsed = run();
  const double per_iteration = static_cast<double>(kernels.multiply_add_chains(1));
  return per_iteration * static_cast<double>(context.iterations) * threads / elapsed;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Kernels on addresses, sizes and strides. Private: use squeezebert_fast.ops.";

  m.def("cpu_features", &cpu_feature_names, "Names of the vector features that CPU and operating system support.");
  m.def(
      "instruction_sets",
      [] {
        std::vector<std::string> names;
        for (const KernelTable* kernels : usable_kernels()) names.emplace_back(kernels->name);
        return names;
      },
      "Names of the kernel builds that are usable here, best first.");
  m.def("thread_runtime", &thread_runtime, "Where threads come from: a borrowed OpenMP runtime or the own pool.");
  m.def("multiply_add_rate", &multiply_add_rate, py::arg("instruction_set"), py::arg("threads"), py::arg("seconds"),
        py::call_guard<py::gil_scoped_release>(),
        "Floating-point operations per second of register-only multiply-adds: the limit to measure against.");

  py::enum_<Activation>(m, "Activation")
      .value("none", Activation::none)
      .value("gelu", Activation::gelu)
      .value("gelu_tanh", Activation::gelu_tanh)
      .value("relu", Activation::relu)
      .value("silu", Activation::silu);

  py::class_<PackedGroupedPointwiseConv>(m, "PackedGroupedPointwiseConv")
      .def(py::init([](const std::string& instruction_set, uintptr_t weight, int64_t groups, int64_t out_per_group,
                       int64_t in_per_group, int threads) {
             const KernelTable& kernels = kernels_named(instruction_set);
             py::gil_scoped_release release;
             return std::make_unique<PackedGroupedPointwiseConv>(kernels, at<const float>(weight), groups,
                                                                 out_per_group, in_per_group, threads);
           }),
           py::arg("instruction_set"), py::arg("weight"), py::arg("groups"), py::arg("out_per_group"),
           py::arg("in_per_group"), py::arg("threads"))
      .def(
          "matches",
          [](const PackedGroupedPointwiseConv& self, uintptr_t weight) {
            return self.matches(at<const float>(weight));
          },
          py::arg("weight"))
      .def(
          "run",
          [](const PackedGroupedPointwiseConv& self, uintptr_t x, int64_t x_row_stride, int64_t tokens, uintptr_t bias,
             uintptr_t y, int64_t y_row_stride, Activation activation, int threads) {
            self.run(at<const float>(x), x_row_stride, tokens, at<const float>(bias), at<float>(y), y_row_stride,
                     activation, threads);
          },
          py::arg("x"), py::arg("x_row_stride"), py::arg("tokens"), py::arg("bias"), py::arg("y"),
          py::arg("y_row_stride"), py::arg("activation"), py::arg("threads"), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("instruction_set",
                             [](const PackedGroupedPointwiseConv& self) { return self.kernels().name; })
      .def_property_readonly("in_channels", &PackedGroupedPointwiseConv::in_channels)
      .def_property_readonly("out_channels", &PackedGroupedPointwiseConv::out_channels)
      .def_property_readonly("groups", &PackedGroupedPointwiseConv::groups)
      .def_property_readonly("bytes", &PackedGroupedPointwiseConv::bytes);
}
