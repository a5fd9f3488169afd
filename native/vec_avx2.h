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
  void store(float* to) const { _mm256_storeu_ps(to, value); }
};

}  // namespace pruneonce::avx2
