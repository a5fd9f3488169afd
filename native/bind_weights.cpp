// Matrices, packed for a machine; and where the non-zeros of stored ones are.
#include "bind.h"
#include "dense.h"
#include "int8_dense.h"
#include "int8_pack.h"
#include "pack.h"
#include "rice.h"

namespace pruneonce::python {
namespace {

void init_packed_weight(PackedWeight* self, const Array<const std::int64_t, 1>& row_ptr,
                        const Array<const std::int32_t, 1>& col, const Vector& values, std::size_t cols,
                        const std::optional<std::string>& isa, const std::optional<std::size_t>& l1_bytes,
                        const std::optional<std::size_t>& threads) {
  const Machine machine = machine_of("PackedWeight", isa, l1_bytes, threads);
  const Computing computing;
  new (self) PackedWeight({{row_ptr.data(), row_ptr.size()}, {col.data(), col.size()}, cols},
                          {values.data(), values.size()}, machine);
}

void init_dense_weight(DenseWeight* self, const Matrix& weight, const std::optional<std::string>& isa) {
  const Isa chosen = choose_isa(isa);
  const Computing computing;
  new (self) DenseWeight(weight.data(), weight.shape(0), weight.shape(1), chosen);
}

void init_int8_weight(Int8Weight* self, const Array<const std::int64_t, 1>& row_ptr,
                      const Array<const std::int32_t, 1>& col, const Array<const std::int8_t, 1>& values,
                      const Vector& scale, std::size_t cols, float input_scale, std::int32_t input_zero_point,
                      const std::string& fours, const std::optional<std::string>& isa,
                      const std::optional<std::size_t>& l1_bytes, const std::optional<std::size_t>& threads) {
  if (fours != "any" && fours != "neighbours")
    refuse("Int8Weight", "fours is '" + fours + "', expected any or neighbours");
  const Machine machine = machine_of("Int8Weight", isa, l1_bytes, threads);
  const Computing computing;
  new (self) Int8Weight({{row_ptr.data(), row_ptr.size()}, {col.data(), col.size()}, cols},
                        {values.data(), values.size()}, {{scale.data(), scale.size()}, input_scale, input_zero_point},
                        fours == "any" ? Fours::any : Fours::neighbours, machine);
}

void init_int8_dense_weight(Int8DenseWeight* self, const Array<const std::int8_t, 2>& weight, const Vector& scale,
                            float input_scale, std::int32_t input_zero_point, const std::optional<std::string>& isa) {
  const Isa chosen = choose_isa(isa);
  const Computing computing;
  new (self) Int8DenseWeight(weight.data(), weight.shape(0), weight.shape(1),
                             {{scale.data(), scale.size()}, input_scale, input_zero_point}, chosen);
}

}  // namespace

void bind_weights(nb::module_& m) {
  nb::class_<PackedWeight>(m, "PackedWeight", "A sparse matrix, packed for this processor.")
      .def("__init__", &init_packed_weight, "row_ptr"_a.noconvert(), "col"_a.noconvert(), "values"_a.noconvert(),
           nb::kw_only(), "cols"_a, "isa"_a = nb::none(), "l1_bytes"_a = nb::none(), "threads"_a = nb::none(),
           "Pack compressed sparse rows.\n\n"
           "row_ptr: int64 [rows + 1]; col: int32 [non-zeros], rising within a row; values: float32 [non-zeros].\n"
           "isa, l1_bytes, threads: of the machine that it is packed for, else $PRUNEONCE_ISA and what is found here.\n"
           "ValueError says which rule is broken.")
      .def_prop_ro("rows", &PackedWeight::rows)
      .def_prop_ro("cols", &PackedWeight::cols)
      .def_prop_ro("nonzeros", &PackedWeight::nonzeros)
      .def_prop_ro("isa", &isa_name<PackedWeight>)
      .def_prop_ro("nbytes", &PackedWeight::bytes, "Memory it takes, in bytes.");

  nb::class_<DenseWeight>(m, "DenseWeight", "A dense matrix, packed for this processor.")
      .def("__init__", &init_dense_weight, "weight"_a.noconvert(), nb::kw_only(), "isa"_a = nb::none(),
           "weight: float32 [rows, cols].")
      .def_prop_ro("rows", &DenseWeight::rows)
      .def_prop_ro("cols", &DenseWeight::cols)
      .def_prop_ro("isa", &isa_name<DenseWeight>)
      .def_prop_ro("nbytes", &DenseWeight::bytes, "Memory it takes, in bytes.");

  nb::class_<Int8Weight>(m, "Int8Weight", "A sparse matrix of 8-bit weights, packed for this processor.")
      .def("__init__", &init_int8_weight, "row_ptr"_a.noconvert(), "col"_a.noconvert(), "values"_a.noconvert(),
           "scale"_a.noconvert(), nb::kw_only(), "cols"_a, "input_scale"_a, "input_zero_point"_a, "fours"_a = "any",
           "isa"_a = nb::none(), "l1_bytes"_a = nb::none(), "threads"_a = nb::none(),
           "Pack compressed sparse rows: weight = values · scale[row]; x = (code - zero point) · input scale.\n\n"
           "row_ptr: int64 [rows + 1]; col: int32 [non-zeros], rising within a row; values: int8 [non-zeros];\n"
           "scale: float32 [rows]. fours: which weights of a row are computed together, `any`, or those of four\n"
           "`neighbours`, for zeros in blocks. isa, l1_bytes, threads: of the machine that it is packed for, else what "
           "is\n"
           "found here. ValueError says which rule is broken.")
      .def_prop_ro("rows", &Int8Weight::rows)
      .def_prop_ro("cols", &Int8Weight::cols)
      .def_prop_ro("nonzeros", &Int8Weight::nonzeros)
      .def_prop_ro("stored", &Int8Weight::stored, "Weights in fours, zeros that fill them included.")
      .def_prop_ro("isa", &isa_name<Int8Weight>)
      .def_prop_ro("nbytes", &Int8Weight::bytes, "Memory it takes, in bytes.");

  nb::class_<Int8DenseWeight>(m, "Int8DenseWeight", "A dense matrix of 8-bit weights, packed for this processor.")
      .def("__init__", &init_int8_dense_weight, "weight"_a.noconvert(), "scale"_a.noconvert(), nb::kw_only(),
           "input_scale"_a, "input_zero_point"_a, "isa"_a = nb::none(),
           "weight: int8 [rows, cols]; scale: float32 [rows]. ValueError for scales that mean nothing.")
      .def_prop_ro("rows", &Int8DenseWeight::rows)
      .def_prop_ro("cols", &Int8DenseWeight::cols)
      .def_prop_ro("isa", &isa_name<Int8DenseWeight>)
      .def_prop_ro("nbytes", &Int8DenseWeight::bytes, "Memory it takes, in bytes.");

  m.def(
      "decode_rice",
      [](const Array<const std::uint8_t, 1>& data, unsigned bits, const Array<std::int32_t, 1>& out) {
        const Computing computing;
        if (!decode_rice({data.data(), data.size()}, bits, {out.data(), out.size()}))
          refuse("decode_rice", "the data does not hold " + to_string(out.size()) + " positions below 2^31");
      },
      "data"_a.noconvert(), "bits"_a, nb::kw_only(), "out"_a.noconvert(),
      "Write the positions that the rice codes of docs/format.md stand for: uint8 [bytes] to int32 [positions].");
  m.def(
      "rice_extent",
      [](const Array<const std::uint8_t, 1>& data, unsigned bits, std::size_t count) {
        if (bits > 8 || count > data.size() * 8) return std::int64_t{-1};
        const Computing computing;
        return rice_extent({data.data(), data.size()}, bits, count);
      },
      "data"_a.noconvert(), "bits"_a, "count"_a,
      "How many elements `count` rice codes cover; -1 if the data does not hold them, or a position passes 2^31 - 1.");
}

}  // namespace pruneonce::python
