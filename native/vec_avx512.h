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
  void store(float* to) const { _mm512_storeu_ps(to, value); }
};

}  // namespace pruneonce::avx512
