#include "int8_dense.h"

#include <algorithm>

#include "kernels.h"

namespace pruneonce {
namespace {

constexpr std::size_t kRowUnit = 12;  // the blocks of whole fours
static_assert(kRowUnit % kInt8BlockRows == 0 && kRowUnit % 4 == 0);
constexpr std::size_t kRowsPerTask = 192;

}  // namespace

Int8DenseWeight::Int8DenseWeight(const std::int8_t* weight, std::size_t rows, std::size_t cols,
                                 const Int8Quantization& quantization, Isa isa)
    : scales_(quantization, rows, "Int8DenseWeight"),
      cols_(cols),
      isa_(isa),
      words_per_four_(kernels(isa).int8.words_per_four),
      words_(rows * fours() * words_per_four_) {
  for (std::size_t r = 0; r < rows; ++r) scales_.set_sum(r, {weight + r * cols, cols}, "Int8DenseWeight");
  std::int32_t* to = words_.data();
  for (std::size_t first = 0; first < rows; first += kInt8BlockRows)
    for (std::size_t four = 0; four < fours(); ++four)
      for (std::size_t r = first; r < std::min(rows, first + kInt8BlockRows); ++r, to += words_per_four_) {
        std::int8_t values[4] = {};
        std::copy_n(weight + r * cols + 4 * four, std::min<std::size_t>(4, cols - 4 * four), values);
        kernels(isa).int8.block_words(values, to);
      }
}

std::size_t Int8DenseWeight::parts(std::size_t) const { return divide_up(rows(), kRowsPerTask); }

RowRange Int8DenseWeight::rows_of_part(std::size_t index, std::size_t parts) const {
  const std::size_t units = divide_up(rows(), kRowUnit);
  return {part(units, parts, index) * kRowUnit, std::min(part(units, parts, index + 1) * kRowUnit, rows())};
}

void Int8DenseWeight::multiply(const RowRange& range, const std::uint8_t* x, std::size_t vectors, const float* bias,
                               const float* residual, float* y) const {
  const Int8Kernel& kernel = kernels(isa_).int8;
  const std::size_t stride = vectors * kernel.code_bytes / 4;  // floats per row of y
  for (std::size_t row = range.first; row < range.end; row += kInt8BlockRows) {
    const std::size_t count = std::min(kInt8BlockRows, range.end - row);
    kernel.multiply_block[count - 1][vectors - 1](
        {fours(),
         words_.data() + row * fours() * words_per_four_,
         x,
         scales_.start() + row,
         {scales_.factor() + row, bias ? bias + row : nullptr, residual ? residual + row * stride : nullptr},
         y + (row - range.first) * stride});
  }
}

}  // namespace pruneonce
