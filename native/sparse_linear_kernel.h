// The interface between the code that is compiled once and the kernels of sparse training, compiled once per
// instruction set.
#pragma once

#include <cstddef>

#include "tile.h"

namespace pruneonce {

struct SparseLinearKernel {
  // sums[i] += x[column of i] · dy[row of i] over the tokens of a panel, for every non-zero i of the tile: the gradient
  // of its weight. sums: in the tile's order; for panels of `index + 1` vectors per row.
  void (*sample[4])(const Tile& tile, const float* x, const float* dy, float* sums);
  // [tokens, features] with `row_stride` floats from row to row, to and from a panel [features, vectors · lanes]. Lanes
  // beyond the last token become 0.
  void (*load_panel)(const float* rows, std::size_t row_stride, std::size_t tokens, std::size_t features,
                     std::size_t vectors, float* panel);
  void (*store_panel)(const float* panel, std::size_t vectors, std::size_t tokens, std::size_t features, float* rows,
                      std::size_t row_stride);
  // sums[f] += the row f of a panel, over its tokens
  void (*add_rows)(const float* panel, std::size_t vectors, std::size_t features, float* sums);
};

}  // namespace pruneonce
