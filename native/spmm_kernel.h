// The interface between the code that is compiled once and the sparse kernels, compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "run.h"

namespace pruneonce {

// The non-zeros of some rows in some columns.
struct Tile {
  const Run* runs;
  std::size_t run_count;
  const std::uint16_t* row;  // place in the tile; kRowsAhead more can be read
  const std::uint16_t*
      offset;          // [non-zeros] column in the tile, times the bytes of one vector; kValuesAhead more can be read
  const float* value;  // [non-zeros] kValuesAhead more can be read
};

// Where the sums of a tile begin: at y itself, or at bias + residual. Null: there is none. Rows as in y.
struct Start {
  bool at_y;
  const float* bias;
  const float* residual;
};

constexpr std::size_t kValuesAhead = 3;

struct SpmmKernel {
  // y = start + tile · x, for panels of `index + 1` vectors per row.
  void (*multiply[4])(const Tile& tile, const float* x, const Start& start, float* y);
  // `iterations` times kPeakFmas independent multiply-adds on registers; returns something that depends on them all.
  float (*multiply_adds)(std::size_t iterations);
};

constexpr std::size_t kPeakFmas = 12;  // enough chains for any FMA latency here, few enough for 16 registers

}  // namespace pruneonce
