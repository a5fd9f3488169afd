// AVX-512: 32 registers of 16 floats. With and without VNNI, which only multiplies bytes.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {

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

  // Four weights, and one of them in all lanes, by a shuffle within 128 bits.
  struct Four {
    __m512 value;
  };
  static Four load_four(const float* from) { return {_mm512_broadcast_f32x4(_mm_loadu_ps(from))}; }
  template <std::size_t index>
  static Vec broadcast(Four four) {
    return {_mm512_permute_ps(four.value, index * 0x55)};
  }
};

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.value, b.value)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.value, b.value)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.value, b.value)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.value, b.value)}; }

// As many whole numbers of 32 bits as a Vec has floats.
struct Ints {
  __m512i value;

  // From and to memory that may hold floats at other times.
  static Ints load(const float* from) { return {_mm512_loadu_si512(reinterpret_cast<const __m512i*>(from))}; }
  void store(float* to) const { _mm512_storeu_si512(reinterpret_cast<__m512i*>(to), value); }
  static Ints broadcast(std::int32_t value) { return {_mm512_set1_epi32(value)}; }
  // The nearest whole numbers, halves to the even one.
  static Ints round(Vec x) { return {_mm512_cvtps_epi32(x.value)}; }
  Vec to_float() const { return {_mm512_cvtepi32_ps(value)}; }
};

inline Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.value, b.value)}; }

// Four vectors of tokens, a byte each, in the order in which add_four takes them apart: packing works on 128 bits at a
// time, and so does unpacking.
struct CodeRow {
  static constexpr std::size_t bytes = 4 * Vec::lanes;
  static void store(const Ints (&four)[4], std::uint8_t* to) {
    const __m512i ab = _mm512_packs_epi32(four[0].value, four[1].value), cd = _mm512_packs_epi32(four[2].value, four[3].value);
    _mm512_storeu_si512(reinterpret_cast<__m512i*>(to), _mm512_packus_epi16(ab, cd));
  }
};

// sum + the products of four neighbouring bytes, added up.
inline __m512i add_products(__m512i sum, __m512i codes, __m512i weights) {
#ifdef __AVX512VNNI__
  return _mm512_dpbusd_epi32(sum, codes, weights);
#else
  const __m512i pairs = _mm512_maddubs_epi16(codes, weights);
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

// sum += the first vectors of x[0] · weights[0] + … + x[3] · weights[3]. Without VNNI products are added in pairs of 16 bits: weights[0] and
// weights[1], and likewise the other two, must be such that no pair of codes overflows (int8_pack.cc).
template <std::size_t vectors>
inline __attribute__((always_inline)) void add_four(const std::int8_t* weights, const std::uint8_t* const (&x)[4],
                                                    Ints (&sum)[vectors]) {
  std::int32_t four;
  __builtin_memcpy(&four, weights, sizeof four);
  const __m512i w = _mm512_set1_epi32(four);
  const auto row = [&](std::size_t k) { return _mm512_loadu_si512(reinterpret_cast<const __m512i*>(x[k])); };
  const __m512i a = row(0), b = row(1), c = row(2), d = row(3);
  const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
  sum[0].value = add_products(sum[0].value, _mm512_unpacklo_epi16(ab, cd), w);
  if constexpr (vectors > 1) sum[1].value = add_products(sum[1].value, _mm512_unpackhi_epi16(ab, cd), w);
  if constexpr (vectors > 2) {
    const __m512i ab_high = _mm512_unpackhi_epi8(a, b), cd_high = _mm512_unpackhi_epi8(c, d);
    sum[2].value = add_products(sum[2].value, _mm512_unpacklo_epi16(ab_high, cd_high), w);
    if constexpr (vectors > 3) sum[3].value = add_products(sum[3].value, _mm512_unpackhi_epi16(ab_high, cd_high), w);
  }
}

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
