// Compiled once per instruction set: see spmm_kernel.cc, whose rules hold here too.
#include "sparse_linear_kernel.h"

#include PRUNEONCE_VEC
#include "tile_cursor.h"

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

constexpr std::size_t lanes = Vec::lanes;

template <std::size_t vectors>
inline __attribute__((always_inline)) Vec dot(const Vec (&dy)[vectors], const unsigned char* x_row) {
  const auto* row = reinterpret_cast<const float*>(x_row);
  Vec sum = dy[0] * Vec::load(row);
#pragma GCC unroll 4
  for (std::size_t v = 1; v < vectors; ++v) sum = Vec::multiply_add(dy[v], Vec::load(row + v * lanes), sum);
  return sum;
}

template <std::size_t vectors, std::size_t count>
inline __attribute__((always_inline)) void add_dots(const Vec (&dy)[vectors], const std::uint16_t* offset,
                                                    const unsigned char* x, float* sums) {
  const std::uint64_t offsets = load_offsets(offset);
  const Vec zero = Vec::broadcast(0.0f);
  Vec four[4] = {zero, zero, zero, zero};
  if constexpr (count > 0) four[0] = dot(dy, x + offset_of<0>(offsets) * vectors);
  if constexpr (count > 1) four[1] = dot(dy, x + offset_of<1>(offsets) * vectors);
  if constexpr (count > 2) four[2] = dot(dy, x + offset_of<2>(offsets) * vectors);
  if constexpr (count > 3) four[3] = dot(dy, x + offset_of<3>(offsets) * vectors);
  add_sums<count>(four, sums);
}

template <std::size_t vectors, std::size_t rest>
Cursor<float> sample_run(const Run& run, Cursor<float> at, const unsigned char* x, const float* dy) {
  constexpr std::size_t stride = vectors * lanes;
  const std::uint32_t fours = run.length / 4;
  const std::uint16_t* offset = at.offset;
  float* sum = at.value;
  for (std::uint32_t r = 0; r < run.rows; ++r) {
    const float* const dy_row = dy + *at.row++ * stride;
    const auto* ahead = reinterpret_cast<const char*>(dy + at.row[kRowsAhead - 1] * stride);
    for (std::size_t line = 0; line < stride * sizeof(float); line += 64) __builtin_prefetch(ahead + line);
    Vec row[vectors];
    for (std::size_t v = 0; v < vectors; ++v) row[v] = Vec::load(dy_row + v * lanes);
    for (std::uint32_t i = 0; i < fours; ++i, offset += 4, sum += 4) add_dots<vectors, 4>(row, offset, x, sum);
    if constexpr (rest > 0) add_dots<vectors, rest>(row, offset, x, sum);
    offset += rest;
    sum += rest;
  }
  return {at.row, offset, sum};
}

template <std::size_t vectors>
void sample(const Tile& tile, const float* x, const float* dy, float* sums) {
  const auto* x_bytes = reinterpret_cast<const unsigned char*>(x);
  walk_runs(tile, sums, [&]<std::size_t rest>(const Run& run, Cursor<float> at) {
    return sample_run<vectors, rest>(run, at, x_bytes, dy);
  });
}

void load_panel(const float* rows, std::size_t row_stride, std::size_t tokens, std::size_t features,
                std::size_t vectors, float* panel) {
  const std::size_t stride = vectors * lanes, blocked = features / lanes * lanes;
  for (std::size_t token = 0; token < stride; token += lanes) {
    const std::size_t here = token >= tokens ? 0 : tokens - token < lanes ? tokens - token : lanes;
    const float* const from = rows + token * row_stride;
    for (std::size_t feature = 0; feature < blocked; feature += lanes) {
      Vec block[lanes];
      for (std::size_t t = 0; t < lanes; ++t)
        block[t] = t < here ? Vec::load(from + t * row_stride + feature) : Vec::broadcast(0.0f);
      transpose(block);
      for (std::size_t f = 0; f < lanes; ++f) block[f].store(panel + (feature + f) * stride + token);
    }
    for (std::size_t feature = blocked; feature < features; ++feature)
      for (std::size_t t = 0; t < lanes; ++t)
        panel[feature * stride + token + t] = t < here ? from[t * row_stride + feature] : 0.0f;
  }
}

void store_panel(const float* panel, std::size_t vectors, std::size_t tokens, std::size_t features, float* rows,
                 std::size_t row_stride) {
  const std::size_t stride = vectors * lanes, blocked = features / lanes * lanes;
  for (std::size_t token = 0; token < tokens; token += lanes) {
    const std::size_t here = tokens - token < lanes ? tokens - token : lanes;
    float* const to = rows + token * row_stride;
    for (std::size_t feature = 0; feature < blocked; feature += lanes) {
      Vec block[lanes];
      for (std::size_t f = 0; f < lanes; ++f) block[f] = Vec::load(panel + (feature + f) * stride + token);
      transpose(block);
      for (std::size_t t = 0; t < here; ++t) block[t].store(to + t * row_stride + feature);
    }
    for (std::size_t feature = blocked; feature < features; ++feature)
      for (std::size_t t = 0; t < here; ++t) to[t * row_stride + feature] = panel[feature * stride + token + t];
  }
}

void add_rows(const float* panel, std::size_t vectors, std::size_t features, float* sums) {
  const std::size_t stride = vectors * lanes;
  const auto sum_of = [&](std::size_t feature) {
    Vec sum = Vec::load(panel + feature * stride);
    for (std::size_t v = 1; v < vectors; ++v) sum = sum + Vec::load(panel + feature * stride + v * lanes);
    return sum;
  };
  std::size_t feature = 0;
  for (; feature + 4 <= features; feature += 4) {
    const Vec four[4] = {sum_of(feature), sum_of(feature + 1), sum_of(feature + 2), sum_of(feature + 3)};
    add_sums<4>(four, sums + feature);
  }
  const Vec zero = Vec::broadcast(0.0f);
  for (; feature < features; ++feature) {
    const Vec four[4] = {sum_of(feature), zero, zero, zero};
    add_sums<1>(four, sums + feature);
  }
}

}  // namespace

extern const SparseLinearKernel sparse_linear_kernel;
const SparseLinearKernel sparse_linear_kernel = {
    {sample<1>, sample<2>, sample<3>, sample<4>}, load_panel, store_panel, add_rows};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
