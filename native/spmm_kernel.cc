// Compiled once per instruction set, with PRUNEONCE_VEC naming the vector header and PRUNEONCE_ISA_NAMESPACE its
// namespace. Includes nothing with shared inline functions: the linker keeps one copy of those, and if it kept the one
// compiled here, code for older processors would run instructions they lack.
#include "spmm_kernel.h"

#include PRUNEONCE_VEC

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

constexpr std::size_t lanes = Vec::lanes;

constexpr std::size_t power_of_two_from(std::size_t n) {
  std::size_t power = 1;
  while (power < n) power *= 2;
  return power;
}

template <std::size_t vectors>
void multiply(const Tile& tile, const float* x, float* y) {
  constexpr std::size_t scale = power_of_two_from(vectors);
  const auto* x_bytes = reinterpret_cast<const unsigned char*>(x);
  const std::uint16_t* row = tile.row;
  const std::uint16_t* offset = tile.offset;
  const float* value = tile.value;
  for (const Run* run = tile.runs; run != tile.runs + tile.run_count; ++run) {
    const std::size_t nonzeros = run->nonzeros_per_row;
    for (std::size_t r = 0; r < run->rows; ++r) {
      float* y_row = y + *row++ * vectors * lanes;
      Vec sum[vectors];
      for (std::size_t v = 0; v < vectors; ++v) sum[v] = Vec::load(y_row + v * lanes);
      for (std::size_t i = 0; i < nonzeros; ++i) {
        const Vec weight = Vec::broadcast(value[i]);
        const auto* x_row = reinterpret_cast<const float*>(x_bytes + offset[i] * scale);
        for (std::size_t v = 0; v < vectors; ++v)
          sum[v] = Vec::multiply_add(weight, Vec::load(x_row + v * lanes), sum[v]);
      }
      for (std::size_t v = 0; v < vectors; ++v) sum[v].store(y_row + v * lanes);
      value += nonzeros;
      offset += nonzeros;
    }
  }
}

void fill(const float* bias, std::size_t rows, float* panel, std::size_t panel_stride) {
  for (std::size_t r = 0; r < rows; ++r, panel += panel_stride) {
    const Vec value = Vec::broadcast(bias ? bias[r] : 0.0f);
    for (std::size_t t = 0; t < panel_stride; t += lanes) value.store(panel + t);
  }
}

void load(const float* from, std::size_t from_stride, std::size_t rows, std::size_t tokens, float* panel,
          std::size_t panel_stride) {
  for (std::size_t r = 0; r < rows; ++r, from += from_stride, panel += panel_stride) {
    std::size_t t = 0;
    for (; t + lanes <= tokens; t += lanes) Vec::load(from + t).store(panel + t);
    for (; t < tokens; ++t) panel[t] = from[t];
    for (; t < panel_stride; ++t) panel[t] = 0.0f;
  }
}

void store(const float* panel, std::size_t panel_stride, std::size_t rows, std::size_t tokens, float* to,
           std::size_t to_stride) {
  for (std::size_t r = 0; r < rows; ++r, panel += panel_stride, to += to_stride) {
    std::size_t t = 0;
    for (; t + lanes <= tokens; t += lanes) Vec::load(panel + t).store(to + t);
    for (; t < tokens; ++t) to[t] = panel[t];
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

extern const SpmmKernel kernel;
const SpmmKernel kernel = {
    lanes,
    {multiply<1>, multiply<2>, multiply<3>, multiply<4>, multiply<5>, multiply<6>, multiply<7>, multiply<8>},
    fill,
    load,
    store,
    multiply_adds,
};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
