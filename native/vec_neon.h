// 64-bit ARM's Advanced SIMD: 32 registers of 4 floats, two of them a vector, so that what is loaded and reckoned per
// weight serves 32 tokens. With and without the instructions that add up products of four bytes: SDOT, whose bytes are
// all signed, and USDOT, whose codes are not.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "vector_isa.h"

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {

struct Vec {
  static constexpr std::size_t lanes = 8;
  float32x4_t low, high;

  static Vec load(const float* from) { return {vld1q_f32(from), vld1q_f32(from + 4)}; }
  static Vec broadcast(float value) { return {vdupq_n_f32(value), vdupq_n_f32(value)}; }
  // a * b + c, rounded once
  static Vec multiply_add(Vec a, Vec b, Vec c) {
    return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
  }
  // 2^n for the whole number n in -126 .. 127 that adding 1.5 · 2^23 has left in the low bits.
  static Vec power_of_two(Vec n) {
    const auto power = [](float32x4_t half) {
      return vreinterpretq_f32_s32(vaddq_s32(vshlq_n_s32(vreinterpretq_s32_f32(half), 23), vdupq_n_s32(0x3F800000)));
    };
    return {power(n.low), power(n.high)};
  }
  // Not FMAX and FMIN, which keep what is no number.
  static Vec max(Vec a, Vec b) {
    return {vbslq_f32(vcgtq_f32(a.low, b.low), a.low, b.low), vbslq_f32(vcgtq_f32(a.high, b.high), a.high, b.high)};
  }
  static Vec min(Vec a, Vec b) {
    return {vbslq_f32(vcltq_f32(a.low, b.low), a.low, b.low), vbslq_f32(vcltq_f32(a.high, b.high), a.high, b.high)};
  }
  static Vec sqrt(Vec a) { return {vsqrtq_f32(a.low), vsqrtq_f32(a.high)}; }
  void store(float* to) const {
    vst1q_f32(to, low);
    vst1q_f32(to + 4, high);
  }

  // Four weights, and one of them in all lanes: multiply-adds take it from its place.
  using Four = float32x4_t;
  static Four load_four(const float* from) { return vld1q_f32(from); }
  template <std::size_t index>
  static Vec broadcast(Four four) {
    return {vdupq_laneq_f32(four, index), vdupq_laneq_f32(four, index)};
  }
};

inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
inline Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
inline Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
inline Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }

// Row r, lane l becomes row l, lane r.
inline __attribute__((always_inline)) void transpose(Vec (&rows)[Vec::lanes]) {
  const auto turn = [](float32x4_t& a, float32x4_t& b, float32x4_t& c, float32x4_t& d) {
    const auto pairs = [](float32x4_t x) { return vreinterpretq_f64_f32(x); };
    const auto floats = [](float64x2_t x) { return vreinterpretq_f32_f64(x); };
    const float64x2_t ab_even = pairs(vtrn1q_f32(a, b)), ab_odd = pairs(vtrn2q_f32(a, b)),
                      cd_even = pairs(vtrn1q_f32(c, d)), cd_odd = pairs(vtrn2q_f32(c, d));
    a = floats(vtrn1q_f64(ab_even, cd_even));
    b = floats(vtrn1q_f64(ab_odd, cd_odd));
    c = floats(vtrn2q_f64(ab_even, cd_even));
    d = floats(vtrn2q_f64(ab_odd, cd_odd));
  };
  turn(rows[0].low, rows[1].low, rows[2].low, rows[3].low);
  turn(rows[0].high, rows[1].high, rows[2].high, rows[3].high);
  turn(rows[4].low, rows[5].low, rows[6].low, rows[7].low);
  turn(rows[4].high, rows[5].high, rows[6].high, rows[7].high);
  for (std::size_t r = 0; r < 4; ++r) {
    const float32x4_t kept = rows[r].high;
    rows[r].high = rows[r + 4].low;
    rows[r + 4].low = kept;
  }
}

// to[k] += the sum of all lanes of k, for the first `count` of four.
template <std::size_t count>
inline __attribute__((always_inline)) void add_sums(const Vec (&four)[4], float* to) {
  const auto halves = [](Vec a) { return vaddq_f32(a.low, a.high); };
  const float32x4_t sums =
      vpaddq_f32(vpaddq_f32(halves(four[0]), halves(four[1])), vpaddq_f32(halves(four[2]), halves(four[3])));
  if constexpr (count == 4) {
    vst1q_f32(to, vaddq_f32(vld1q_f32(to), sums));
  } else {
    float each[4];
    vst1q_f32(each, sums);
    for (std::size_t k = 0; k < count; ++k) to[k] += each[k];
  }
}

using Table = NoTable;

// A register of bytes or whole numbers from memory of any type.
template <class Register>
inline Register load_as(const void* from) {
  Register result;
  __builtin_memcpy(&result, from, sizeof result);
  return result;
}

// As many whole numbers of 32 bits as a Vec has floats.
struct Ints {
  int32x4_t low, high;

  // From and to memory that may hold floats at other times.
  static Ints load(const float* from) { return {load_as<int32x4_t>(from), load_as<int32x4_t>(from + 4)}; }
  void store(void* to) const {
    __builtin_memcpy(to, &low, sizeof low);
    __builtin_memcpy(static_cast<char*>(to) + sizeof low, &high, sizeof high);
  }
  static Ints broadcast(std::int32_t value) { return {vdupq_n_s32(value), vdupq_n_s32(value)}; }
  // The nearest whole numbers, halves to the even one.
  static Ints round(Vec x) { return {vcvtnq_s32_f32(x.low), vcvtnq_s32_f32(x.high)}; }
  Vec to_float() const { return {vcvtq_f32_s32(low), vcvtq_f32_s32(high)}; }
};

// Whole numbers of 0 to 255 as the four bytes of a word, the first lowest.
inline Ints bytes_of(const Ints (&four)[4]) {
  const auto words = [](int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
    return vsliq_n_s32(vsliq_n_s32(a, b, 8), vsliq_n_s32(c, d, 8), 16);
  };
  return {words(four[0].low, four[1].low, four[2].low, four[3].low),
          words(four[0].high, four[1].high, four[2].high, four[3].high)};
}

inline Ints operator+(Ints a, Ints b) { return {vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)}; }

// Every byte less 128.
inline int8x16_t signed_bytes(int8x16_t bytes) { return veorq_s8(bytes, vdupq_n_s8(-128)); }

// 16 codes as they are multiplied: less 128, but for USDOT.
#ifdef __ARM_FEATURE_MATMUL_INT8
inline int8x16_t centred(int8x16_t codes) { return codes; }
#else
inline int8x16_t centred(int8x16_t codes) { return signed_bytes(codes); }
#endif

// Four vectors of tokens, a byte each, centred.
struct CodeRow {
  static constexpr std::size_t bytes = 4 * Vec::lanes;
#ifdef __ARM_FEATURE_MATMUL_INT8
  static constexpr std::int32_t centre = 0;
#else
  static constexpr std::int32_t centre = 128;
#endif

  static void store(const Ints (&four)[4], std::uint8_t* to) {
    const auto halves = [](Ints a) {
      return vreinterpretq_s8_s16(vuzp1q_s16(vreinterpretq_s16_s32(a.low), vreinterpretq_s16_s32(a.high)));
    };
    for (std::size_t v = 0; v < 4; v += 2, to += 16) {
      const int8x16_t codes = centred(vuzp1q_s8(halves(four[v]), halves(four[v + 1])));
      __builtin_memcpy(to, &codes, sizeof codes);
    }
  }
};

// Four weights: a word by itself, or one of four words, which products take from its place.
struct OneWord {
  int8x8_t words;
};
template <std::size_t index>
struct WordOfFour {
  int8x16_t words;
};

struct Words {
#ifdef __ARM_FEATURE_DOTPROD
  static constexpr bool sums_fours = true;
  static OneWord load(const void* from) { return {vcreate_s8(load_as<std::uint32_t>(from))}; }
#else
  static constexpr bool sums_fours = false;
  static OneWord load(const void* from) { return {vreinterpret_s8_s32(vdup_n_s32(load_as<std::int32_t>(from)))}; }
#endif
  static int8x16_t load_four(const std::int8_t* from) { return vld1q_s8(from); }
  template <std::size_t index>
  static WordOfFour<index> broadcast(int8x16_t four) {
    return {four};
  }
};

#ifdef __ARM_FEATURE_DOTPROD
// sum + the products of four neighbouring bytes, added up.
inline int32x4_t add_products(int32x4_t sum, int8x16_t codes, OneWord w) {
#ifdef __ARM_FEATURE_MATMUL_INT8
  return vusdotq_lane_s32(sum, vreinterpretq_u8_s8(codes), w.words, 0);
#else
  return vdotq_lane_s32(sum, codes, w.words, 0);
#endif
}
template <std::size_t index>
inline int32x4_t add_products(int32x4_t sum, int8x16_t codes, WordOfFour<index> w) {
#ifdef __ARM_FEATURE_MATMUL_INT8
  return vusdotq_laneq_s32(sum, vreinterpretq_u8_s8(codes), w.words, index);
#else
  return vdotq_laneq_s32(sum, codes, w.words, index);
#endif
}

// sum += one or two vectors of x[0] · w[0] + … + x[3] · w[3], of rows that begin with them.
template <std::size_t vectors, class Word>
inline __attribute__((always_inline)) void add_rows(Word w, int8x16_t a, int8x16_t b, int8x16_t c, int8x16_t d,
                                                    Ints* sum) {
  const auto low = [](int8x16_t x, int8x16_t y) { return vreinterpretq_s16_s8(vzip1q_s8(x, y)); };
  const auto high = [](int8x16_t x, int8x16_t y) { return vreinterpretq_s16_s8(vzip2q_s8(x, y)); };
  const auto add = [&](Ints& to, int16x8_t ab, int16x8_t cd) {
    to.low = add_products(to.low, vreinterpretq_s8_s16(vzip1q_s16(ab, cd)), w);
    to.high = add_products(to.high, vreinterpretq_s8_s16(vzip2q_s16(ab, cd)), w);
  };
  add(sum[0], low(a, b), low(c, d));
  if constexpr (vectors > 1) add(sum[1], high(a, b), high(c, d));
}
#else
// A word, or the byte at `k` of one, in all lanes.
inline int8x16_t everywhere(OneWord w) { return vreinterpretq_s8_s32(vdupq_lane_s32(vreinterpret_s32_s8(w.words), 0)); }
template <std::size_t index>
inline int8x16_t everywhere(WordOfFour<index> w) {
  return vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(w.words), index));
}
template <std::size_t k>
inline int8x16_t byte_everywhere(OneWord w) {
  return vdupq_lane_s8(w.words, k);
}
template <std::size_t k, std::size_t index>
inline int8x16_t byte_everywhere(WordOfFour<index> w) {
  return vdupq_laneq_s8(w.words, 4 * index + k);
}

// sum + the products of four neighbouring bytes, added up. Pairs are added in 16 bits: see add_rows.
inline int32x4_t add_products(int32x4_t sum, int8x16_t codes, int8x16_t weights) {
  const int16x8_t low = vmull_s8(vget_low_s8(codes), vget_low_s8(weights)), high = vmull_high_s8(codes, weights);
  return vpadalq_s16(sum, vpaddq_s16(low, high));
}
template <class Word>
inline int32x4_t add_products(int32x4_t sum, int8x16_t codes, Word w) {
  return add_products(sum, codes, everywhere(w));
}

// sum += one or two vectors of x[0] · w[0] + … + x[3] · w[3], of rows that begin with them. The first two weights, and
// the last two, must be such that no pair of codes overflows 16 bits (int8_pack.cc).
template <std::size_t vectors, class Word>
inline __attribute__((always_inline)) void add_rows(Word w, int8x16_t a, int8x16_t b, int8x16_t c, int8x16_t d,
                                                    Ints* sum) {
  const int8x16_t w0 = byte_everywhere<0>(w), w1 = byte_everywhere<1>(w), w2 = byte_everywhere<2>(w),
                  w3 = byte_everywhere<3>(w);
  const auto add = [](Ints& to, int16x8_t ab, int16x8_t cd) {
    to.low = vaddw_s16(vaddw_s16(to.low, vget_low_s16(ab)), vget_low_s16(cd));
    to.high = vaddw_high_s16(vaddw_high_s16(to.high, ab), cd);
  };
  const auto low = [](int8x16_t x, int8x16_t u, int8x16_t y, int8x16_t v) {
    return vmlal_s8(vmull_s8(vget_low_s8(x), vget_low_s8(u)), vget_low_s8(y), vget_low_s8(v));
  };
  add(sum[0], low(a, w0, b, w1), low(c, w2, d, w3));
  if constexpr (vectors > 1)
    add(sum[1], vmlal_high_s8(vmull_high_s8(a, w0), b, w1), vmlal_high_s8(vmull_high_s8(c, w2), d, w3));
}
#endif

// sum += the first vectors of x[0] · w[0] + … + x[3] · w[3]
template <std::size_t vectors, class Word>
inline __attribute__((always_inline)) void add_four(Word w, const std::uint8_t* const (&x)[4], Ints (&sum)[vectors]) {
  const auto row = [&](std::size_t k, std::size_t at) { return load_as<int8x16_t>(x[k] + at); };
  add_rows<(vectors > 1 ? 2 : 1)>(w, row(0, 0), row(1, 0), row(2, 0), row(3, 0), sum);
  if constexpr (vectors > 2) add_rows<vectors - 2>(w, row(0, 16), row(1, 16), row(2, 16), row(3, 16), sum + 2);
}

// sum += a word's weights times the codes of four neighbouring features: [vectors] of x. See add_rows for overflow.
template <std::size_t vectors, class Word>
inline __attribute__((always_inline)) void add_neighbours(Word word, const std::uint8_t* x, Ints (&sum)[vectors]) {
#pragma GCC unroll 4
  for (std::size_t v = 0; v < vectors; ++v, x += CodeRow::bytes) {
    sum[v].low = add_products(sum[v].low, centred(load_as<int8x16_t>(x)), word);
    sum[v].high = add_products(sum[v].high, centred(load_as<int8x16_t>(x + 16)), word);
  }
}

#ifdef __ARM_FEATURE_DOTPROD
struct DenseFour {
  static constexpr std::size_t words = 1, vectors_at_once = 2;  // with six rows 24 registers of sums
  int8x16_t low, high;

  static DenseFour load(const std::uint8_t* x) {
    return {centred(load_as<int8x16_t>(x)), centred(load_as<int8x16_t>(x + 16))};
  }
  static void pack(const std::int8_t (&four)[4], std::int32_t* word) { __builtin_memcpy(word, four, sizeof four); }
  static OneWord broadcast(const std::int32_t* word) { return Words::load(word); }
  static void store(Ints fours, std::int32_t* word, std::size_t) {
    const auto half = [](int32x4_t x) { return vreinterpretq_s32_s8(signed_bytes(vreinterpretq_s8_s32(x))); };
    Ints{half(fours.low), half(fours.high)}.store(word);
  }
  static OneWord broadcast(const std::int32_t* word, std::size_t) { return broadcast(word); }
  Ints add_products(Ints sum, OneWord weights) const {
    return {PRUNEONCE_ISA_NAMESPACE::add_products(sum.low, low, weights),
            PRUNEONCE_ISA_NAMESPACE::add_products(sum.high, high, weights)};
  }
};
#else
// Codes and weights widened to 16 bits, each of the four features of eight tokens in a register of its own.
struct DenseFour {
  static constexpr std::size_t words = 2, vectors_at_once = 1;
  int16x8_t feature[4];

  static DenseFour load(const std::uint8_t* x) {
    const uint8x16_t low = load_as<uint8x16_t>(x), high = load_as<uint8x16_t>(x + 16);
    const uint8x16_t even = vuzp1q_u8(low, high), odd = vuzp2q_u8(low, high);
    const uint8x16_t first = vuzp1q_u8(even, odd), second = vuzp2q_u8(even, odd);
    const auto low_half = [](uint8x16_t codes) {
      return vreinterpretq_s16_u16(vsubl_u8(vget_low_u8(codes), vdup_n_u8(CodeRow::centre)));
    };
    const auto high_half = [](uint8x16_t codes) {
      return vreinterpretq_s16_u16(vsubl_high_u8(codes, vdupq_n_u8(CodeRow::centre)));
    };
    return {{low_half(first), high_half(first), low_half(second), high_half(second)}};
  }
  static void pack(const std::int8_t (&four)[4], std::int32_t* words) {
    const std::int16_t wide[4] = {four[0], four[1], four[2], four[3]};
    __builtin_memcpy(words, wide, sizeof wide);
  }
  static int16x4_t broadcast(const std::int32_t* words) { return load_as<int16x4_t>(words); }
  static void store(Ints fours, std::int32_t* words, std::size_t apart) {
    const auto bytes = [](int32x4_t x) { return signed_bytes(vreinterpretq_s8_s32(x)); };
    const auto low = [](int8x16_t x) { return vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(x))); };
    const auto high = [](int8x16_t x) { return vreinterpretq_s32_s16(vmovl_high_s8(x)); };
    const int8x16_t a = bytes(fours.low), b = bytes(fours.high);
    Ints{vuzp1q_s32(low(a), high(a)), vuzp1q_s32(low(b), high(b))}.store(words);
    Ints{vuzp2q_s32(low(a), high(a)), vuzp2q_s32(low(b), high(b))}.store(words + apart);
  }
  static int16x4_t broadcast(const std::int32_t* words, std::size_t apart) {
    return vreinterpret_s16_s32(vset_lane_s32(words[apart], vdup_n_s32(words[0]), 1));
  }
  template <std::size_t k>
  Ints add_feature(Ints sum, int16x4_t weights) const {
    return {vmlal_lane_s16(sum.low, vget_low_s16(feature[k]), weights, k),
            vmlal_high_lane_s16(sum.high, feature[k], weights, k)};
  }
  Ints add_products(Ints sum, int16x4_t weights) const {
    return add_feature<3>(add_feature<2>(add_feature<1>(add_feature<0>(sum, weights), weights), weights), weights);
  }
};
#endif

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
