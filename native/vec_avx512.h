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

// Row r, lane l becomes row l, lane r.
inline __attribute__((always_inline)) void transpose(Vec (&rows)[Vec::lanes]) {
  __m512 pair[16], four[16], eight[16];
  for (std::size_t r = 0; r < 16; r += 2) {
    pair[r] = _mm512_unpacklo_ps(rows[r].value, rows[r + 1].value);
    pair[r + 1] = _mm512_unpackhi_ps(rows[r].value, rows[r + 1].value);
  }
  for (std::size_t r = 0; r < 16; r += 4)
    for (std::size_t half = 0; half < 2; ++half) {
      const __m512d low = _mm512_castps_pd(pair[r + half]), high = _mm512_castps_pd(pair[r + half + 2]);
      four[r + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      four[r + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  for (std::size_t r = 0; r < 16; r += 8)
    for (std::size_t k = 0; k < 4; ++k) {
      eight[r + k] = _mm512_shuffle_f32x4(four[r + k], four[r + k + 4], 0x88);
      eight[r + k + 4] = _mm512_shuffle_f32x4(four[r + k], four[r + k + 4], 0xDD);
    }
  for (std::size_t k = 0; k < 8; ++k) {
    rows[k].value = _mm512_shuffle_f32x4(eight[k], eight[k + 8], 0x88);
    rows[k + 8].value = _mm512_shuffle_f32x4(eight[k], eight[k + 8], 0xDD);
  }
}

// to[k] += the sum of all lanes of k, for the first `count` of four.
template <std::size_t count>
inline __attribute__((always_inline)) void add_sums(const Vec (&four)[4], float* to) {
  const auto halves = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  };
  const __m512 ab = halves(four[0].value, four[1].value), cd = halves(four[2].value, four[3].value);
  const __m512 quarters = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
  const __m256 eighth = _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
  const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(eighth), _mm256_extractf128_ps(eighth, 1));
  if constexpr (count == 4) {
    _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), sums));
  } else {
    constexpr __mmask8 some = (1u << count) - 1;
    _mm_mask_storeu_ps(to, some, _mm_add_ps(_mm_maskz_loadu_ps(some, to), sums));
  }
}

// 32 numbers in two registers, looked up by the low five bits of each lane.
struct Table {
  __m512 low, high;

  explicit Table(const float* from) : low(_mm512_loadu_ps(from)), high(_mm512_loadu_ps(from + 16)) {}
  Vec operator[](Vec index) const { return {_mm512_permutex2var_ps(low, _mm512_castps_si512(index.value), high)}; }
};

// As many whole numbers of 32 bits as a Vec has floats.
struct Ints {
  // Not __m512i, which may alias anything: GCC 12 then keeps arrays of sums in memory.
  using Lanes = int __attribute__((vector_size(64)));
  Lanes lanes;

  Ints() = default;
  Ints(__m512i value) : lanes(reinterpret_cast<Lanes>(value)) {}
  __m512i value() const { return reinterpret_cast<__m512i>(lanes); }

  // From and to memory that may hold floats at other times.
  static Ints load(const float* from) { return {_mm512_loadu_si512(reinterpret_cast<const __m512i*>(from))}; }
  void store(void* to) const { _mm512_storeu_si512(static_cast<__m512i*>(to), value()); }
  static Ints broadcast(std::int32_t value) { return {_mm512_set1_epi32(value)}; }
  // The nearest whole numbers, halves to the even one.
  static Ints round(Vec x) { return {_mm512_cvtps_epi32(x.value)}; }
  Vec to_float() const { return {_mm512_cvtepi32_ps(value())}; }
};

// Whole numbers of 0 to 255 as the four bytes of a word, the first lowest.
inline Ints bytes_of(const Ints (&four)[4]) {
  const __m512i low = _mm512_or_si512(four[0].value(), _mm512_slli_epi32(four[1].value(), 8));
  const __m512i high = _mm512_or_si512(four[2].value(), _mm512_slli_epi32(four[3].value(), 8));
  return {_mm512_or_si512(low, _mm512_slli_epi32(high, 16))};
}

inline Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.value(), b.value())}; }

// Every byte less 128.
inline Ints signed_bytes(Ints a) { return {_mm512_xor_si512(a.value(), _mm512_set1_epi8(-128))}; }

// Four vectors of tokens, a byte each, in the order in which add_four takes them apart: packing works on 128 bits at a
// time, and so does unpacking.
struct CodeRow {
  static constexpr std::size_t bytes = 4 * Vec::lanes;
  static constexpr std::int32_t centre = 0;
  static void store(const Ints (&four)[4], std::uint8_t* to) {
    const __m512i ab = _mm512_packs_epi32(four[0].value(), four[1].value()),
                  cd = _mm512_packs_epi32(four[2].value(), four[3].value());
    _mm512_storeu_si512(reinterpret_cast<__m512i*>(to), _mm512_packus_epi16(ab, cd));
  }
};

// A word of four weights in all lanes: by a load, or one of four words by a shuffle.
struct Words {
#ifdef __AVX512VNNI__
  static constexpr bool sums_fours = true;
#else
  static constexpr bool sums_fours = false;
#endif

  static __m512i load(const std::int8_t* from) {
    std::int32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    return _mm512_set1_epi32(four);
  }
  static __m512i load_four(const std::int8_t* from) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  template <std::size_t index>
  static __m512i broadcast(__m512i four) {
    return _mm512_shuffle_epi32(four, static_cast<_MM_PERM_ENUM>(index * 0x55));
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

// sum += the first vectors of x[0] · w[0] + … + x[3] · w[3], w: a word of four weights in all lanes. Without VNNI
// products are added in pairs of 16 bits: the first two weights, and the last two, must be such that no pair of codes
// overflows (int8_pack.cc).
template <std::size_t vectors>
inline __attribute__((always_inline)) void add_four(__m512i w, const std::uint8_t* const (&x)[4],
                                                    Ints (&sum)[vectors]) {
  const auto row = [&](std::size_t k) { return _mm512_loadu_si512(reinterpret_cast<const __m512i*>(x[k])); };
  const __m512i a = row(0), b = row(1), c = row(2), d = row(3);
  const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
  sum[0] = add_products(sum[0].value(), _mm512_unpacklo_epi16(ab, cd), w);
  if constexpr (vectors > 1) sum[1] = add_products(sum[1].value(), _mm512_unpackhi_epi16(ab, cd), w);
  if constexpr (vectors > 2) {
    const __m512i ab_high = _mm512_unpackhi_epi8(a, b), cd_high = _mm512_unpackhi_epi8(c, d);
    sum[2] = add_products(sum[2].value(), _mm512_unpacklo_epi16(ab_high, cd_high), w);
    if constexpr (vectors > 3) sum[3] = add_products(sum[3].value(), _mm512_unpackhi_epi16(ab_high, cd_high), w);
  }
}

// sum += a word's weights times the codes of four neighbouring features: [vectors] of x. See add_four for overflow.
template <std::size_t vectors>
inline __attribute__((always_inline)) void add_neighbours(__m512i word, const std::uint8_t* x, Ints (&sum)[vectors]) {
#pragma GCC unroll 4
  for (std::size_t v = 0; v < vectors; ++v, x += CodeRow::bytes)
    sum[v] = add_products(sum[v].value(), _mm512_loadu_si512(reinterpret_cast<const __m512i*>(x)), word);
}

#ifdef __AVX512VNNI__
struct DenseFour {
  static constexpr std::size_t words = 1, vectors_at_once = 4;  // with six rows 24 sums
  __m512i codes;

  static DenseFour load(const std::uint8_t* x) { return {_mm512_loadu_si512(reinterpret_cast<const __m512i*>(x))}; }
  static void pack(const std::int8_t (&four)[4], std::int32_t* word) { __builtin_memcpy(word, four, sizeof four); }
  static Ints broadcast(const std::int32_t* word) { return Ints::broadcast(*word); }
  static void store(Ints fours, std::int32_t* word, std::size_t) { signed_bytes(fours).store(word); }
  static Ints broadcast(const std::int32_t* word, std::size_t) { return Ints::broadcast(*word); }
  Ints add_products(Ints sum, Ints weights) const { return {_mm512_dpbusd_epi32(sum.value(), codes, weights.value())}; }
};
#else
// Codes and weights widened to 16 bits, whose pairs cannot overflow: the first and third of a four, the second and
// fourth.
struct DenseFour {
  static constexpr std::size_t words = 2, vectors_at_once = 2;
  __m512i even, odd;

  static DenseFour load(const std::uint8_t* x) {
    const __m512i codes = _mm512_loadu_si512(reinterpret_cast<const __m512i*>(x));
    return {_mm512_and_si512(codes, _mm512_set1_epi16(255)), _mm512_srli_epi16(codes, 8)};
  }
  static void pack(const std::int8_t (&four)[4], std::int32_t* words) {
    const std::int16_t wide[4] = {four[0], four[2], four[1], four[3]};
    __builtin_memcpy(words, wide, sizeof wide);
  }
  static DenseFour broadcast(const std::int32_t* words) {
    return {_mm512_set1_epi32(words[0]), _mm512_set1_epi32(words[1])};
  }
  static void store(Ints fours, std::int32_t* words, std::size_t apart) {
    const __m512i bytes = signed_bytes(fours).value();
    Ints(_mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8)).store(words);
    Ints(_mm512_srai_epi16(bytes, 8)).store(words + apart);
  }
  static DenseFour broadcast(const std::int32_t* words, std::size_t apart) {
    return {_mm512_set1_epi32(words[0]), _mm512_set1_epi32(words[apart])};
  }
  Ints add_products(Ints sum, DenseFour weights) const {
    const __m512i products =
        _mm512_add_epi32(_mm512_madd_epi16(even, weights.even), _mm512_madd_epi16(odd, weights.odd));
    return {_mm512_add_epi32(sum.value(), products)};
  }
};
#endif

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
