// The Python module: argument checks and conversions only.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu_isa.h"
#include "pack.h"
#include "parallel.h"
#include "spmm.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class Scalar, std::size_t dimensions>
using Array = nb::ndarray<Scalar, nb::numpy, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using Vector = Array<const float, 1>;
using Matrix = Array<const float, 2>;
using MutableMatrix = Array<float, 2>;
using std::to_string;

bool overlap(const float* a, std::size_t a_size, const float* b, std::size_t b_size) {
  return a_size && b_size && std::less<>{}(a, b + b_size) && std::less<>{}(b, a + a_size);
}

void init_packed_weight(pruneonce::PackedWeight* self, const Array<const std::int64_t, 1>& row_ptr,
                        const Array<const std::int32_t, 1>& col, const Vector& values, std::size_t cols,
                        const std::optional<std::string>& isa) {
  new (self) pruneonce::PackedWeight(
      {{row_ptr.data(), row_ptr.size()}, {col.data(), col.size()}, {values.data(), values.size()}, cols},
      pruneonce::choose_isa(isa));
}

void spmm(const pruneonce::PackedWeight& weight, const Matrix& x, const MutableMatrix& out,
          const std::optional<Vector>& bias) {
  if (x.shape(0) != weight.cols())
    throw std::invalid_argument("[spmm] x has " + to_string(x.shape(0)) + " features, the weight expects " +
                                to_string(weight.cols()));
  if (out.shape(0) != weight.rows() || out.shape(1) != x.shape(1))
    throw std::invalid_argument("[spmm] out is [" + to_string(out.shape(0)) + ", " + to_string(out.shape(1)) +
                                "], expected [" + to_string(weight.rows()) + ", " + to_string(x.shape(1)) + "]");
  if (bias && bias->shape(0) != weight.rows())
    throw std::invalid_argument("[spmm] bias has " + to_string(bias->shape(0)) + " entries, the weight " +
                                to_string(weight.rows()) + " rows");
  if (overlap(x.data(), x.size(), out.data(), out.size()) ||
      (bias && overlap(bias->data(), bias->size(), out.data(), out.size())))
    throw std::invalid_argument("[spmm] out shares memory with x or bias");
  pruneonce::spmm(weight, x.data(), bias ? bias->data() : nullptr, out.data(), x.shape(1));
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (pruneonce::Isa isa : pruneonce::available_isas()) names.emplace_back(name_of(isa));
  return names;
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Sparse kernels. Activations are feature-major: [features, tokens], tokens contiguous.";

  m.def("available_isas", &available_isas, "Instruction sets of this build that this processor has, fastest last.");
  m.def("choose_isa", [] { return std::string(name_of(pruneonce::choose_isa())); },
        "The instruction set in use: $PRUNEONCE_ISA, else the fastest available.");
  m.def("num_threads", &pruneonce::num_threads);
  m.def("set_num_threads", &pruneonce::set_num_threads, "count"_a,
        "Use `count` threads, the calling one included, from the next call on.");

  nb::class_<pruneonce::PackedWeight>(m, "PackedWeight", "A sparse matrix, packed for this processor.")
      .def("__init__", &init_packed_weight, "row_ptr"_a.noconvert(), "col"_a.noconvert(), "values"_a.noconvert(),
           nb::kw_only(), "cols"_a, "isa"_a = nb::none(), nb::call_guard<nb::gil_scoped_release>(),
           "Pack compressed sparse rows.\n\n"
           "row_ptr: int64 [rows + 1]; col: int32 [non-zeros], rising within a row; values: float32 [non-zeros].\n"
           "ValueError says which rule is broken. `isa` overrides $PRUNEONCE_ISA.")
      .def_prop_ro("rows", &pruneonce::PackedWeight::rows)
      .def_prop_ro("cols", &pruneonce::PackedWeight::cols)
      .def_prop_ro("nonzeros", &pruneonce::PackedWeight::nonzeros)
      .def_prop_ro("isa", [](const pruneonce::PackedWeight& weight) { return std::string(name_of(weight.isa())); })
      .def_prop_ro("nbytes", &pruneonce::PackedWeight::bytes, "Memory it takes, in bytes.");

  // noconvert: otherwise nanobind would write the result into a temporary copy of `out`.
  m.def("spmm", &spmm, "weight"_a, "x"_a.noconvert(), nb::kw_only(), "out"_a.noconvert(),
        "bias"_a.noconvert() = nb::none(), nb::call_guard<nb::gil_scoped_release>(),
        "Write weight · x + bias into out.\n\nx: [cols, tokens]; out: [rows, tokens]; bias: [rows]; all float32.");

  m.def(
      "run_multiply_adds",
      [](std::size_t iterations, const std::optional<std::string>& isa) {
        return pruneonce::run_multiply_adds(pruneonce::choose_isa(isa), iterations);
      },
      "iterations"_a, nb::kw_only(), "isa"_a = nb::none(), nb::call_guard<nb::gil_scoped_release>(),
      "Multiply and add on registers alone, on every thread; returns the floating point operations done.\n\n"
      "Timed, it gives the processor's peak, against which the kernels are measured.");
}
