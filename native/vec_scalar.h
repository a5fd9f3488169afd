// Portable lanes: plain loops over four floats, which compilers turn into the baseline's vectors (SSE2, NEON).
#pragma once

#include <cstddef>
#include <cstdint>

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

}  // namespace pruneonce::scalar
