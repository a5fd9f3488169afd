// Compiled once per instruction set, with PRUNEONCE_VEC naming the vector header and PRUNEONCE_ISA_NAMESPACE its
// namespace. Includes nothing with shared inline functions: the linker keeps one copy of those, and if it kept the one
// compiled here, code for older processors would run instructions they lack.
#include "spmm_kernel.h"

#include PRUNEONCE_VEC

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

constexpr std::size_t lanes = Vec::lanes;

// sum += the first `count` of four weights, each times its row of x.
template <std::size_t vectors, std::size_t count>
inline __attribute__((always_inline)) void add_weights(const float* value, const std::uint16_t* offset,
                                                       const unsigned char* x, Vec (&sum)[vectors]) {
  const auto four = Vec::load_four(value);
  std::uint64_t offsets;  // in one load: loads are what the kernel is short of
  __builtin_memcpy(&offsets, offset, sizeof offsets);
  const auto add = [&](Vec weight, std::uint16_t place) __attribute__((always_inline)) {
    const auto* row = reinterpret_cast<const float*>(x + place * vectors);
    for (std::size_t v = 0; v < vectors; ++v) sum[v] = Vec::multiply_add(weight, Vec::load(row + v * lanes), sum[v]);
  };
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  constexpr int shift[] = {48, 32, 16, 0};
#else
  constexpr int shift[] = {0, 16, 32, 48};
#endif
  if constexpr (count > 0) add(Vec::template broadcast<0>(four), static_cast<std::uint16_t>(offsets >> shift[0]));
  if constexpr (count > 1) add(Vec::template broadcast<1>(four), static_cast<std::uint16_t>(offsets >> shift[1]));
  if constexpr (count > 2) add(Vec::template broadcast<2>(four), static_cast<std::uint16_t>(offsets >> shift[2]));
  if constexpr (count > 3) add(Vec::template broadcast<3>(four), static_cast<std::uint16_t>(offsets >> shift[3]));
}

struct Cursor {
  const std::uint16_t* row;
  const std::uint16_t* offset;
  const float* value;
};

// Rows of 4 · fours + rest non-zeros.
template <std::size_t vectors, std::size_t rest>
void multiply_run(std::uint32_t rows, std::uint32_t fours, Cursor& at, const unsigned char* x, const Start& start,
                  float* y) {
  constexpr std::size_t stride = vectors * lanes;
  for (std::uint32_t r = 0; r < rows; ++r) {
    const std::size_t row = *at.row++;
    float* const y_row = y + row * stride;
    Vec sum[vectors];
    if (start.at_y) {
      const auto* next = reinterpret_cast<const char*>(y + *at.row * stride);  // comes from the L2 cache
      for (std::size_t line = 0; line < stride * sizeof(float); line += 64) __builtin_prefetch(next + line, 1);
      for (std::size_t v = 0; v < vectors; ++v) sum[v] = Vec::load(y_row + v * lanes);
    } else {
      const Vec bias = Vec::broadcast(start.bias ? start.bias[row] : 0.0f);
      for (std::size_t v = 0; v < vectors; ++v)
        sum[v] = start.residual ? bias + Vec::load(start.residual + row * stride + v * lanes) : bias;
    }
    for (std::uint32_t i = 0; i < fours; ++i) {
      add_weights<vectors, 4>(at.value, at.offset, x, sum);
      at.value += 4;
      at.offset += 4;
    }
    if constexpr (rest > 0) add_weights<vectors, rest>(at.value, at.offset, x, sum);
    at.value += rest;
    at.offset += rest;
    for (std::size_t v = 0; v < vectors; ++v) sum[v].store(y_row + v * lanes);
  }
}

template <std::size_t vectors>
void multiply(const Tile& tile, const float* x, const Start& start, float* y) {
  const auto* x_bytes = reinterpret_cast<const unsigned char*>(x);
  Cursor at{tile.row, tile.offset, tile.value};
  for (const Run* run = tile.runs; run != tile.runs + tile.run_count; ++run) {
    const std::uint32_t fours = run->nonzeros_per_row / 4;
    switch (run->nonzeros_per_row % 4) {
      case 0:
        multiply_run<vectors, 0>(run->rows, fours, at, x_bytes, start, y);
        break;
      case 1:
        multiply_run<vectors, 1>(run->rows, fours, at, x_bytes, start, y);
        break;
      case 2:
        multiply_run<vectors, 2>(run->rows, fours, at, x_bytes, start, y);
        break;
      default:
        multiply_run<vectors, 3>(run->rows, fours, at, x_bytes, start, y);
    }
  }
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
const SpmmKernel spmm_kernel = {lanes, {multiply<1>, multiply<2>, multiply<3>, multiply<4>}, multiply_adds};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
