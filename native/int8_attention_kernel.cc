// Compiled once per instruction set: see spmm_kernel.cc.
#include "int8_attention_kernel.h"

#include PRUNEONCE_VEC
#include "coder.h"
#include "vec_math.h"

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

constexpr std::size_t lanes = Vec::lanes;

// `count` of the vectors, the first of them `first`.
template <std::size_t rows, std::size_t count>
inline __attribute__((always_inline)) void multiply_part(const Int8Product& product, std::size_t vectors,
                                                         std::size_t first) {
  Ints sum[rows][count];
  const std::int32_t* value[rows];
  for (std::size_t r = 0; r < rows; ++r) {
    const Ints start = Ints::broadcast(product.start ? product.start[r] : 0);
    for (std::size_t v = 0; v < count; ++v) sum[r][v] = start;
    value[r] = product.value + r * product.row;
  }
  const std::uint8_t* x = product.x + first * CodeRow::bytes;
  const std::size_t apart = product.apart;
  for (std::size_t i = 0, at = 0; i < product.fours; ++i, at += product.four, x += vectors * CodeRow::bytes) {
    DenseFour column[count];
    for (std::size_t v = 0; v < count; ++v) column[v] = DenseFour::load(x + v * CodeRow::bytes);
    for (std::size_t r = 0; r < rows; ++r) {
      const auto weights = DenseFour::broadcast(value[r] + at, apart);
      for (std::size_t v = 0; v < count; ++v) sum[r][v] = column[v].add_products(sum[r][v], weights);
    }
  }
  float* const y = product.y + first * lanes;
  if (!product.factor) {
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t v = 0; v < count; ++v) sum[r][v].to_float().store(y + r * product.y_stride + v * lanes);
    return;
  }
  const Vec shift = Vec::broadcast(product.shift);
  for (std::size_t v = 0; v < count; ++v) {
    const Vec factor = Vec::load(product.factor + (first + v) * lanes);
    for (std::size_t r = 0; r < rows; ++r)
      Vec::multiply_add(sum[r][v].to_float(), factor, shift).store(y + r * product.y_stride + v * lanes);
  }
}

// As many sums at a time as the registers hold.
template <std::size_t rows, std::size_t vectors>
void multiply(const Int8Product& product) {
  constexpr std::size_t at_once = vectors < DenseFour::vectors_at_once ? vectors : DenseFour::vectors_at_once;
  constexpr std::size_t rest = vectors % at_once;
  for (std::size_t first = 0; first + at_once <= vectors; first += at_once)
    multiply_part<rows, at_once>(product, vectors, first);
  if constexpr (rest > 0) multiply_part<rows, rest>(product, vectors, vectors - rest);
}

// The codes of four rows of x, as the bytes of words; of less than four, 128 in the others' place, which is 0 signed.
inline __attribute__((always_inline)) Ints code_four(const Coder& coder, const float* x, std::size_t stride,
                                                     std::size_t rows, Ints* sum) {
  Ints four[4];
  for (std::size_t i = 0; i < 4; ++i) {
    four[i] = i < rows ? coder(Vec::load(x + i * stride)) : Ints::broadcast(128);
    if (sum) *sum = *sum + four[i];
  }
  return bytes_of(four);
}

void code_queries(const float* x, std::size_t features, std::size_t stride, std::size_t vectors, Code code,
                  std::uint8_t* codes) {
  const Coder coder(code.inverse_scale, code.zero_point);
  for (std::size_t f = 0; f < features; f += 4, x += 4 * stride)
    for (std::size_t v = 0; v < vectors; ++v, codes += CodeRow::bytes)
      code_four(coder, x + v * lanes, stride, features - f, nullptr).store(codes);
}

void code_keys(const float* x, std::size_t features, std::size_t stride, std::size_t vectors, Code code,
               std::int32_t* words, std::size_t apart, std::int32_t* sums) {
  const Coder coder(code.inverse_scale, code.zero_point);
  const auto fours = static_cast<std::int32_t>((features + 3) / 4);
  for (std::size_t v = 0; v < vectors; ++v, x += lanes, words += lanes, sums += lanes) {
    Ints sum = Ints::broadcast(-512 * fours);  // of signed codes
    for (std::size_t f = 0; f < features; f += 4)
      DenseFour::store(code_four(coder, x + f * stride, stride, features - f, &sum),
                       words + f / 4 * DenseFour::words * apart, apart);
    sum.store(sums);
  }
}

void code_values(const float* x, std::size_t features, std::size_t stride, std::size_t vectors, Code code,
                 std::uint8_t* codes, std::size_t code_stride) {
  const Coder coder(code.inverse_scale, code.zero_point);
  for (std::size_t f = 0; f < features; ++f, x += stride, codes += code_stride)
    for (std::size_t v = 0; v < vectors; v += 4) {
      std::int32_t whole[4 * lanes] = {};
      const std::size_t count = vectors - v < 4 ? vectors - v : 4;
      for (std::size_t i = 0; i < count; ++i) coder(Vec::load(x + (v + i) * lanes)).store(whole + i * lanes);
      // All of them: a loop of fixed length becomes a few instructions.
      for (std::size_t i = 0; i < 4 * lanes; ++i) codes[v * lanes + i] = static_cast<std::uint8_t>(whole[i]);
    }
}

void value_words(const std::uint8_t* codes, std::size_t count, std::int32_t* words, std::size_t apart) {
  for (std::size_t i = 0; i < count; i += lanes)
    DenseFour::store(Ints::load(reinterpret_cast<const float*>(codes) + i), words + i, apart);
}

template <std::size_t vectors>
void code_probabilities_of(const float* scores, std::size_t keys, std::size_t stride, float scale, std::uint8_t* codes,
                           float* sums) {
  const Vec factor = Vec::broadcast(scale * 1.44269504f);  // e^x = 2^(x / ln 2)
  const Vec shift = Vec::broadcast(7.99435344f);           // the power of two that is 255
  Vec largest[vectors];
  Ints sum[vectors];
  for (std::size_t v = 0; v < vectors; ++v) {
    largest[v] = Vec::load(scores + v * lanes);
    sum[v] = Ints::broadcast(0);
  }
  for (std::size_t k = 1; k < keys; ++k)
    for (std::size_t v = 0; v < vectors; ++v)
      largest[v] = Vec::max(largest[v], Vec::load(scores + k * stride + v * lanes));
  const auto code = [&](const float* score, std::size_t v) {
    return Ints::round(exp2(Vec::multiply_add(Vec::load(score + v * lanes) - largest[v], factor, shift)));
  };
  const std::size_t code_stride = stride / lanes * CodeRow::bytes;
  std::size_t k = 0;
  for (; k + 4 <= keys; k += 4, codes += code_stride)
    for (std::size_t v = 0; v < vectors; ++v) {
      const float* const score = scores + k * stride;
      const Ints four[4] = {code(score, v), code(score + stride, v), code(score + 2 * stride, v),
                            code(score + 3 * stride, v)};
      sum[v] = sum[v] + (four[0] + four[1]) + (four[2] + four[3]);
      bytes_of(four).store(codes + v * CodeRow::bytes);
    }
  if (k < keys)
    for (std::size_t v = 0; v < vectors; ++v) {
      Ints four[4];
      for (std::size_t i = 0; i < 4; ++i) {
        four[i] = k + i < keys ? code(scores + (k + i) * stride, v) : Ints::broadcast(0);
        sum[v] = sum[v] + four[i];
      }
      bytes_of(four).store(codes + v * CodeRow::bytes);
    }
  for (std::size_t v = 0; v < vectors; ++v) sum[v].to_float().store(sums + v * lanes);
}

void code_probabilities(const float* scores, std::size_t keys, std::size_t vectors, float scale, std::uint8_t* codes,
                        float* sums) {
  const std::size_t stride = vectors * lanes;
  for (; vectors >= 2; vectors -= 2, scores += 2 * lanes, codes += 2 * CodeRow::bytes, sums += 2 * lanes)
    code_probabilities_of<2>(scores, keys, stride, scale, codes, sums);
  if (vectors > 0) code_probabilities_of<1>(scores, keys, stride, scale, codes, sums);
}

}  // namespace

#define PRUNEONCE_ROWS(rows) {multiply<rows, 1>, multiply<rows, 2>, multiply<rows, 3>, multiply<rows, 4>}

extern const Int8AttentionKernel int8_attention_kernel;
const Int8AttentionKernel int8_attention_kernel = {
    {PRUNEONCE_ROWS(1), PRUNEONCE_ROWS(2), PRUNEONCE_ROWS(3), PRUNEONCE_ROWS(4), PRUNEONCE_ROWS(5), PRUNEONCE_ROWS(6)},
    code_queries,
    code_keys,
    code_values,
    value_words,
    code_probabilities};

#undef PRUNEONCE_ROWS

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
