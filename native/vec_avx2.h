// AVX2 and FMA: 16 registers of 8 floats.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

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

  // Four weights, and one of them in all lanes: one load for four, and a shuffle on a port that multiply-adds do not
  // use.
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

// Row r, lane l becomes row l, lane r.
inline __attribute__((always_inline)) void transpose(Vec (&rows)[Vec::lanes]) {
  __m256 pair[8], four[8];
  for (std::size_t r = 0; r < 8; r += 2) {
    pair[r] = _mm256_unpacklo_ps(rows[r].value, rows[r + 1].value);
    pair[r + 1] = _mm256_unpackhi_ps(rows[r].value, rows[r + 1].value);
  }
  for (std::size_t r = 0; r < 8; r += 4)
    for (std::size_t half = 0; half < 2; ++half) {
      four[r + 2 * half] = _mm256_shuffle_ps(pair[r + half], pair[r + half + 2], 0x44);
      four[r + 2 * half + 1] = _mm256_shuffle_ps(pair[r + half], pair[r + half + 2], 0xEE);
    }
  for (std::size_t k = 0; k < 4; ++k) {
    rows[k].value = _mm256_permute2f128_ps(four[k], four[k + 4], 0x20);
    rows[k + 4].value = _mm256_permute2f128_ps(four[k], four[k + 4], 0x31);
  }
}

// to[k] += the sum of all lanes of k, for the first `count` of four.
template <std::size_t count>
inline __attribute__((always_inline)) void add_sums(const Vec (&four)[4], float* to) {
  const auto halves = [](__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  };
  const __m256 ab = halves(four[0].value, four[1].value), cd = halves(four[2].value, four[3].value);
  const __m256 quarters = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
  const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(quarters), _mm256_extractf128_ps(quarters, 1));
  if constexpr (count == 4) {
    _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), sums));
  } else {
    float each[4];
    _mm_storeu_ps(each, sums);
    for (std::size_t k = 0; k < count; ++k) to[k] += each[k];
  }
}

// 32 numbers in memory, looked up by the low five bits of each lane: eight at a time by shuffles, a fifth of the time
// that gathering takes.
struct Table {
  const float* from;

  explicit Table(const float* numbers) : from(numbers) {}
  Vec operator[](Vec index) const {
    const __m256i place = _mm256_castps_si256(index.value);
    const auto of_eight = [&](std::size_t k) { return _mm256_permutevar8x32_ps(_mm256_loadu_ps(from + 8 * k), place); };
    const __m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(place, 28)),
                 bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(place, 27));
    const __m256 low = _mm256_blendv_ps(of_eight(0), of_eight(1), bit3),
                 high = _mm256_blendv_ps(of_eight(2), of_eight(3), bit3);
    return {_mm256_blendv_ps(low, high, bit4)};
  }
};

// As many whole numbers of 32 bits as a Vec has floats.
struct Ints {
  // Not __m256i, which may alias anything: GCC 12 then keeps arrays of sums in memory.
  using Lanes = int __attribute__((vector_size(32)));
  Lanes lanes;

  Ints() = default;
  Ints(__m256i value) : lanes(reinterpret_cast<Lanes>(value)) {}
  __m256i value() const { return reinterpret_cast<__m256i>(lanes); }

  // From and to memory that may hold floats at other times.
  static Ints load(const float* from) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))}; }
  void store(void* to) const { _mm256_storeu_si256(static_cast<__m256i*>(to), value()); }
  static Ints broadcast(std::int32_t value) { return {_mm256_set1_epi32(value)}; }
  // The nearest whole numbers, halves to the even one.
  static Ints round(Vec x) { return {_mm256_cvtps_epi32(x.value)}; }
  Vec to_float() const { return {_mm256_cvtepi32_ps(value())}; }
};

// Whole numbers of 0 to 255 as the four bytes of a word, the first lowest.
inline Ints bytes_of(const Ints (&four)[4]) {
  const __m256i low = _mm256_or_si256(four[0].value(), _mm256_slli_epi32(four[1].value(), 8));
  const __m256i high = _mm256_or_si256(four[2].value(), _mm256_slli_epi32(four[3].value(), 8));
  return {_mm256_or_si256(low, _mm256_slli_epi32(high, 16))};
}

inline Ints operator+(Ints a, Ints b) { return {_mm256_add_epi32(a.value(), b.value())}; }

// Four vectors of tokens, a byte each, in the order in which add_four takes them apart: packing works on 128 bits at a
// time, and so does unpacking.
struct CodeRow {
  static constexpr std::size_t bytes = 4 * Vec::lanes;
  static constexpr std::int32_t centre = 0;
  static void store(const Ints (&four)[4], std::uint8_t* to) {
    const __m256i ab = _mm256_packs_epi32(four[0].value(), four[1].value()),
                  cd = _mm256_packs_epi32(four[2].value(), four[3].value());
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_packus_epi16(ab, cd));
  }
};

// A word of four weights in all lanes: by a load, or one of four words by a shuffle.
struct Words {
  static constexpr bool sums_fours = false;

  static __m256i load(const std::int8_t* from) {
    std::int32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    return _mm256_set1_epi32(four);
  }
  static __m256i load_four(const std::int8_t* from) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  template <std::size_t index>
  static __m256i broadcast(__m256i four) {
    return _mm256_shuffle_epi32(four, index * 0x55);
  }
};

// sum + the products of four neighbouring bytes, added up.
inline __m256i add_products(__m256i sum, __m256i codes, __m256i weights) {
  const __m256i pairs = _mm256_maddubs_epi16(codes, weights);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// sum += the first vectors of x[0] · w[0] + … + x[3] · w[3], w: a word of four weights in all lanes. Without VNNI
// products are added in pairs of 16 bits: the first two weights, and the last two, must be such that no pair of codes
// overflows (int8_pack.cc).
template <std::size_t vectors>
inline __attribute__((always_inline)) void add_four(__m256i w, const std::uint8_t* const (&x)[4],
                                                    Ints (&sum)[vectors]) {
  const auto row = [&](std::size_t k) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x[k])); };
  const __m256i a = row(0), b = row(1), c = row(2), d = row(3);
  const __m256i ab = _mm256_unpacklo_epi8(a, b), cd = _mm256_unpacklo_epi8(c, d);
  sum[0] = add_products(sum[0].value(), _mm256_unpacklo_epi16(ab, cd), w);
  if constexpr (vectors > 1) sum[1] = add_products(sum[1].value(), _mm256_unpackhi_epi16(ab, cd), w);
  if constexpr (vectors > 2) {
    const __m256i ab_high = _mm256_unpackhi_epi8(a, b), cd_high = _mm256_unpackhi_epi8(c, d);
    sum[2] = add_products(sum[2].value(), _mm256_unpacklo_epi16(ab_high, cd_high), w);
    if constexpr (vectors > 3) sum[3] = add_products(sum[3].value(), _mm256_unpackhi_epi16(ab_high, cd_high), w);
  }
}

// sum += a word's weights times the codes of four neighbouring features: [vectors] of x. See add_four for overflow.
template <std::size_t vectors>
inline __attribute__((always_inline)) void add_neighbours(__m256i word, const std::uint8_t* x, Ints (&sum)[vectors]) {
#pragma GCC unroll 4
  for (std::size_t v = 0; v < vectors; ++v, x += CodeRow::bytes)
    sum[v] = add_products(sum[v].value(), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)), word);
}

// Codes and weights widened to 16 bits, whose pairs cannot overflow: the first and third of a four, the second and
// fourth.
struct DenseFour {
  static constexpr std::size_t words = 2, vectors_at_once = 1;
  __m256i even, odd;

  static DenseFour load(const std::uint8_t* x) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return {_mm256_and_si256(codes, _mm256_set1_epi16(255)), _mm256_srli_epi16(codes, 8)};
  }
  static void pack(const std::int8_t (&four)[4], std::int32_t* words) {
    const std::int16_t wide[4] = {four[0], four[2], four[1], four[3]};
    __builtin_memcpy(words, wide, sizeof wide);
  }
  static DenseFour broadcast(const std::int32_t* words) {
    return {_mm256_set1_epi32(words[0]), _mm256_set1_epi32(words[1])};
  }
  static void store(Ints fours, std::int32_t* words, std::size_t apart) {
    const __m256i bytes = _mm256_xor_si256(fours.value(), _mm256_set1_epi8(-128));
    Ints(_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8)).store(words);
    Ints(_mm256_srai_epi16(bytes, 8)).store(words + apart);
  }
  static DenseFour broadcast(const std::int32_t* words, std::size_t apart) {
    return {_mm256_set1_epi32(words[0]), _mm256_set1_epi32(words[apart])};
  }
  Ints add_products(Ints sum, DenseFour weights) const {
    const __m256i products =
        _mm256_add_epi32(_mm256_madd_epi16(even, weights.even), _mm256_madd_epi16(odd, weights.odd));
    return {_mm256_add_epi32(sum.value(), products)};
  }
};

}  // namespace pruneonce::avx2
