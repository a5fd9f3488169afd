// Portable lanes: plain loops over four floats, which compilers turn into the baseline's vectors (SSE2, NEON).
// vector_isa.h lists what kernels want of a header like this one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vector_isa.h"

namespace pruneonce::scalar {

struct Vec {
  static constexpr std::size_t lanes = 4;
  float lane[lanes];

  template <class Function>
  static Vec each(Function function) {
    Vec result;
    for (std::size_t i = 0; i < lanes; ++i) result.lane[i] = function(i);
    return result;
  }

  static Vec load(const float* from) {
    return each([&](std::size_t i) { return from[i]; });
  }
  static Vec broadcast(float value) {
    return each([&](std::size_t) { return value; });
  }
  // a * b + c
  static Vec multiply_add(Vec a, Vec b, Vec c) {
    for (std::size_t i = 0; i < lanes; ++i) c.lane[i] += a.lane[i] * b.lane[i];
    return c;
  }
  // 2^n for the whole number n in -126 .. 127 that adding 1.5 · 2^23 has left in the low bits.
  static Vec power_of_two(Vec n) {
    return each([&](std::size_t i) {
      const std::uint32_t bits = (__builtin_bit_cast(std::uint32_t, n.lane[i]) << 23) + 0x3F800000u;
      return __builtin_bit_cast(float, bits);
    });
  }
  static Vec max(Vec a, Vec b) {
    return each([&](std::size_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Vec min(Vec a, Vec b) {
    return each([&](std::size_t i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Vec sqrt(Vec a) {
    return each([&](std::size_t i) { return __builtin_sqrtf(a.lane[i]); });
  }
  void store(float* to) const {
    for (std::size_t i = 0; i < lanes; ++i) to[i] = lane[i];
  }

  // Four weights, and one of them in all lanes.
  struct Four {
    const float* from;
  };
  static Four load_four(const float* from) { return {from}; }
  template <std::size_t index>
  static Vec broadcast(Four four) {
    return broadcast(four.from[index]);
  }
};

inline Vec operator+(Vec a, Vec b) {
  return Vec::each([&](std::size_t i) { return a.lane[i] + b.lane[i]; });
}
inline Vec operator-(Vec a, Vec b) {
  return Vec::each([&](std::size_t i) { return a.lane[i] - b.lane[i]; });
}
inline Vec operator*(Vec a, Vec b) {
  return Vec::each([&](std::size_t i) { return a.lane[i] * b.lane[i]; });
}
inline Vec operator/(Vec a, Vec b) {
  return Vec::each([&](std::size_t i) { return a.lane[i] / b.lane[i]; });
}

// Row r, lane l becomes row l, lane r.
inline void transpose(Vec (&rows)[Vec::lanes]) {
  for (std::size_t r = 0; r < Vec::lanes; ++r)
    for (std::size_t l = 0; l < r; ++l) {
      const float kept = rows[r].lane[l];
      rows[r].lane[l] = rows[l].lane[r];
      rows[l].lane[r] = kept;
    }
}

// to[k] += the sum of all lanes of k, for the first `count` of four.
template <std::size_t count>
inline void add_sums(const Vec (&four)[4], float* to) {
  for (std::size_t k = 0; k < count; ++k)
    to[k] += (four[k].lane[0] + four[k].lane[2]) + (four[k].lane[1] + four[k].lane[3]);
}

using Table = NoTable;

// As many whole numbers of 32 bits as a Vec has floats.
struct Ints {
  std::int32_t lane[Vec::lanes];

  template <class Function>
  static Ints each(Function function) {
    Ints result;
    for (std::size_t i = 0; i < Vec::lanes; ++i) result.lane[i] = function(i);
    return result;
  }

  // From and to memory that may hold floats at other times.
  static Ints load(const float* from) {
    Ints result;
    __builtin_memcpy(result.lane, from, sizeof result.lane);
    return result;
  }
  void store(void* to) const { __builtin_memcpy(to, lane, sizeof lane); }
  static Ints broadcast(std::int32_t value) {
    return each([&](std::size_t) { return value; });
  }
  // The nearest whole numbers, halves to the even one: adding 1.5 · 2^23 leaves no bits for a fraction. |x| < 2^22
  static Ints round(Vec x) {
    return each([&](std::size_t i) {
      const volatile float shifted = x.lane[i] + 12582912.0f;  // volatile: compilers must not see through it
      return static_cast<std::int32_t>(shifted - 12582912.0f);
    });
  }
  Vec to_float() const {
    return Vec::each([&](std::size_t i) { return static_cast<float>(lane[i]); });
  }
};

// Whole numbers of 0 to 255 as the four bytes of a word, the first at the lowest address.
inline Ints bytes_of(const Ints (&four)[4]) {
  return Ints::each([&](std::size_t i) {
    const std::uint8_t bytes[4] = {
        static_cast<std::uint8_t>(four[0].lane[i]), static_cast<std::uint8_t>(four[1].lane[i]),
        static_cast<std::uint8_t>(four[2].lane[i]), static_cast<std::uint8_t>(four[3].lane[i])};
    return __builtin_bit_cast(std::int32_t, bytes);
  });
}

inline Ints operator+(Ints a, Ints b) {
  return Ints::each([&](std::size_t i) { return a.lane[i] + b.lane[i]; });
}

// Four vectors of tokens, a byte each, in the order in which add_four takes them.
struct CodeRow {
  static constexpr std::size_t bytes = 4 * Vec::lanes;
  static constexpr std::int32_t centre = 0;
  static void store(const Ints (&four)[4], std::uint8_t* to) {
    for (std::size_t i = 0; i < bytes; ++i)
      to[i] = static_cast<std::uint8_t>(four[i / Vec::lanes].lane[i % Vec::lanes]);
  }
};

// sum += the first vectors of x[0] · w[0] + … + x[3] · w[3]
template <std::size_t vectors>
inline void add_four(const std::int8_t* w, const std::uint8_t* const (&x)[4], Ints (&sum)[vectors]) {
  for (std::size_t k = 0; k < 4; ++k)
    for (std::size_t i = 0; i < vectors * Vec::lanes; ++i) sum[i / Vec::lanes].lane[i % Vec::lanes] += w[k] * x[k][i];
}

// A word of four weights, or one of four words.
struct Words {
  static constexpr bool sums_fours = true;
  static const std::int8_t* load(const std::int8_t* from) { return from; }
  static const std::int8_t* load_four(const std::int8_t* from) { return from; }
  template <std::size_t index>
  static const std::int8_t* broadcast(const std::int8_t* four) {
    return four + 4 * index;
  }
};

// sum += a word's weights times the codes of four neighbouring features: [vectors] of x
template <std::size_t vectors>
inline void add_neighbours(const std::int8_t* word, const std::uint8_t* x, Ints (&sum)[vectors]) {
  for (std::size_t i = 0; i < vectors * Vec::lanes; ++i)
    for (std::size_t k = 0; k < 4; ++k) sum[i / Vec::lanes].lane[i % Vec::lanes] += word[k] * x[4 * i + k];
}

struct DenseFour {
  static constexpr std::size_t words = 1, vectors_at_once = 1;
  const std::uint8_t* codes;

  static DenseFour load(const std::uint8_t* x) { return {x}; }
  static void pack(const std::int8_t (&four)[4], std::int32_t* word) { __builtin_memcpy(word, four, sizeof four); }
  static const std::int8_t* broadcast(const std::int32_t* word) { return reinterpret_cast<const std::int8_t*>(word); }
  static void store(Ints fours, std::int32_t* word, std::size_t) {
    for (std::size_t i = 0; i < Vec::lanes; ++i)
      word[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(fours.lane[i]) ^ 0x80808080u);
  }
  static const std::int8_t* broadcast(const std::int32_t* word, std::size_t) { return broadcast(word); }
  Ints add_products(Ints sum, const std::int8_t* weights) const {
    for (std::size_t i = 0; i < Vec::lanes; ++i)
      for (std::size_t k = 0; k < 4; ++k) sum.lane[i] += weights[k] * codes[4 * i + k];
    return sum;
  }
};

}  // namespace pruneonce::scalar
