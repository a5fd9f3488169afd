// The interface to the kernels of attention in int8, compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pruneonce {

constexpr std::size_t kInt8AttentionRows = 6;     // of keys, or of the result's features: as kInt8BlockRows
constexpr std::size_t kInt8AttentionVectors = 4;  // of queries: a panel

// Floats to codes of 0 to 255: see CodeOf.
struct Code {
  float inverse_scale;
  std::int32_t zero_point;
};

// y[rows, vectors] = value · x in whole numbers, as floats. Keys and values are signed: a code less 128.
struct Int8Product {
  std::size_t fours;          // along the summed axis
  const std::int32_t* value;  // four i of row r: its words at value + r · row + i · four, each `apart` from the last
  std::size_t row, four, apart;
  const std::uint8_t* x;      // [fours, vectors] of code_bytes
  const std::int32_t* start;  // [rows]: where sums begin; null: at 0
  // What a sum is multiplied with before `shift` is added, [vectors, lanes]; null: the sums are the result.
  const float* factor;
  float shift;
  float* y;
  std::size_t y_stride;
};

struct Int8AttentionKernel {
  // By rows - 1 and vectors - 1.
  void (*multiply[kInt8AttentionRows][kInt8AttentionVectors])(const Int8Product& product);
  // x: [features, stride], of which `vectors` are coded, in fours: codes [fours, vectors] of code_bytes.
  void (*code_queries)(const float* x, std::size_t features, std::size_t stride, std::size_t vectors, Code code,
                       std::uint8_t* codes);
  // As words, four features of a token each: [fours, words_per_four, apart]; sums: of each token's features, [vectors,
  // lanes].
  void (*code_keys)(const float* x, std::size_t features, std::size_t stride, std::size_t vectors, Code code,
                    std::int32_t* words, std::size_t apart, std::int32_t* sums);
  // By features: codes [features, code_stride], of whole fours of vectors.
  void (*code_values)(const float* x, std::size_t features, std::size_t stride, std::size_t vectors, Code code,
                      std::uint8_t* codes, std::size_t code_stride);
  // Of codes, four of them a word: [words_per_four, apart], as many as `count` and up to a vector more.
  void (*value_words)(const std::uint8_t* codes, std::size_t count, std::int32_t* words, std::size_t apart);
  // Columns of whole scores, [keys, vectors]: the code of e^((score - the largest) · scale) is 255 times it, rounded;
  // in fours of keys, [fours, vectors] of code_bytes, 0 where there is no key. sums of codes: [vectors, lanes]
  void (*code_probabilities)(const float* scores, std::size_t keys, std::size_t vectors, float scale,
                             std::uint8_t* codes, float* sums);
};

}  // namespace pruneonce
