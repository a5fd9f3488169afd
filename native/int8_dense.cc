#include "int8_dense.h"

#include <algorithm>
#include <numeric>

#include "kernels.h"

namespace pruneonce {
namespace {

constexpr std::size_t kRowsPerTask = 192;

}  // namespace

Int8DenseWeight::Int8DenseWeight(const std::int8_t* weight, std::size_t rows, std::size_t cols,
                                 const Int8Quantization& quantization, Isa isa)
    : scales_(quantization, rows, isa, "Int8DenseWeight"),
      cols_(cols),
      isa_(isa),
      words_(kernels(isa).int8_dense.words(rows, cols)) {
  for (std::size_t r = 0; r < rows; ++r) scales_.set_sum(r, {weight + r * cols, cols}, "Int8DenseWeight");
  const Int8DenseKernel& kernel = kernels(isa).int8_dense;
  for (std::size_t first = 0; first < rows; first += kernel.block_rows)
    kernel.pack_block(weight + first * cols, std::min(kernel.block_rows, rows - first), cols,
                      words_.data() + kernel.words(first, cols));
}

std::size_t Int8DenseWeight::parts(std::size_t) const { return divide_up(rows(), kRowsPerTask); }

RowRange Int8DenseWeight::rows_of_part(std::size_t index, std::size_t parts) const {
  // Whole blocks, and whole fours of the codes that they may become.
  const std::size_t unit = std::lcm(kernels(isa_).int8_dense.block_rows, std::size_t{4});
  const std::size_t units = divide_up(rows(), unit);
  return {part(units, parts, index) * unit, std::min(part(units, parts, index + 1) * unit, rows())};
}

void Int8DenseWeight::multiply(const RowRange& range, const std::uint8_t* x, std::size_t vectors, const float* bias,
                               const float* residual, float* y) const {
  const Int8DenseKernel& kernel = kernels(isa_).int8_dense;
  const std::size_t stride = vectors * kernels(isa_).lanes;  // floats per row of y
  kernel.multiply[vectors - 1]({range.count(),
                                cols_,
                                words_.data() + kernel.words(range.first, cols_),
                                x,
                                scales_.start() + range.first,
                                {scales_.factor() + range.first, bias ? bias + range.first : nullptr,
                                 residual ? residual + range.first * stride : nullptr},
                                y});
}

}  // namespace pruneonce
