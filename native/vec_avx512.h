// AVX-512: 32 registers of 16 floats.
#pragma once

#include <immintrin.h>

#include <cstddef>

namespace pruneonce::avx512 {

struct Vec {
  static constexpr std::size_t lanes = 16;
  __m512 value;

  static Vec load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static Vec broadcast(float value) { return {_mm512_set1_ps(value)}; }
  // a * b + c, rounded once
  static Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }
  // 2^n for the whole number n in -126 .. 127 that adding 1.5 · 2^23 has left in the low bits.
  static Vec power_of_two(Vec n) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(n.value), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3F800000)))};
  }
  static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.value, b.value)}; }
  static Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.value, b.value)}; }
  static Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.value)}; }
  void store(float* to) const { _mm512_storeu_ps(to, value); }

  // Four weights, and one of them in all lanes. A shuffle would take the port of every second multiply-add.
  struct Four {
    const float* from;
  };
  static Four load_four(const float* from) { return {from}; }
  template <std::size_t index>
  static Vec broadcast(Four four) {
    return broadcast(four.from[index]);
  }
};

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.value, b.value)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.value, b.value)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.value, b.value)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.value, b.value)}; }

}  // namespace pruneonce::avx512
