// What a vec_*.h has for the kernels, in the namespace of its instruction set: this is the interface. vec_scalar.h says
// in plain loops what each part does; on every instruction set whole numbers come out the same, floats but for
// rounding.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace pruneonce {

// A Table of an instruction set where looking up costs more than computing.
struct NoTable {};

// Vec: floats. `lanes` is 4, 8 or 16: panels are then multiples of 16 tokens.
template <class Vec>
concept FloatVector = requires(Vec a, const float* from, float* to, float value, typename Vec::Four four,
                               Vec (&square)[Vec::lanes], const Vec (&sums)[4]) {
  requires Vec::lanes == 4 || Vec::lanes == 8 || Vec::lanes == 16;
  { Vec::load(from) } -> std::same_as<Vec>;  // from any address
  { Vec::broadcast(value) } -> std::same_as<Vec>;
  { Vec::multiply_add(a, a, a) } -> std::same_as<Vec>;  // a · b + c
  { Vec::power_of_two(a) } -> std::same_as<Vec>;        // 2^n, n in the low bits
  { Vec::max(a, a) } -> std::same_as<Vec>;              // the second operand where one is no number
  { Vec::min(a, a) } -> std::same_as<Vec>;
  { Vec::sqrt(a) } -> std::same_as<Vec>;
  { a + a } -> std::same_as<Vec>;
  { a - a } -> std::same_as<Vec>;
  { a * a } -> std::same_as<Vec>;
  { a / a } -> std::same_as<Vec>;
  a.store(to);
  { Vec::load_four(from) } -> std::same_as<typename Vec::Four>;  // four weights in one load
  { Vec::template broadcast<3>(four) } -> std::same_as<Vec>;     // one of them in all lanes
  transpose(square);                                             // row r, lane l becomes row l, lane r
  add_sums<4>(sums, to);                                         // to[k] += the sum of all lanes of k
};

// Ints: as many whole numbers of 32 bits as a Vec has floats.
template <class Ints, class Vec>
concept IntVector = requires(Ints a, Vec x, const float* from, void* to, std::int32_t value, const Ints (&four)[4]) {
  { Ints::load(from) } -> std::same_as<Ints>;  // their bits, from memory that may hold floats at other times
  a.store(to);
  { Ints::broadcast(value) } -> std::same_as<Ints>;
  { Ints::round(x) } -> std::same_as<Ints>;  // to the nearest, halves to the even one; |x| < 2^22
  { a.to_float() } -> std::same_as<Vec>;
  { a + a } -> std::same_as<Ints>;
  {
    bytes_of(four)
  } -> std::same_as<Ints>;  // 0 to 255 each, as the four bytes of a word, the first at the lowest address
};

// Table: 32 floats, looked up by the low five bits of each lane; or NoTable.
template <class Table, class Vec>
concept LookupTable = std::same_as<Table, NoTable> || requires(const Table& table, const float* numbers, Vec index) {
  Table(numbers);
  { table[index] } -> std::same_as<Vec>;
};

// CodeRow: the codes of one feature, four vectors of tokens, in the order in which add_four takes them. `centre`: what
// is taken from codes, of either layout, before they are multiplied: 128 where only signed bytes can be.
template <class CodeRow, class Vec, class Ints>
concept CodeRows = requires(const Ints (&four)[4], std::uint8_t* to) {
  requires CodeRow::bytes == 4 * Vec::lanes;
  requires CodeRow::centre == 0 || CodeRow::centre == 128;
  CodeRow::store(four, to);
};

// Words: four int8 weights in all lanes, read alone or as one of four words. `sums_fours`: a word's products are added
// up exactly, however large; else pairs of them must fit 16 bits (int8_pack.cc).
template <class Words, class Ints>
concept WeightWords =
    requires(const std::int8_t* from, const std::uint8_t* x, const std::uint8_t* const (&rows)[4], Ints (&sum)[3]) {
      { Words::sums_fours } -> std::convertible_to<bool>;
      Words::load(from);
      Words::template broadcast<3>(Words::load_four(from));
      add_four<3>(Words::load(from), rows, sum);     // sum += vectors of the weights' products with four rows of codes
      add_neighbours<3>(Words::load(from), x, sum);  // … with codes that lie in fours: [vectors] of x
    };

// DenseFour: a vector of codes in fours, beside dense weights packed to `words` words per four. `vectors_at_once`: of
// kInt8BlockRows rows of sums, as many as the registers hold. Weights are packed one four at a time, or a vector of
// fours, whose words then lie apart.
template <class DenseFour, class Ints>
concept DenseFours = requires(DenseFour codes, const std::uint8_t* x, const std::int8_t (&four)[4], std::int32_t* words,
                              const std::int32_t* packed, std::size_t apart, Ints sum) {
  requires DenseFour::words > 0 && DenseFour::vectors_at_once > 0;
  { DenseFour::load(x) } -> std::same_as<DenseFour>;
  DenseFour::pack(four, words);
  { codes.add_products(sum, DenseFour::broadcast(packed)) } -> std::same_as<Ints>;  // exact, however large
  DenseFour::store(sum, words, apart);  // each lane is a four, its bytes the weights + 128; word w at words + w · apart
  codes.add_products(sum, DenseFour::broadcast(packed, apart));
};

template <class Vec, class Ints, class Table, class CodeRow, class Words, class DenseFour>
concept VectorIsa = FloatVector<Vec> && IntVector<Ints, Vec> && LookupTable<Table, Vec> &&
                    CodeRows<CodeRow, Vec, Ints> && WeightWords<Words, Ints> && DenseFours<DenseFour, Ints>;

}  // namespace pruneonce
