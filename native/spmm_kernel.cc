// Compiled once per instruction set, with PRUNEONCE_VEC naming the vector header and PRUNEONCE_ISA_NAMESPACE its
// namespace. Includes nothing with shared inline functions: the linker keeps one copy of those, and if it kept the one
// compiled here, code for older processors would run instructions they lack.
#include "spmm_kernel.h"

#include PRUNEONCE_VEC
#include "tile_cursor.h"

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

constexpr std::size_t lanes = Vec::lanes;

template <std::size_t vectors>
inline __attribute__((always_inline)) void add_weight(Vec weight, const unsigned char* x_row, Vec (&sum)[vectors]) {
  const auto* row = reinterpret_cast<const float*>(x_row);
#pragma GCC unroll 4
  for (std::size_t v = 0; v < vectors; ++v) sum[v] = Vec::multiply_add(weight, Vec::load(row + v * lanes), sum[v]);
}

// Adds the first `count` of four weights, each times its row of x; by turns to one sum and the other, since one alone
// would wait for its own additions.
template <std::size_t vectors, std::size_t count>
inline __attribute__((always_inline)) void add_weights(const float* value, const std::uint16_t* offset,
                                                       const unsigned char* x, Vec (&even)[vectors],
                                                       Vec (&odd)[vectors]) {
  const auto four = Vec::load_four(value);
  const std::uint64_t offsets = load_offsets(offset);
  if constexpr (count > 0)
    add_weight(Vec::template broadcast<0>(four), row_at(x, offset_of<0>(offsets) * vectors), even);
  if constexpr (count > 1)
    add_weight(Vec::template broadcast<1>(four), row_at(x, offset_of<1>(offsets) * vectors), odd);
  if constexpr (count > 2)
    add_weight(Vec::template broadcast<2>(four), row_at(x, offset_of<2>(offsets) * vectors), even);
  if constexpr (count > 3)
    add_weight(Vec::template broadcast<3>(four), row_at(x, offset_of<3>(offsets) * vectors), odd);
}

constexpr std::size_t kWeightsAhead = 320;  // a third of a page

// Rows of 4 · fours + rest non-zeros; returns where the next run begins.
template <std::size_t vectors, std::size_t rest>
Cursor<const float> multiply_run(std::uint32_t rows, std::uint32_t fours, Cursor<const float> at,
                                 const unsigned char* x, const Start& start, float* y) {
  constexpr std::size_t stride = vectors * lanes;
  const std::uint16_t* offset = at.offset;  // on their own, so that they stay in registers
  const float* value = at.value;
  for (std::uint32_t r = 0; r < rows; ++r) {
    const std::size_t row = *at.row++;
    float* const y_row = y + row * stride;
    Vec sum[vectors], odd[vectors];
    for (std::size_t v = 0; v < vectors; ++v) odd[v] = Vec::broadcast(0.0f);
    // The processor cannot guess which row comes next, and y lies in the L2 cache or, the first time, further away.
    const auto* ahead = reinterpret_cast<const char*>(y + at.row[kRowsAhead - 1] * stride);
    for (std::size_t line = 0; line < stride * sizeof(float); line += 64) __builtin_prefetch(ahead + line, 1);
    // Weights come from memory, in a stream that the processor follows only to the end of each page.
    __builtin_prefetch(value + kWeightsAhead);
    __builtin_prefetch(value + kWeightsAhead + 16);
    __builtin_prefetch(offset + kWeightsAhead);
    if (start.at_y) {
      for (std::size_t v = 0; v < vectors; ++v) sum[v] = Vec::load(y_row + v * lanes);
    } else {
      const Vec bias = Vec::broadcast(start.bias ? start.bias[row] : 0.0f);
      for (std::size_t v = 0; v < vectors; ++v)
        sum[v] = start.residual ? bias + Vec::load(start.residual + row * stride + v * lanes) : bias;
    }
    for (std::uint32_t i = 0; i < fours; ++i, value += 4, offset += 4)
      add_weights<vectors, 4>(value, offset, x, sum, odd);
    if constexpr (rest > 0) add_weights<vectors, rest>(value, offset, x, sum, odd);
    value += rest;
    offset += rest;
    for (std::size_t v = 0; v < vectors; ++v) (sum[v] + odd[v]).store(y_row + v * lanes);
  }
  return {at.row, offset, value};
}

template <std::size_t vectors>
void multiply(const Tile& tile, const float* x, const Start& start, float* y) {
  const auto* x_bytes = reinterpret_cast<const unsigned char*>(x);
  walk_runs(tile, tile.value, [&]<std::size_t rest>(const Run& run, Cursor<const float> at) {
    return multiply_run<vectors, rest>(run.rows, run.length / 4, at, x_bytes, start, y);
  });
}

float multiply_adds(std::size_t iterations) {
  Vec sum[kPeakFmas];
  for (std::size_t i = 0; i < kPeakFmas; ++i) sum[i] = Vec::broadcast(static_cast<float>(i));
  const Vec factor = Vec::broadcast(0.5f);
  for (std::size_t n = 0; n < iterations; ++n)
    for (std::size_t i = 0; i < kPeakFmas; ++i) sum[i] = Vec::multiply_add(sum[i], factor, factor);
  float total = 0.0f;
  for (std::size_t i = 0; i < kPeakFmas; ++i) {
    float out[lanes];
    sum[i].store(out);
    for (std::size_t lane = 0; lane < lanes; ++lane) total += out[lane];
  }
  return total;
}

}  // namespace

extern const SpmmKernel spmm_kernel;
const SpmmKernel spmm_kernel = {{multiply<1>, multiply<2>, multiply<3>, multiply<4>}, multiply_adds};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
