// Activations, and what an encoder does with them.
#include <cmath>
#include <span>
#include <type_traits>

#include "attention.h"
#include "bind.h"
#include "dense.h"
#include "elementwise.h"
#include "embeddings.h"
#include "int8.h"
#include "int8_attention.h"
#include "rotary.h"
#include "spmm.h"

namespace pruneonce::python {
namespace {

std::string shape_of(const Activations& x) {
  return "[" + to_string(x.features()) + ", " + to_string(x.tokens()) + "]";
}

Nonlinearity nonlinearity_of(const std::string& name) {
  if (name == "none") return Nonlinearity::none;
  if (name == "gelu") return Nonlinearity::gelu;
  if (name == "gelu_tanh") return Nonlinearity::gelu_tanh;
  if (name == "relu") return Nonlinearity::relu;
  if (name == "silu") return Nonlinearity::silu;
  refuse("multiply", "nonlinearity is '" + name + "', expected none, gelu, gelu_tanh, relu or silu");
}

void load_rows(Activations& to, const Matrix& rows) {
  if (rows.shape(1) != to.features())
    refuse("load", "rows have " + to_string(rows.shape(1)) + " features, expected " + to_string(to.features()));
  const Computing computing;
  to.resize(rows.shape(0));
  pruneonce::load_rows(to, rows.data(), rows.shape(1));
}

void store_rows(const Activations& from, const Array<float, 2>& out) {
  if (out.shape(0) != from.tokens() || out.shape(1) != from.features())
    refuse("store", "out is [" + to_string(out.shape(0)) + ", " + to_string(out.shape(1)) + "], expected [" +
                        to_string(from.tokens()) + ", " + to_string(from.features()) + "]");
  const Computing computing;
  pruneonce::store_rows(from, out.data(), out.shape(1));
}

void take(Activations& from, const Array<const std::int64_t, 1>& tokens) {
  const std::span<const std::int64_t> span{tokens.data(), tokens.size()};
  for (std::size_t i = 0; i < span.size(); ++i)
    if (span[i] < 0 || static_cast<std::uint64_t>(span[i]) >= from.tokens() || (i > 0 && span[i] <= span[i - 1]))
      refuse("take", "tokens must rise and be below " + to_string(from.tokens()));
  const Computing computing;
  pruneonce::take(from, span);
}

template <class Weight>
void quantize(Codes& codes, const Activations& x, const Weight& weight) {
  if (x.isa() != codes.isa()) refuse("quantize", "x is laid out for another instruction set");
  const Computing computing;
  codes.quantize(x, weight.code());
}

template <class Weight, class Input>
void multiply(const Weight& weight, const Input& x, Activations& out, const std::optional<Vector>& bias,
              const Activations* residual, const std::string& nonlinearity) {
  if (x.features() != weight.cols())
    refuse("multiply",
           "x has " + to_string(x.features()) + " features, the weight expects " + to_string(weight.cols()));
  if (out.features() != weight.rows())
    refuse("multiply",
           "out has " + to_string(out.features()) + " features, the weight gives " + to_string(weight.rows()));
  if (x.isa() != weight.isa() || out.isa() != weight.isa())
    refuse("multiply", "weight, x and out are laid out for different instruction sets");
  if constexpr (std::is_same_v<Input, Codes>)
    if (x.code() != weight.code()) refuse("multiply", "x was quantised for another weight");
  if (static_cast<const void*>(&out) == &x || &out == residual)
    refuse("multiply", "out must be neither x nor residual");
  if (residual &&
      (residual->features() != weight.rows() || residual->tokens() != x.tokens() || residual->isa() != x.isa()))
    refuse("multiply", "residual is " + shape_of(*residual) + ", out " + to_string(weight.rows()) + " features of " +
                           to_string(x.tokens()) + " tokens");
  require_length("multiply", "bias", bias, weight.rows());
  const Nonlinearity f = nonlinearity_of(nonlinearity);
  const Computing computing;
  out.resize(x.tokens());
  pruneonce::multiply(weight, x, data_of(bias), residual, f, out);
}

template <class Weight, class Next>
void multiply_to_codes(const Weight& weight, const Codes& x, Codes& out, const Next& next,
                       const std::optional<Vector>& bias, const std::string& nonlinearity) {
  if (x.features() != weight.cols())
    refuse("multiply_to_codes",
           "x has " + to_string(x.features()) + " features, the weight expects " + to_string(weight.cols()));
  if (next.cols() != weight.rows())
    refuse("multiply_to_codes", "next has " + to_string(next.cols()) + " columns, the weight gives " +
                                    to_string(weight.rows()) + " features");
  if (x.code() != weight.code()) refuse("multiply_to_codes", "x was quantised for another weight");
  if (x.isa() != weight.isa() || out.isa() != weight.isa() || next.isa() != weight.isa())
    refuse("multiply_to_codes", "weight, x, out and next are laid out for different instruction sets");
  if (&out == &x) refuse("multiply_to_codes", "out must not be x");
  require_length("multiply_to_codes", "bias", bias, weight.rows());
  const Nonlinearity f = nonlinearity_of(nonlinearity);
  const Computing computing;
  pruneonce::multiply_to_codes(weight, x, data_of(bias), f, next.code(), out);
}

// starts, checked with the rest of what both attentions take.
std::span<const std::int64_t> sequences_of(const char* who, const Activations& qkv,
                                           const Array<const std::int64_t, 1>& starts, std::size_t heads,
                                           const Activations& out) {
  if (heads == 0 || out.features() % heads != 0 || qkv.features() != 3 * out.features())
    refuse(who, "qkv has " + to_string(qkv.features()) + " features and out " + to_string(out.features()) +
                    ": expected 3 to 1, and a multiple of " + to_string(heads) + " heads");
  if (qkv.isa() != out.isa()) refuse(who, "qkv and out are laid out for different instruction sets");
  const std::span<const std::int64_t> span{starts.data(), starts.size()};
  bool rising = !span.empty() && span.front() == 0 && static_cast<std::uint64_t>(span.back()) == qkv.tokens();
  for (std::size_t i = 0; rising && i + 1 < span.size(); ++i) rising = span[i] < span[i + 1];
  if (!rising) refuse(who, "starts must rise from 0 to the " + to_string(qkv.tokens()) + " tokens");
  return span;
}

using Counts = std::optional<Array<const std::int64_t, 1>>;

// Of each head's features, or null for all.
const std::int64_t* counts_of(const char* who, const char* name, const Counts& counts, std::size_t heads,
                              const Activations& out) {
  if (!counts) return nullptr;
  require_length(who, name, *counts, heads);
  const std::size_t head_size = out.features() / heads;
  for (std::size_t head = 0; head < heads; ++head)
    if (counts->data()[head] < 0 || static_cast<std::size_t>(counts->data()[head]) > head_size)
      refuse(who, std::string(name) + " must be 0 to the " + to_string(head_size) + " features of a head, got " +
                      to_string(counts->data()[head]));
  return counts->data();
}

void attention(const Activations& qkv, const Array<const std::int64_t, 1>& starts, std::size_t heads,
               std::size_t window, const std::optional<Matrix>& bias, const Counts& scored, const Counts& mixed,
               Activations& out) {
  const std::span<const std::int64_t> span = sequences_of("attention", qkv, starts, heads, out);
  DistanceBias distances;
  if (bias) {
    if (bias->shape(0) != heads || bias->shape(1) % 2 == 0)
      refuse("attention", "bias is [" + to_string(bias->shape(0)) + ", " + to_string(bias->shape(1)) +
                              "], expected a row for each of " + to_string(heads) +
                              " heads and an odd number of columns");
    distances = {bias->data(), bias->shape(1) / 2};
  }
  const LiveFeatures live{counts_of("attention", "scored", scored, heads, out),
                          counts_of("attention", "mixed", mixed, heads, out)};
  const Computing computing;
  out.resize(qkv.tokens());
  pruneonce::attention(qkv, span, heads, std::min(window, qkv.tokens()), distances, live, out);
}

void int8_attention(const Activations& qkv, const Array<const std::int64_t, 1>& starts, std::size_t heads,
                    const Vector& scales, const Array<const std::uint8_t, 1>& zero_points, const Counts& scored,
                    Activations& out) {
  const std::span<const std::int64_t> span = sequences_of("int8_attention", qkv, starts, heads, out);
  require_length("int8_attention", "scales", scales, 3);
  require_length("int8_attention", "zero_points", zero_points, 3);
  for (std::size_t i = 0; i < 3; ++i)
    if (!(scales.data()[i] > 0 && std::isfinite(scales.data()[i]) && std::isfinite(1.0f / scales.data()[i])))
      refuse("int8_attention", "scales[" + to_string(i) + "] must be a positive number");
  if (!std::isfinite(scales.data()[0] * scales.data()[1]))
    refuse("int8_attention", "the scales of queries and keys are too large");
  if (out.features() / heads > kInt8HeadSize)
    refuse("int8_attention", "heads have " + to_string(out.features() / heads) +
                                 " features: sums could overflow, at most " + to_string(kInt8HeadSize) + " are added");
  for (std::size_t i = 0; i + 1 < span.size(); ++i)
    if (static_cast<std::size_t>(span[i + 1] - span[i]) > kInt8Tokens)
      refuse("int8_attention", "sequence " + to_string(i) + " has " + to_string(span[i + 1] - span[i]) +
                                   " tokens: sums could overflow, at most " + to_string(kInt8Tokens) + " are added");
  const auto of = [&](std::size_t i) { return CodeScale{scales.data()[i], zero_points.data()[i]}; };
  const std::int64_t* const live = counts_of("int8_attention", "scored", scored, heads, out);
  const Computing computing;
  out.resize(qkv.tokens());
  pruneonce::int8_attention(qkv, span, heads, {of(0), of(1), of(2)}, live, out);
}

void gate(const Activations& gate_up, Activations& out, const std::string& nonlinearity) {
  if (gate_up.features() != 2 * out.features())
    refuse("gate", "gate_up has " + to_string(gate_up.features()) + " features and out " + to_string(out.features()) +
                       ": expected 2 to 1");
  if (gate_up.isa() != out.isa()) refuse("gate", "gate_up and out are laid out for different instruction sets");
  const Nonlinearity f = nonlinearity_of(nonlinearity);
  const Computing computing;
  out.resize(gate_up.tokens());
  pruneonce::gate(f, gate_up, out);
}

void copy(const Activations& from, Activations& to) {
  if (from.features() != to.features() || from.isa() != to.isa())
    refuse("copy", "to has " + to_string(to.features()) + " features, expected " + to_string(from.features()) +
                       ", laid out for the same instruction set");
  if (&from == &to) return;
  const Computing computing;
  to.resize(from.tokens());
  pruneonce::copy(from, to);
}

void require_below(const char* name, const Array<const std::int64_t, 1>& numbers, std::size_t count,
                   std::size_t limit) {
  require_length("embed", name, numbers, count);
  for (std::size_t i = 0; i < count; ++i)
    if (numbers.data()[i] < 0 || static_cast<std::uint64_t>(numbers.data()[i]) >= limit)
      refuse("embed",
             std::string(name) + " must be 0 to " + to_string(limit - 1) + ", got " + to_string(numbers.data()[i]));
}

void rotate(Activations& qkv, const Array<const std::int64_t, 1>& positions, std::size_t heads, const Matrix& cosines,
            const Matrix& sines) {
  const std::size_t rows = cosines.shape(0), half = cosines.shape(1);
  if (heads == 0 || half == 0 || qkv.features() != 6 * heads * half)
    refuse("rotate", "qkv has " + to_string(qkv.features()) + " features: expected queries, keys and values of " +
                         to_string(heads) + " heads of " + to_string(2 * half));
  if (sines.shape(0) != rows || sines.shape(1) != half) refuse("rotate", "cosines and sines differ in their shape");
  if (positions.size() != qkv.tokens())
    refuse("rotate", to_string(positions.size()) + " positions, but " + to_string(qkv.tokens()) + " tokens");
  for (std::size_t i = 0; i < positions.size(); ++i)
    if (positions.data()[i] < 0 || static_cast<std::uint64_t>(positions.data()[i]) >= rows)
      refuse("rotate", "positions must be 0 to " + to_string(rows - 1) + ", got " + to_string(positions.data()[i]));
  const Computing computing;
  pruneonce::rotate(qkv, {positions.data(), positions.size()}, heads, cosines.data(), sines.data());
}

void embed(const nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>& words, const std::string& type,
           const std::optional<Vector>& scale, const std::optional<Matrix>& positions,
           const std::optional<Matrix>& types, const Array<const std::int64_t, 1>& token_ids,
           const Array<const std::int64_t, 1>& position_ids, const Array<const std::int64_t, 1>& token_types,
           Activations& out) {
  Table table{words.data(), NumberType::fp32, scale ? scale->data() : nullptr};
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
  if ((table.type == NumberType::int8) != scale.has_value())
    refuse("embed", "a scale belongs to int8, and to nothing else");
  require_length("embed", "scale", scale, words.shape(0));
  for (const Matrix* each : {positions ? &*positions : nullptr, types ? &*types : nullptr})
    if (each && each->shape(1) != out.features())
      refuse("embed",
             "a table has " + to_string(each->shape(1)) + " columns, out " + to_string(out.features()) + " features");
  if (words.shape(1) != out.features())
    refuse("embed",
           "words has " + to_string(words.shape(1)) + " columns, out " + to_string(out.features()) + " features");
  require_below("token_ids", token_ids, token_ids.size(), words.shape(0));
  require_below("position_ids", position_ids, token_ids.size(), positions ? positions->shape(0) : SIZE_MAX);
  require_below("token_types", token_types, token_ids.size(), types ? types->shape(0) : SIZE_MAX);
  const Computing computing;
  out.resize(token_ids.size());
  pruneonce::embed(table, positions ? positions->data() : nullptr, types ? types->data() : nullptr,
                   {token_ids.data(), token_ids.size()}, {position_ids.data(), position_ids.size()},
                   {token_types.data(), token_types.size()}, out);
}

void layer_norm(Activations& x, const Vector& scale, const Vector& shift, float epsilon) {
  require_length("layer_norm", "scale", scale, x.features());
  require_length("layer_norm", "shift", shift, x.features());
  const Computing computing;
  pruneonce::layer_norm(x, scale.data(), shift.data(), epsilon);
}

template <class Weight, class Input>
void define_multiply(nb::module_& m) {
  m.def("multiply", &multiply<Weight, Input>, "weight"_a, "x"_a, nb::kw_only(), "out"_a,
        "bias"_a.noconvert() = nb::none(), "residual"_a = nb::none(), "nonlinearity"_a = "none",
        "out = nonlinearity(weight · x + bias + residual).\n\n"
        "bias: float32 [rows]; nonlinearity: none, gelu, gelu_tanh, relu or silu. `out` takes x's number of tokens.");
}

template <class Weight, class Next>
void define_multiply_to_codes(nb::module_& m) {
  m.def("multiply_to_codes", &multiply_to_codes<Weight, Next>, "weight"_a, "x"_a, nb::kw_only(), "out"_a, "next"_a,
        "bias"_a.noconvert() = nb::none(), "nonlinearity"_a = "none",
        "out = nonlinearity(weight · x + bias), quantised as `next` wants its input.\n\n"
        "The same codes as those of `multiply` and `quantize`, but floats never leave the caches.");
}

}  // namespace

void bind_encoder(nb::module_& m) {
  nb::class_<Activations>(m, "Activations",
                          "[features, tokens] in panels of tokens; not for use by two threads at once.")
      .def(
          "__init__",
          [](Activations* self, std::size_t features, const std::optional<std::string>& isa) {
            if (features == 0 || features > (std::size_t{1} << 31)) refuse("Activations", "features must be 1 to 2^31");
            new (self) Activations(features, choose_isa(isa));
          },
          "features"_a, nb::kw_only(), "isa"_a = nb::none())
      .def_prop_ro("features", &Activations::features)
      .def_prop_ro("tokens", &Activations::tokens)
      .def_prop_ro("isa", &isa_name<Activations>)
      // noconvert: otherwise nanobind would copy arrays of other types, and write results into the copy.
      .def("load", &load_rows, "rows"_a.noconvert(), "Take over [tokens, features], float32.")
      .def("store", &store_rows, "out"_a.noconvert(), "Write [tokens, features], float32.")
      .def("take", &take, "tokens"_a.noconvert(), "Keep only these tokens: int64, rising.");

  const char* const quantize_doc =
      "Take over x as `weight` wants it: round(x / input scale) + zero point, cut to 0 .. 255, halves to the even "
      "number.";
  nb::class_<Codes>(m, "Codes", "Activations as 8-bit codes; not for use by two threads at once.")
      .def(
          "__init__", [](Codes* self, const std::optional<std::string>& isa) { new (self) Codes(choose_isa(isa)); },
          nb::kw_only(), "isa"_a = nb::none())
      .def_prop_ro("features", &Codes::features)
      .def_prop_ro("tokens", &Codes::tokens)
      .def_prop_ro("isa", &isa_name<Codes>)
      .def("quantize", &quantize<Int8Weight>, "x"_a, "weight"_a, quantize_doc)
      .def("quantize", &quantize<Int8DenseWeight>, "x"_a, "weight"_a, quantize_doc);

  define_multiply<PackedWeight, Activations>(m);
  define_multiply<DenseWeight, Activations>(m);
  define_multiply<Int8Weight, Codes>(m);
  define_multiply<Int8DenseWeight, Codes>(m);
  define_multiply_to_codes<Int8Weight, Int8Weight>(m);
  define_multiply_to_codes<Int8Weight, Int8DenseWeight>(m);
  define_multiply_to_codes<Int8DenseWeight, Int8Weight>(m);
  define_multiply_to_codes<Int8DenseWeight, Int8DenseWeight>(m);
  m.def(
      "attention", &attention, "qkv"_a, nb::kw_only(), "starts"_a.noconvert(), "heads"_a, "window"_a = 0,
      "bias"_a.noconvert() = nb::none(), "scored"_a.noconvert() = nb::none(), "mixed"_a.noconvert() = nb::none(),
      "out"_a,
      "out = softmax(Kᵀ Q / sqrt(head size)) on V, per sequence and head.\n\n"
      "qkv: [3 · hidden, tokens]; starts: int64 [sequences + 1], first tokens and the end.\n"
      "window: so many tokens on either side are seen; 0: all. bias: float32 [heads, 2 · reach + 1], added to scores "
      "by\n"
      "how far a key lies behind its query, -reach ... reach; those beyond take the last.\n"
      "scored, mixed: int64 [heads], how many of a head's features count, its first ones, of queries and keys and of\n"
      "values; the others are the same for all tokens. None: all.");
  m.def("int8_attention", &int8_attention, "qkv"_a, nb::kw_only(), "starts"_a.noconvert(), "heads"_a,
        "scales"_a.noconvert(), "zero_points"_a.noconvert(), "scored"_a.noconvert() = nb::none(), "out"_a,
        "As `attention`, in whole numbers of 8 bits.\n\n"
        "scales, zero_points: float32 [3] and uint8 [3], of the codes of queries, keys and values; a key's weight is\n"
        "round(255 · e^(score - the largest)) over the sum of these.");
  m.def("gate", &gate, "gate_up"_a, nb::kw_only(), "out"_a, "nonlinearity"_a,
        "out = nonlinearity(gate) · up; gate_up: [2 · features, tokens], the gates first.");
  m.def("copy", &copy, "from_"_a, nb::kw_only(), "to"_a, "to = from_.");
  m.def("rotate", &rotate, "qkv"_a, nb::kw_only(), "positions"_a.noconvert(), "heads"_a, "cosines"_a.noconvert(),
        "sines"_a.noconvert(),
        "Turn queries and keys by their positions, in place.\n\n"
        "qkv: [3 · hidden, tokens]; positions: int64 [tokens]; cosines, sines: float32 [positions, head size / 2].");
  m.def("embed", &embed, "words"_a.noconvert(), "type"_a, nb::kw_only(), "scale"_a.noconvert() = nb::none(),
        "positions"_a.noconvert() = nb::none(), "types"_a.noconvert() = nb::none(), "token_ids"_a.noconvert(),
        "position_ids"_a.noconvert(), "token_types"_a.noconvert(), "out"_a,
        "out = rows of words, positions and types, added up; nothing else of the tables is read.\n\n"
        "words: [vocabulary, hidden] as `type` says: float32 of fp32, uint16 bits of fp16 and bf16, int8 times scale\n"
        "(float32 [vocabulary]); positions, types: float32 [any, hidden]; the numbers: int64 [tokens].");
  m.def("layer_norm", &layer_norm, "x"_a, nb::kw_only(), "scale"_a.noconvert(), "shift"_a.noconvert(), "epsilon"_a,
        "Normalise each token of x over its features, in place; scale, shift: float32 [features].");
}

}  // namespace pruneonce::python
