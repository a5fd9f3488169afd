// Layers and attention with gradients.
#include <span>

#include "attention_training.h"
#include "bind.h"
#include "sparse_linear.h"

namespace pruneonce::python {
namespace {

void init_sparse_linear(SparseLinear* self, const Array<const std::int64_t, 1>& row_ptr,
                        const Array<const std::int32_t, 1>& col, std::size_t cols,
                        const std::optional<std::string>& isa, const std::optional<std::size_t>& l1_bytes,
                        const std::optional<std::size_t>& threads) {
  const Machine machine = machine_of("SparseLinear", isa, l1_bytes, threads);
  const Computing computing;
  new (self) SparseLinear({{row_ptr.data(), row_ptr.size()}, {col.data(), col.size()}, cols}, machine);
}

template <class Rows>
void require_rows(const char* who, const char* name, const Rows& rows, std::size_t tokens, std::size_t features) {
  if (rows.shape(0) != tokens || rows.shape(1) != features)
    refuse(who, std::string(name) + " is [" + to_string(rows.shape(0)) + ", " + to_string(rows.shape(1)) +
                    "], expected [" + to_string(tokens) + ", " + to_string(features) + "]");
}

void forward(const SparseLinear& linear, const Vector& values, const std::optional<Vector>& bias, const Matrix& x,
             const Array<float, 2>& y) {
  require_length("forward", "values", values, linear.nonzeros());
  require_length("forward", "bias", bias, linear.rows());
  require_rows("forward", "x", x, x.shape(0), linear.cols());
  require_rows("forward", "y", y, x.shape(0), linear.rows());
  const Computing computing;
  linear.forward(values.data(), data_of(bias), x.data(), x.shape(0), y.data());
}

void backward(const SparseLinear& linear, const Vector& values, const Matrix& x, const Matrix& dy,
              const std::optional<Array<float, 2>>& dx, const std::optional<Array<float, 1>>& dvalues,
              const std::optional<Array<float, 1>>& dbias) {
  require_length("backward", "values", values, linear.nonzeros());
  require_rows("backward", "x", x, x.shape(0), linear.cols());
  require_rows("backward", "dy", dy, x.shape(0), linear.rows());
  if (dx) require_rows("backward", "dx", *dx, x.shape(0), linear.cols());
  require_length("backward", "dvalues", dvalues, linear.nonzeros());
  require_length("backward", "dbias", dbias, linear.rows());
  const Computing computing;
  linear.backward(values.data(), x.data(), dy.data(), x.shape(0), dx ? dx->data() : nullptr,
                  dvalues ? dvalues->data() : nullptr, dbias ? dbias->data() : nullptr);
}

using Heads = Array<const float, 4>;  // [sequences, tokens, heads, head size]

template <class First, class Other>
void require_same_shape(const char* who, const char* name, const First& first, const Other& other) {
  for (std::size_t i = 0; i < 4; ++i)
    if (other.shape(i) != first.shape(i)) refuse(who, std::string(name) + " has another shape than q");
}

AttentionShape attention_shape(const char* who, const Heads& q, const Array<const std::int64_t, 1>& lengths) {
  if (q.shape(3) == 0 || q.shape(3) % 16 != 0)
    refuse(who, "a head has " + to_string(q.shape(3)) + " features, expected a multiple of 16");
  if (lengths.shape(0) != q.shape(0))
    refuse(who, to_string(lengths.shape(0)) + " lengths for " + to_string(q.shape(0)) + " sequences");
  for (std::size_t i = 0; i < lengths.shape(0); ++i)
    if (lengths.data()[i] < 1 || static_cast<std::uint64_t>(lengths.data()[i]) > q.shape(1))
      refuse(who, "lengths must be 1 to " + to_string(q.shape(1)) + ", got " + to_string(lengths.data()[i]));
  return {q.shape(0), q.shape(1), q.shape(2), q.shape(3), {lengths.data(), lengths.size()}};
}

void attend(const Heads& q, const Heads& k, const Heads& v, const Array<const std::int64_t, 1>& lengths, float scale,
            const Array<float, 4>& out, const std::optional<std::string>& isa) {
  const Isa chosen = choose_isa(isa);
  const AttentionShape shape = attention_shape("attend", q, lengths);
  require_same_shape("attend", "k", q, k);
  require_same_shape("attend", "v", q, v);
  require_same_shape("attend", "out", q, out);
  const Computing computing;
  pruneonce::attend(chosen, shape, q.data(), k.data(), v.data(), scale, out.data());
}

void attend_backward(const Heads& q, const Heads& k, const Heads& v, const Array<const std::int64_t, 1>& lengths,
                     float scale, const Heads& dout, const Array<float, 4>& dq, const Array<float, 4>& dk,
                     const Array<float, 4>& dv, const std::optional<std::string>& isa) {
  const Isa chosen = choose_isa(isa);
  const AttentionShape shape = attention_shape("attend_backward", q, lengths);
  require_same_shape("attend_backward", "k", q, k);
  require_same_shape("attend_backward", "v", q, v);
  require_same_shape("attend_backward", "dout", q, dout);
  require_same_shape("attend_backward", "dq", q, dq);
  require_same_shape("attend_backward", "dk", q, dk);
  require_same_shape("attend_backward", "dv", q, dv);
  const Computing computing;
  pruneonce::attend_backward(chosen, shape, q.data(), k.data(), v.data(), scale, dout.data(), dq.data(), dk.data(),
                             dv.data());
}

}  // namespace

void bind_training(nb::module_& m) {
  nb::class_<SparseLinear>(m, "SparseLinear", "The zeros of a matrix in training; the values are the caller's.")
      .def("__init__", &init_sparse_linear, "row_ptr"_a.noconvert(), "col"_a.noconvert(), nb::kw_only(), "cols"_a,
           "isa"_a = nb::none(), "l1_bytes"_a = nb::none(), "threads"_a = nb::none(),
           "Pack a pattern for both directions.\n\n"
           "row_ptr: int64 [rows + 1]; col: int32 [non-zeros], rising within a row. isa, l1_bytes, threads: of the "
           "machine\n"
           "that it is packed for, else what is found here. ValueError says which rule is broken.")
      .def_prop_ro("rows", &SparseLinear::rows)
      .def_prop_ro("cols", &SparseLinear::cols)
      .def_prop_ro("nonzeros", &SparseLinear::nonzeros)
      .def_prop_ro("isa", &isa_name<SparseLinear>)
      .def_prop_ro("nbytes", &SparseLinear::bytes, "Memory it takes, in bytes.")
      .def("forward", &forward, "values"_a.noconvert(), "bias"_a.noconvert().none(), "x"_a.noconvert(), nb::kw_only(),
           "y"_a.noconvert(),
           "y = x · Wᵀ + bias. values: float32 [non-zeros], row by row; x: [tokens, cols]; y: [tokens, rows].")
      .def("backward", &backward, "values"_a.noconvert(), "x"_a.noconvert(), "dy"_a.noconvert(), nb::kw_only(),
           "dx"_a.noconvert() = nb::none(), "dvalues"_a.noconvert() = nb::none(), "dbias"_a.noconvert() = nb::none(),
           "dx = dy · W, dvalues = dyᵀ · x at the non-zeros, dbias = the sum of dy; what is None is not computed.");

  m.def("attend", &attend, "q"_a.noconvert(), "k"_a.noconvert(), "v"_a.noconvert(), "lengths"_a.noconvert(),
        nb::kw_only(), "scale"_a, "out"_a.noconvert(), "isa"_a = nb::none(),
        "out = softmax(q kᵀ · scale) v, per sequence and head, for training.\n\n"
        "q, k, v, out: float32 [sequences, tokens, heads, head size], the last a multiple of 16; lengths: int64\n"
        "[sequences], real tokens of each. Others are not read, and 0 is written for them.");
  m.def("attend_backward", &attend_backward, "q"_a.noconvert(), "k"_a.noconvert(), "v"_a.noconvert(),
        "lengths"_a.noconvert(), nb::kw_only(), "scale"_a, "dout"_a.noconvert(), "dq"_a.noconvert(), "dk"_a.noconvert(),
        "dv"_a.noconvert(), "isa"_a = nb::none(), "Gradients of `attend`; shapes as there.");
}

}  // namespace pruneonce::python
