// The Python module: argument checks and conversions only.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "attention.h"
#include "attention_training.h"
#include "cpu_isa.h"
#include "dense.h"
#include "elementwise.h"
#include "embeddings.h"
#include "int8.h"
#include "int8_pack.h"
#include "machine.h"
#include "memory.h"
#include "pack.h"
#include "parallel.h"
#include "rice.h"
#include "sparse_linear.h"
#include "spmm.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class Scalar, std::size_t dimensions>
using Array = nb::ndarray<Scalar, nb::numpy, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using Vector = Array<const float, 1>;
using Matrix = Array<const float, 2>;
using pruneonce::Activations;
using std::to_string;

[[noreturn]] void refuse(const std::string& who, const std::string& why) {
  throw std::invalid_argument("[" + who + "] " + why);
}

std::string shape_of(const Activations& x) { return "[" + to_string(x.features()) + ", " + to_string(x.tokens()) + "]"; }

void require_length(const char* who, const char* name, const std::optional<Vector>& vector, std::size_t length) {
  if (vector && vector->shape(0) != length)
    refuse(who, std::string(name) + " has " + to_string(vector->shape(0)) + " entries, expected " + to_string(length));
}

pruneonce::Nonlinearity nonlinearity_of(const std::string& name) {
  using pruneonce::Nonlinearity;
  if (name == "none") return Nonlinearity::none;
  if (name == "gelu") return Nonlinearity::gelu;
  if (name == "gelu_tanh") return Nonlinearity::gelu_tanh;
  if (name == "relu") return Nonlinearity::relu;
  refuse("multiply", "nonlinearity is '" + name + "', expected none, gelu, gelu_tanh or relu");
}

// What is not given is this machine's.
pruneonce::Machine machine_of(const char* who, const std::optional<std::string>& isa,
                              const std::optional<std::size_t>& l1_bytes, const std::optional<std::size_t>& threads) {
  pruneonce::Machine machine = pruneonce::this_machine(pruneonce::choose_isa(isa));
  if (l1_bytes) machine.l1_bytes = *l1_bytes;
  if (threads) machine.threads = *threads;
  if (machine.l1_bytes < pruneonce::kSmallestL1Bytes)
    refuse(who, "l1_bytes is " + to_string(machine.l1_bytes) + ", expected at least " +
                    to_string(pruneonce::kSmallestL1Bytes));
  if (machine.threads < 1 || machine.threads > pruneonce::kMaxThreads)
    refuse(who, "threads is " + to_string(machine.threads) + ", expected 1 to " + to_string(pruneonce::kMaxThreads));
  return machine;
}

void init_packed_weight(pruneonce::PackedWeight* self, const Array<const std::int64_t, 1>& row_ptr,
                        const Array<const std::int32_t, 1>& col, const Vector& values, std::size_t cols,
                        const std::optional<std::string>& isa,
                        const std::optional<std::size_t>& l1_bytes, const std::optional<std::size_t>& threads) {
  const pruneonce::Machine machine = machine_of("PackedWeight", isa, l1_bytes, threads);
  nb::gil_scoped_release release;
  new (self) pruneonce::PackedWeight(
      {{row_ptr.data(), row_ptr.size()}, {col.data(), col.size()}, cols}, {values.data(), values.size()}, machine);
}

void init_dense_weight(pruneonce::DenseWeight* self, const Matrix& weight, const std::optional<std::string>& isa) {
  const pruneonce::Isa chosen = pruneonce::choose_isa(isa);
  nb::gil_scoped_release release;
  new (self) pruneonce::DenseWeight(weight.data(), weight.shape(0), weight.shape(1), chosen);
}

void init_int8_weight(pruneonce::Int8Weight* self, const Array<const std::int64_t, 1>& row_ptr,
                      const Array<const std::int32_t, 1>& col, const Array<const std::int8_t, 1>& values,
                      const Vector& scale, std::size_t cols, float input_scale, std::int32_t input_zero_point,
                      const std::string& fours, const std::optional<std::string>& isa,
                        const std::optional<std::size_t>& l1_bytes, const std::optional<std::size_t>& threads) {
  if (fours != "any" && fours != "neighbours") refuse("Int8Weight", "fours is '" + fours + "', expected any or neighbours");
  const pruneonce::Machine machine = machine_of("Int8Weight", isa, l1_bytes, threads);
  nb::gil_scoped_release release;
  new (self) pruneonce::Int8Weight({{row_ptr.data(), row_ptr.size()}, {col.data(), col.size()}, cols},
                                   {values.data(), values.size()},
                                   {{scale.data(), scale.size()}, input_scale, input_zero_point},
                                   fours == "any" ? pruneonce::Fours::any : pruneonce::Fours::neighbours, machine);
}

void init_int8_dense_weight(pruneonce::Int8DenseWeight* self, const Array<const std::int8_t, 2>& weight,
                            const Vector& scale, float input_scale, std::int32_t input_zero_point,
                            const std::optional<std::string>& isa) {
  const pruneonce::Isa chosen = pruneonce::choose_isa(isa);
  nb::gil_scoped_release release;
  new (self) pruneonce::Int8DenseWeight(weight.data(), weight.shape(0), weight.shape(1),
                                        {{scale.data(), scale.size()}, input_scale, input_zero_point}, chosen);
}

void init_sparse_linear(pruneonce::SparseLinear* self, const Array<const std::int64_t, 1>& row_ptr,
                        const Array<const std::int32_t, 1>& col, std::size_t cols, const std::optional<std::string>& isa,
                        const std::optional<std::size_t>& l1_bytes, const std::optional<std::size_t>& threads) {
  const pruneonce::Machine machine = machine_of("SparseLinear", isa, l1_bytes, threads);
  nb::gil_scoped_release release;
  new (self) pruneonce::SparseLinear({{row_ptr.data(), row_ptr.size()}, {col.data(), col.size()}, cols}, machine);
}

template <class Rows>
void require_rows(const char* who, const char* name, const Rows& rows, std::size_t tokens, std::size_t features) {
  if (rows.shape(0) != tokens || rows.shape(1) != features)
    refuse(who, std::string(name) + " is [" + to_string(rows.shape(0)) + ", " + to_string(rows.shape(1)) + "], expected [" +
                    to_string(tokens) + ", " + to_string(features) + "]");
}

template <class Values>
void require_values(const char* who, const char* name, const Values& values, std::size_t count) {
  if (values.shape(0) != count)
    refuse(who, std::string(name) + " has " + to_string(values.shape(0)) + " entries, expected " + to_string(count));
}

void forward(const pruneonce::SparseLinear& linear, const Vector& values, const std::optional<Vector>& bias, const Matrix& x,
             const Array<float, 2>& y) {
  require_values("forward", "values", values, linear.nonzeros());
  require_length("forward", "bias", bias, linear.rows());
  require_rows("forward", "x", x, x.shape(0), linear.cols());
  require_rows("forward", "y", y, x.shape(0), linear.rows());
  nb::gil_scoped_release release;
  linear.forward(values.data(), bias ? bias->data() : nullptr, x.data(), x.shape(0), y.data());
}

void backward(const pruneonce::SparseLinear& linear, const Vector& values, const Matrix& x, const Matrix& dy,
              const std::optional<Array<float, 2>>& dx, const std::optional<Array<float, 1>>& dvalues,
              const std::optional<Array<float, 1>>& dbias) {
  require_values("backward", "values", values, linear.nonzeros());
  require_rows("backward", "x", x, x.shape(0), linear.cols());
  require_rows("backward", "dy", dy, x.shape(0), linear.rows());
  if (dx) require_rows("backward", "dx", *dx, x.shape(0), linear.cols());
  if (dvalues) require_values("backward", "dvalues", *dvalues, linear.nonzeros());
  if (dbias) require_values("backward", "dbias", *dbias, linear.rows());
  nb::gil_scoped_release release;
  linear.backward(values.data(), x.data(), dy.data(), x.shape(0), dx ? dx->data() : nullptr,
                  dvalues ? dvalues->data() : nullptr, dbias ? dbias->data() : nullptr);
}

template <class Weight>
void quantize(pruneonce::Codes& codes, const Activations& x, const Weight& weight) {
  if (x.isa() != codes.isa()) refuse("quantize", "x is laid out for another instruction set");
  nb::gil_scoped_release release;
  codes.quantize(x, weight.code());
}

template <class Object>
std::string isa_name(const Object& object) {
  return name_of(object.isa());
}

template <class Weight, class Input>
void multiply(const Weight& weight, const Input& x, Activations& out, const std::optional<Vector>& bias,
              const Activations* residual, const std::string& nonlinearity) {
  if (x.features() != weight.cols())
    refuse("multiply", "x has " + to_string(x.features()) + " features, the weight expects " + to_string(weight.cols()));
  if (out.features() != weight.rows())
    refuse("multiply", "out has " + to_string(out.features()) + " features, the weight gives " + to_string(weight.rows()));
  if (x.isa() != weight.isa() || out.isa() != weight.isa())
    refuse("multiply", "weight, x and out are laid out for different instruction sets");
  if constexpr (std::is_same_v<Input, pruneonce::Codes>)
    if (x.code() != weight.code()) refuse("multiply", "x was quantised for another weight");
  if (static_cast<const void*>(&out) == &x || &out == residual)
    refuse("multiply", "out must be neither x nor residual");
  if (residual && (residual->features() != weight.rows() || residual->tokens() != x.tokens() || residual->isa() != x.isa()))
    refuse("multiply", "residual is " + shape_of(*residual) + ", out " + to_string(weight.rows()) + " features of " +
                           to_string(x.tokens()) + " tokens");
  require_length("multiply", "bias", bias, weight.rows());
  const pruneonce::Nonlinearity f = nonlinearity_of(nonlinearity);
  nb::gil_scoped_release release;
  out.resize(x.tokens());
  pruneonce::multiply(weight, x, bias ? bias->data() : nullptr, residual, f, out);
}

template <class Weight, class Next>
void multiply_to_codes(const Weight& weight, const pruneonce::Codes& x, pruneonce::Codes& out, const Next& next,
                       const std::optional<Vector>& bias, const std::string& nonlinearity) {
  if (x.features() != weight.cols())
    refuse("multiply_to_codes",
           "x has " + to_string(x.features()) + " features, the weight expects " + to_string(weight.cols()));
  if (next.cols() != weight.rows())
    refuse("multiply_to_codes",
           "next has " + to_string(next.cols()) + " columns, the weight gives " + to_string(weight.rows()) + " features");
  if (x.code() != weight.code()) refuse("multiply_to_codes", "x was quantised for another weight");
  if (x.isa() != weight.isa() || out.isa() != weight.isa() || next.isa() != weight.isa())
    refuse("multiply_to_codes", "weight, x, out and next are laid out for different instruction sets");
  if (&out == &x) refuse("multiply_to_codes", "out must not be x");
  require_length("multiply_to_codes", "bias", bias, weight.rows());
  const pruneonce::Nonlinearity f = nonlinearity_of(nonlinearity);
  nb::gil_scoped_release release;
  pruneonce::multiply_to_codes(weight, x, bias ? bias->data() : nullptr, f, next.code(), out);
}

template <class Weight, class Next>
void define_multiply_to_codes(nb::module_& m) {
  m.def("multiply_to_codes", &multiply_to_codes<Weight, Next>, "weight"_a, "x"_a, nb::kw_only(), "out"_a, "next"_a,
        "bias"_a.noconvert() = nb::none(), "nonlinearity"_a = "none",
        "out = nonlinearity(weight · x + bias), quantised as `next` wants its input.\n\n"
        "The same codes as those of `multiply` and `quantize`, but floats never leave the caches.");
}

void attention(const Activations& qkv, const Array<const std::int64_t, 1>& starts, std::size_t heads, Activations& out) {
  if (heads == 0 || out.features() % heads != 0 || qkv.features() != 3 * out.features())
    refuse("attention", "qkv has " + to_string(qkv.features()) + " features and out " + to_string(out.features()) +
                            ": expected 3 to 1, and a multiple of " + to_string(heads) + " heads");
  if (qkv.isa() != out.isa()) refuse("attention", "qkv and out are laid out for different instruction sets");
  const std::span<const std::int64_t> span{starts.data(), starts.size()};
  bool rising = !span.empty() && span.front() == 0 && static_cast<std::uint64_t>(span.back()) == qkv.tokens();
  for (std::size_t i = 0; rising && i + 1 < span.size(); ++i) rising = span[i] < span[i + 1];
  if (!rising) refuse("attention", "starts must rise from 0 to the " + to_string(qkv.tokens()) + " tokens");
  nb::gil_scoped_release release;
  out.resize(qkv.tokens());
  pruneonce::attention(qkv, span, heads, out);
}

using Heads = Array<const float, 4>;  // [sequences, tokens, heads, head size]

template <class First, class Other>
void require_same_shape(const char* who, const char* name, const First& first, const Other& other) {
  for (std::size_t i = 0; i < 4; ++i)
    if (other.shape(i) != first.shape(i)) refuse(who, std::string(name) + " has another shape than q");
}

pruneonce::AttentionShape attention_shape(const char* who, const Heads& q, const Array<const std::int64_t, 1>& lengths) {
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
  const pruneonce::Isa chosen = pruneonce::choose_isa(isa);
  const pruneonce::AttentionShape shape = attention_shape("attend", q, lengths);
  require_same_shape("attend", "k", q, k);
  require_same_shape("attend", "v", q, v);
  require_same_shape("attend", "out", q, out);
  nb::gil_scoped_release release;
  pruneonce::attend(chosen, shape, q.data(), k.data(), v.data(), scale, out.data());
}

void attend_backward(const Heads& q, const Heads& k, const Heads& v, const Array<const std::int64_t, 1>& lengths, float scale,
                     const Heads& dout, const Array<float, 4>& dq, const Array<float, 4>& dk, const Array<float, 4>& dv,
                     const std::optional<std::string>& isa) {
  const pruneonce::Isa chosen = pruneonce::choose_isa(isa);
  const pruneonce::AttentionShape shape = attention_shape("attend_backward", q, lengths);
  require_same_shape("attend_backward", "k", q, k);
  require_same_shape("attend_backward", "v", q, v);
  require_same_shape("attend_backward", "dout", q, dout);
  require_same_shape("attend_backward", "dq", q, dq);
  require_same_shape("attend_backward", "dk", q, dk);
  require_same_shape("attend_backward", "dv", q, dv);
  nb::gil_scoped_release release;
  pruneonce::attend_backward(chosen, shape, q.data(), k.data(), v.data(), scale, dout.data(), dq.data(), dk.data(), dv.data());
}

void layer_norm(Activations& x, const Vector& scale, const Vector& shift, float epsilon) {
  require_length("layer_norm", "scale", scale, x.features());
  require_length("layer_norm", "shift", shift, x.features());
  nb::gil_scoped_release release;
  pruneonce::layer_norm(x, scale.data(), shift.data(), epsilon);
}

void load_rows(Activations& to, const Matrix& rows) {
  if (rows.shape(1) != to.features())
    refuse("load", "rows have " + to_string(rows.shape(1)) + " features, expected " + to_string(to.features()));
  nb::gil_scoped_release release;
  to.resize(rows.shape(0));
  pruneonce::load_rows(to, rows.data(), rows.shape(1));
}

void require_below(const char* name, const Array<const std::int64_t, 1>& numbers, std::size_t count, std::size_t limit) {
  if (numbers.size() != count)
    refuse("embed", std::string(name) + " has " + to_string(numbers.size()) + " entries, expected " + to_string(count));
  for (std::size_t i = 0; i < count; ++i)
    if (numbers.data()[i] < 0 || static_cast<std::uint64_t>(numbers.data()[i]) >= limit)
      refuse("embed", std::string(name) + " must be 0 to " + to_string(limit - 1) + ", got " + to_string(numbers.data()[i]));
}

void embed(const nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>& words, const std::string& type,
           const std::optional<Vector>& scale, const Matrix& positions, const std::optional<Matrix>& types,
           const Array<const std::int64_t, 1>& token_ids, const Array<const std::int64_t, 1>& position_ids,
           const Array<const std::int64_t, 1>& token_types, Activations& out) {
  using pruneonce::NumberType;
  pruneonce::Table table{words.data(), NumberType::fp32, scale ? scale->data() : nullptr};
  nb::dlpack::dtype stored = nb::dtype<float>();
  if (type == "fp16" || type == "bf16") {
    table.type = type == "fp16" ? NumberType::fp16 : NumberType::bf16;
    stored = nb::dtype<std::uint16_t>();
  } else if (type == "int8") {
    table.type = NumberType::int8;
    stored = nb::dtype<std::int8_t>();
  } else if (type != "fp32") {
    refuse("embed", "type is '" + type + "', expected fp32, fp16, bf16 or int8");
  }
  if (words.dtype() != stored) refuse("embed", "words are not stored as " + type);
  if ((table.type == NumberType::int8) != scale.has_value()) refuse("embed", "a scale belongs to int8, and to nothing else");
  require_length("embed", "scale", scale, words.shape(0));
  for (const Matrix* each : {&positions, types ? &*types : nullptr})
    if (each && each->shape(1) != out.features())
      refuse("embed", "a table has " + to_string(each->shape(1)) + " columns, out " + to_string(out.features()) + " features");
  if (words.shape(1) != out.features())
    refuse("embed", "words has " + to_string(words.shape(1)) + " columns, out " + to_string(out.features()) + " features");
  require_below("token_ids", token_ids, token_ids.size(), words.shape(0));
  require_below("position_ids", position_ids, token_ids.size(), positions.shape(0));
  require_below("token_types", token_types, token_ids.size(), types ? types->shape(0) : SIZE_MAX);
  nb::gil_scoped_release release;
  out.resize(token_ids.size());
  pruneonce::embed(table, positions.data(), types ? types->data() : nullptr, {token_ids.data(), token_ids.size()},
                   {position_ids.data(), position_ids.size()}, {token_types.data(), token_types.size()}, out);
}

void take(Activations& from, const Array<const std::int64_t, 1>& tokens) {
  const std::span<const std::int64_t> span{tokens.data(), tokens.size()};
  for (std::size_t i = 0; i < span.size(); ++i)
    if (span[i] < 0 || static_cast<std::uint64_t>(span[i]) >= from.tokens() || (i > 0 && span[i] <= span[i - 1]))
      refuse("take", "tokens must rise and be below " + to_string(from.tokens()));
  nb::gil_scoped_release release;
  pruneonce::take(from, span);
}

void store_rows(const Activations& from, const Array<float, 2>& out) {
  if (out.shape(0) != from.tokens() || out.shape(1) != from.features())
    refuse("store", "out is [" + to_string(out.shape(0)) + ", " + to_string(out.shape(1)) + "], expected [" +
                        to_string(from.tokens()) + ", " + to_string(from.features()) + "]");
  nb::gil_scoped_release release;
  pruneonce::store_rows(from, out.data(), out.shape(1));
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (pruneonce::Isa isa : pruneonce::available_isas()) names.emplace_back(name_of(isa));
  return names;
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Kernels of the encoder. Activations are feature-major: [features, tokens], tokens contiguous.";

  m.def("available_isas", &available_isas, "Instruction sets of this build that this processor has, fastest last.");
  m.def("choose_isa", [](const std::optional<std::string>& isa) { return std::string(name_of(pruneonce::choose_isa(isa))); },
        "isa"_a = nb::none(),
        "The instruction set in use: `isa`, else $PRUNEONCE_ISA, else the fastest available.\n\n"
        "ValueError if it is unknown, or this processor lacks it.");
  m.def("num_threads", &pruneonce::num_threads);
  m.def("set_num_threads", &pruneonce::set_num_threads, "count"_a,
        "Use `count` threads, the calling one included, from the next call on.");

  m.def("l1_bytes", &pruneonce::l1_bytes, "Of a core's data cache on this machine, which tiles follow.");
  m.def("borrow_threads",
        [](std::uintptr_t gomp_parallel) {
          pruneonce::borrow_threads(reinterpret_cast<pruneonce::OpenMpParallel>(gomp_parallel));
        },
        "gomp_parallel"_a,
        "Compute on the threads of an OpenMP library from now on: the address of its GOMP_parallel; 0: on our own again.");
  m.def("keep_freed_memory", &pruneonce::keep_freed_memory,
        "Keep freed memory in the process: for loops that allocate the same large arrays again and again. For glibc.");

  nb::class_<Activations>(m, "Activations", "[features, tokens] in panels of tokens; not for use by two threads at once.")
      .def("__init__",
           [](Activations* self, std::size_t features, const std::optional<std::string>& isa) {
             if (features == 0 || features > (std::size_t{1} << 31)) refuse("Activations", "features must be 1 to 2^31");
             new (self) Activations(features, pruneonce::choose_isa(isa));
           },
           "features"_a, nb::kw_only(), "isa"_a = nb::none())
      .def_prop_ro("features", &Activations::features)
      .def_prop_ro("tokens", &Activations::tokens)
      .def_prop_ro("isa", &isa_name<Activations>)
      // noconvert: otherwise nanobind would copy arrays of other types, and write results into the copy.
      .def("load", &load_rows, "rows"_a.noconvert(), "Take over [tokens, features], float32.")
      .def("store", &store_rows, "out"_a.noconvert(), "Write [tokens, features], float32.")
      .def("take", &take, "tokens"_a.noconvert(), "Keep only these tokens: int64, rising.");

  nb::class_<pruneonce::PackedWeight>(m, "PackedWeight", "A sparse matrix, packed for this processor.")
      .def("__init__", &init_packed_weight, "row_ptr"_a.noconvert(), "col"_a.noconvert(), "values"_a.noconvert(),
           nb::kw_only(), "cols"_a, "isa"_a = nb::none(), "l1_bytes"_a = nb::none(),
           "threads"_a = nb::none(),
           "Pack compressed sparse rows.\n\n"
           "row_ptr: int64 [rows + 1]; col: int32 [non-zeros], rising within a row; values: float32 [non-zeros].\n"
           "isa, l1_bytes, threads: of the machine that it is packed for, else $PRUNEONCE_ISA and what is found here.\n"
           "ValueError says which rule is broken.")
      .def_prop_ro("rows", &pruneonce::PackedWeight::rows)
      .def_prop_ro("cols", &pruneonce::PackedWeight::cols)
      .def_prop_ro("nonzeros", &pruneonce::PackedWeight::nonzeros)
      .def_prop_ro("isa", &isa_name<pruneonce::PackedWeight>)
      .def_prop_ro("nbytes", &pruneonce::PackedWeight::bytes, "Memory it takes, in bytes.");

  nb::class_<pruneonce::SparseLinear>(m, "SparseLinear", "The zeros of a matrix in training; the values are the caller's.")
      .def("__init__", &init_sparse_linear, "row_ptr"_a.noconvert(), "col"_a.noconvert(), nb::kw_only(), "cols"_a,
           "isa"_a = nb::none(), "l1_bytes"_a = nb::none(),
           "threads"_a = nb::none(),
           "Pack a pattern for both directions.\n\n"
           "row_ptr: int64 [rows + 1]; col: int32 [non-zeros], rising within a row. isa, l1_bytes, threads: of the machine\n"
           "that it is packed for, else what is found here. ValueError says which rule is broken.")
      .def_prop_ro("rows", &pruneonce::SparseLinear::rows)
      .def_prop_ro("cols", &pruneonce::SparseLinear::cols)
      .def_prop_ro("nonzeros", &pruneonce::SparseLinear::nonzeros)
      .def_prop_ro("isa", &isa_name<pruneonce::SparseLinear>)
      .def_prop_ro("nbytes", &pruneonce::SparseLinear::bytes, "Memory it takes, in bytes.")
      .def("forward", &forward, "values"_a.noconvert(), "bias"_a.noconvert().none(), "x"_a.noconvert(), nb::kw_only(),
           "y"_a.noconvert(),
           "y = x · Wᵀ + bias. values: float32 [non-zeros], row by row; x: [tokens, cols]; y: [tokens, rows].")
      .def("backward", &backward, "values"_a.noconvert(), "x"_a.noconvert(), "dy"_a.noconvert(), nb::kw_only(),
           "dx"_a.noconvert() = nb::none(), "dvalues"_a.noconvert() = nb::none(), "dbias"_a.noconvert() = nb::none(),
           "dx = dy · W, dvalues = dyᵀ · x at the non-zeros, dbias = the sum of dy; what is None is not computed.");

  nb::class_<pruneonce::DenseWeight>(m, "DenseWeight", "A dense matrix, packed for this processor.")
      .def("__init__", &init_dense_weight, "weight"_a.noconvert(), nb::kw_only(), "isa"_a = nb::none(),
           "weight: float32 [rows, cols].")
      .def_prop_ro("rows", &pruneonce::DenseWeight::rows)
      .def_prop_ro("cols", &pruneonce::DenseWeight::cols)
      .def_prop_ro("isa", &isa_name<pruneonce::DenseWeight>)
      .def_prop_ro("nbytes", &pruneonce::DenseWeight::bytes, "Memory it takes, in bytes.");

  const char* const quantize_doc =
      "Take over x as `weight` wants it: round(x / input scale) + zero point, cut to 0 .. 255, halves to the even "
      "number.";
  nb::class_<pruneonce::Codes>(m, "Codes", "Activations as 8-bit codes; not for use by two threads at once.")
      .def("__init__",
           [](pruneonce::Codes* self, const std::optional<std::string>& isa) {
             new (self) pruneonce::Codes(pruneonce::choose_isa(isa));
           },
           nb::kw_only(), "isa"_a = nb::none())
      .def_prop_ro("features", &pruneonce::Codes::features)
      .def_prop_ro("tokens", &pruneonce::Codes::tokens)
      .def_prop_ro("isa", &isa_name<pruneonce::Codes>)
      .def("quantize", &quantize<pruneonce::Int8Weight>, "x"_a, "weight"_a, quantize_doc)
      .def("quantize", &quantize<pruneonce::Int8DenseWeight>, "x"_a, "weight"_a, quantize_doc);

  nb::class_<pruneonce::Int8Weight>(m, "Int8Weight", "A sparse matrix of 8-bit weights, packed for this processor.")
      .def("__init__", &init_int8_weight, "row_ptr"_a.noconvert(), "col"_a.noconvert(), "values"_a.noconvert(),
           "scale"_a.noconvert(), nb::kw_only(), "cols"_a, "input_scale"_a, "input_zero_point"_a, "fours"_a = "any",
           "isa"_a = nb::none(), "l1_bytes"_a = nb::none(),
           "threads"_a = nb::none(),
           "Pack compressed sparse rows: weight = values · scale[row]; x = (code - zero point) · input scale.\n\n"
           "row_ptr: int64 [rows + 1]; col: int32 [non-zeros], rising within a row; values: int8 [non-zeros];\n"
           "scale: float32 [rows]. fours: which weights of a row are computed together, `any`, or those of four\n"
           "`neighbours`, for zeros in blocks. isa, l1_bytes, threads: of the machine that it is packed for, else what is\n"
           "found here. ValueError says which rule is broken.")
      .def_prop_ro("rows", &pruneonce::Int8Weight::rows)
      .def_prop_ro("cols", &pruneonce::Int8Weight::cols)
      .def_prop_ro("nonzeros", &pruneonce::Int8Weight::nonzeros)
      .def_prop_ro("stored", &pruneonce::Int8Weight::stored, "Weights in fours, zeros that fill them included.")
      .def_prop_ro("isa", &isa_name<pruneonce::Int8Weight>)
      .def_prop_ro("nbytes", &pruneonce::Int8Weight::bytes, "Memory it takes, in bytes.");

  nb::class_<pruneonce::Int8DenseWeight>(m, "Int8DenseWeight", "A dense matrix of 8-bit weights, packed for this processor.")
      .def("__init__", &init_int8_dense_weight, "weight"_a.noconvert(), "scale"_a.noconvert(), nb::kw_only(),
           "input_scale"_a, "input_zero_point"_a, "isa"_a = nb::none(),
           "weight: int8 [rows, cols]; scale: float32 [rows]. ValueError for scales that mean nothing.")
      .def_prop_ro("rows", &pruneonce::Int8DenseWeight::rows)
      .def_prop_ro("cols", &pruneonce::Int8DenseWeight::cols)
      .def_prop_ro("isa", &isa_name<pruneonce::Int8DenseWeight>)
      .def_prop_ro("nbytes", &pruneonce::Int8DenseWeight::bytes, "Memory it takes, in bytes.");

  const char* const multiply_doc =
      "out = nonlinearity(weight · x + bias + residual).\n\n"
      "bias: float32 [rows]; nonlinearity: none, gelu, gelu_tanh or relu. `out` takes x's number of tokens.";
  m.def("multiply", &multiply<pruneonce::PackedWeight, Activations>, "weight"_a, "x"_a, nb::kw_only(), "out"_a,
        "bias"_a.noconvert() = nb::none(), "residual"_a = nb::none(), "nonlinearity"_a = "none", multiply_doc);
  m.def("multiply", &multiply<pruneonce::DenseWeight, Activations>, "weight"_a, "x"_a, nb::kw_only(), "out"_a,
        "bias"_a.noconvert() = nb::none(), "residual"_a = nb::none(), "nonlinearity"_a = "none", multiply_doc);
  m.def("multiply", &multiply<pruneonce::Int8Weight, pruneonce::Codes>, "weight"_a, "x"_a, nb::kw_only(), "out"_a,
        "bias"_a.noconvert() = nb::none(), "residual"_a = nb::none(), "nonlinearity"_a = "none", multiply_doc);
  m.def("multiply", &multiply<pruneonce::Int8DenseWeight, pruneonce::Codes>, "weight"_a, "x"_a, nb::kw_only(), "out"_a,
        "bias"_a.noconvert() = nb::none(), "residual"_a = nb::none(), "nonlinearity"_a = "none", multiply_doc);
  define_multiply_to_codes<pruneonce::Int8Weight, pruneonce::Int8Weight>(m);
  define_multiply_to_codes<pruneonce::Int8Weight, pruneonce::Int8DenseWeight>(m);
  define_multiply_to_codes<pruneonce::Int8DenseWeight, pruneonce::Int8Weight>(m);
  define_multiply_to_codes<pruneonce::Int8DenseWeight, pruneonce::Int8DenseWeight>(m);
  m.def("attention", &attention, "qkv"_a, nb::kw_only(), "starts"_a.noconvert(), "heads"_a, "out"_a,
        "out = softmax(Kᵀ Q / sqrt(head size)) on V, per sequence and head.\n\n"
        "qkv: [3 · hidden, tokens]; starts: int64 [sequences + 1], first tokens and the end.");
  m.def("attend", &attend, "q"_a.noconvert(), "k"_a.noconvert(), "v"_a.noconvert(), "lengths"_a.noconvert(), nb::kw_only(),
        "scale"_a, "out"_a.noconvert(), "isa"_a = nb::none(),
        "out = softmax(q kᵀ · scale) v, per sequence and head, for training.\n\n"
        "q, k, v, out: float32 [sequences, tokens, heads, head size], the last a multiple of 16; lengths: int64\n"
        "[sequences], real tokens of each. Others are not read, and 0 is written for them.");
  m.def("attend_backward", &attend_backward, "q"_a.noconvert(), "k"_a.noconvert(), "v"_a.noconvert(), "lengths"_a.noconvert(),
        nb::kw_only(), "scale"_a, "dout"_a.noconvert(), "dq"_a.noconvert(), "dk"_a.noconvert(), "dv"_a.noconvert(),
        "isa"_a = nb::none(), "Gradients of `attend`; shapes as there.");
  m.def("embed", &embed, "words"_a.noconvert(), "type"_a, nb::kw_only(), "scale"_a.noconvert() = nb::none(),
        "positions"_a.noconvert(), "types"_a.noconvert() = nb::none(), "token_ids"_a.noconvert(),
        "position_ids"_a.noconvert(), "token_types"_a.noconvert(), "out"_a,
        "out = rows of words, positions and types, added up; nothing else of the tables is read.\n\n"
        "words: [vocabulary, hidden] as `type` says: float32 of fp32, uint16 bits of fp16 and bf16, int8 times scale\n"
        "(float32 [vocabulary]); positions, types: float32 [any, hidden]; the numbers: int64 [tokens].");
  m.def("layer_norm", &layer_norm, "x"_a, nb::kw_only(), "scale"_a.noconvert(), "shift"_a.noconvert(), "epsilon"_a,
        "Normalise each token of x over its features, in place; scale, shift: float32 [features].");

  m.def(
      "decode_rice",
      [](const Array<const std::uint8_t, 1>& data, unsigned bits, const Array<std::int32_t, 1>& out) {
        nb::gil_scoped_release release;
        if (!pruneonce::decode_rice({data.data(), data.size()}, bits, {out.data(), out.size()}))
          refuse("decode_rice", "the data does not hold " + to_string(out.size()) + " positions below 2^31");
      },
      "data"_a.noconvert(), "bits"_a, nb::kw_only(), "out"_a.noconvert(),
      "Write the positions that the rice codes of docs/format.md stand for: uint8 [bytes] to int32 [positions].");
  m.def(
      "rice_extent",
      [](const Array<const std::uint8_t, 1>& data, unsigned bits, std::size_t count) {
        if (bits > 8 || count > data.size() * 8) return std::int64_t{-1};
        nb::gil_scoped_release release;
        return pruneonce::rice_extent({data.data(), data.size()}, bits, count);
      },
      "data"_a.noconvert(), "bits"_a, "count"_a,
      "How many elements `count` rice codes cover; -1 if the data does not hold them, or a position passes 2^31 - 1.");
  m.def(
      "run_multiply_adds",
      [](std::size_t iterations, const std::optional<std::string>& isa) {
        return pruneonce::run_multiply_adds(pruneonce::choose_isa(isa), iterations);
      },
      "iterations"_a, nb::kw_only(), "isa"_a = nb::none(), nb::call_guard<nb::gil_scoped_release>(),
      "Multiply and add on registers alone, on every thread; returns the floating point operations done.\n\n"
      "Timed, it gives the processor's peak, against which the kernels are measured.");
}
