// AVX2 and FMA: 16 registers of 8 floats.
#pragma once

#include <immintrin.h>

#include <cstddef>

namespace pruneonce::avx2 {

struct Vec {
  static constexpr std::size_t lanes = 8;
  __m256 value;

  static Vec load(const float* from) { return {_mm256_loadu_ps(from)}; }
  static Vec broadcast(float value) { return {_mm256_set1_ps(value)}; }
  // a * b + c, rounded once
  static Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }
  // 2^n for the whole number n in -126 .. 127 that adding 1.5 · 2^23 has left in the low bits.
  static Vec power_of_two(Vec n) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(n.value), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3F800000)))};
  }
  static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.value, b.value)}; }
  static Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.value, b.value)}; }
  static Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.value)}; }
  void store(float* to) const { _mm256_storeu_ps(to, value); }

  // Four weights, and one of them in all lanes: one load for four, and a shuffle on a port that multiply-adds do not use.
  using Four = __m256;
  static Four load_four(const float* from) { return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(from)); }
  template <std::size_t index>
  static Vec broadcast(Four four) {
    return {_mm256_permute_ps(four, index * 0x55)};
  }
};

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.value, b.value)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.value, b.value)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.value, b.value)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.value, b.value)}; }

}  // namespace pruneonce::avx2
