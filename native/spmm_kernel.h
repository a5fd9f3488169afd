// The interface between the code that is compiled once and the sparse kernels, compiled once per instruction set.
#pragma once

#include <cstddef>

#include "tile.h"

namespace pruneonce {

// Where the sums of a tile begin: at y itself, or at bias + residual. Null: there is none. Rows as in y.
struct Start {
  bool at_y;
  const float* bias;
  const float* residual;
};

struct SpmmKernel {
  // y = start + tile · x, for panels of `index + 1` vectors per row.
  void (*multiply[4])(const Tile& tile, const float* x, const Start& start, float* y);
  // `iterations` times kPeakFmas independent multiply-adds on registers; returns something that depends on them all.
  float (*multiply_adds)(std::size_t iterations);
};

constexpr std::size_t kPeakFmas = 12;  // enough chains for any FMA latency here, few enough for 16 registers

}  // namespace pruneonce
