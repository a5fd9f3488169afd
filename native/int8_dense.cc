#include "int8_dense.h"

#include <algorithm>
#include <cstdlib>

#include "int8.h"
#include "parallel.h"

namespace pruneonce {
namespace {

constexpr std::size_t kBlocksPerTask = 32;  // 192 rows

}  // namespace

Int8DenseWeight::Int8DenseWeight(const std::int8_t* weight, std::size_t rows, std::size_t cols,
                                 const Int8Quantization& quantization, Isa isa)
    : scales_(quantization, rows, "Int8DenseWeight"),
      cols_(cols),
      isa_(isa),
      words_per_four_(int8_kernel(isa).words_per_four),
      words_(rows * fours() * words_per_four_) {
  for (std::size_t r = 0; r < rows; ++r) {
    std::int64_t sum = 0, size = 0;
    for (std::size_t c = 0; c < cols; ++c) sum += weight[r * cols + c], size += std::abs(int{weight[r * cols + c]});
    scales_.set_sum(r, sum, size, "Int8DenseWeight");
  }
  std::int32_t* to = words_.data();
  for (std::size_t first = 0; first < rows; first += kInt8BlockRows)
    for (std::size_t four = 0; four < fours(); ++four)
      for (std::size_t r = first; r < std::min(rows, first + kInt8BlockRows); ++r, to += words_per_four_) {
        std::int8_t values[4] = {};
        std::copy_n(weight + r * cols + 4 * four, std::min<std::size_t>(4, cols - 4 * four), values);
        int8_kernel(isa).block_words(values, to);
      }
}

void multiply(const Int8DenseWeight& weight, const Codes& x, const float* bias, const Activations* residual,
              Nonlinearity f, const Activations& y) {
  const Int8Kernel& kernel = int8_kernel(weight.isa());
  const std::size_t parts = divide_up(weight.blocks(), kBlocksPerTask);
  parallel_for(x.panels() * parts, [&](std::size_t task) {
    const std::size_t index = task % x.panels(), part_index = task / x.panels();
    const Panel to = y.panel(index);
    const std::size_t first_row = part(weight.blocks(), parts, part_index) * kInt8BlockRows;
    const std::size_t end_row = std::min(part(weight.blocks(), parts, part_index + 1) * kInt8BlockRows, weight.rows());
    for (std::size_t row = first_row; row < end_row; row += kInt8BlockRows) {
      const std::size_t rows = std::min(kInt8BlockRows, end_row - row);
      const Int8Scales& scales = weight.scales();
      kernel.multiply_block[rows - 1][to.vectors - 1](
          {weight.fours(), weight.block(row / kInt8BlockRows), x.panel(index), scales.start() + row,
           {scales.factor() + row, bias ? bias + row : nullptr,
            residual ? residual->panel(index).data + row * to.stride : nullptr},
           to.data + row * to.stride});
    }
    apply(f, weight.isa(), to.data + first_row * to.stride, (end_row - first_row) * to.stride);
  });
}

}  // namespace pruneonce
