#include "dense.h"

#include <algorithm>

#include "kernels.h"
#include "parallel.h"

namespace pruneonce {

namespace {

constexpr std::size_t kDepth = 256;         // columns at a time: x of two vectors then stays in the L1 cache
constexpr std::size_t kBlocksPerTask = 32;  // 192 rows

}  // namespace

void multiply_dense(const DenseKernel& kernel, std::size_t rows, std::size_t vectors, DenseTile tile) {
  for (std::size_t left = rows; left > 0;) {
    // Two tiles of four are faster than one of six and one of two, whose few sums wait for each other.
    const std::size_t count = left > kDenseRows && left < 2 * kDenseRows ? left / 2 : std::min(left, kDenseRows);
    kernel.multiply[count - 1][vectors - 1](tile);
    tile.a += count * tile.a_row;
    tile.y += count * tile.y_stride;
    left -= count;
  }
}

DenseWeight::DenseWeight(const float* weight, std::size_t rows, std::size_t cols, Isa isa)
    : rows_(rows), cols_(cols), isa_(isa) {
  float* to = buffer_.at_least(blocks() * kDenseRows * cols);
  for (std::size_t block = 0; block < blocks(); ++block)
    for (std::size_t col = 0; col < cols; ++col)
      for (std::size_t r = 0; r < kDenseRows; ++r, ++to)
        if (const std::size_t row = block * kDenseRows + r; row < rows) *to = weight[row * cols + col];
}

void multiply(const DenseWeight& weight, const Activations& x, const float* bias, const Activations* residual,
              Nonlinearity f, const Activations& y) {
  const DenseKernel& kernel = kernels(weight.isa()).dense;
  const std::size_t lanes = kernels(weight.isa()).lanes;
  const std::size_t parts = divide_up(weight.blocks(), kBlocksPerTask);
  parallel_for(x.panels() * parts, [&](std::size_t task) {
    const std::size_t index = task % x.panels(), part_index = task / x.panels();
    const Panel from = x.panel(index), to = y.panel(index);
    const std::size_t stride = from.stride;
    const std::size_t first_block = part(weight.blocks(), parts, part_index);
    const std::size_t end_block = part(weight.blocks(), parts, part_index + 1);
    const std::size_t first_row = first_block * kDenseRows;
    const std::size_t end_row = std::min(end_block * kDenseRows, weight.rows());

    for (std::size_t row = first_row; row < end_row; ++row) {
      const float start = bias ? bias[row] : 0.0f;
      const float* const added = residual ? residual->panel(index).data + row * stride : nullptr;
      for (std::size_t i = 0; i < stride; ++i) to.data[row * stride + i] = start + (added ? added[i] : 0.0f);
    }
    for (std::size_t depth = 0; depth < weight.cols(); depth += kDepth)
      for (std::size_t v = 0; v < from.vectors; v += kDenseVectors) {
        const std::size_t vectors = std::min(kDenseVectors, from.vectors - v);
        for (std::size_t block = first_block; block < end_block; ++block) {
          const std::size_t row = block * kDenseRows;
          const std::size_t rows = std::min(kDenseRows, weight.rows() - row);
          kernel.multiply[rows - 1][vectors - 1](
              {std::min(kDepth, weight.cols() - depth), weight.block(block) + depth * kDenseRows, 1, kDenseRows,
               from.data + depth * stride + v * lanes, stride, to.data + row * stride + v * lanes, stride, true});
        }
      }
    apply(f, weight.isa(), to.data + first_row * stride, (end_row - first_row) * stride);
  });
}

}  // namespace pruneonce
