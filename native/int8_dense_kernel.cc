// Compiled once per instruction set: see spmm_kernel.cc. Instruction sets with tiles have int8_tiles_kernel.cc instead.
#ifndef __AMX_INT8__
#include "int8_dense_kernel.h"

#include PRUNEONCE_VEC
#include "int8_finish.h"

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

constexpr std::size_t kBlockRows = 6;

// `count` of the panel's vectors, the first of them `first`; of a block that begins at `row`.
template <std::size_t rows, std::size_t count>
inline __attribute__((always_inline)) void multiply_part(const Int8Rows& given, std::size_t row, std::size_t vectors,
                                                         std::size_t first) {
  constexpr std::size_t words = DenseFour::words;
  const std::size_t fours = (given.cols + 3) / 4;
  Ints sum[rows][count];
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t v = 0; v < count; ++v) sum[r][v] = Ints::broadcast(given.start[row + r]);
  const std::int32_t* value = given.words + row * fours * words;
  const std::uint8_t* x = given.x + first * CodeRow::bytes;
  for (std::size_t i = 0; i < fours; ++i, value += rows * words, x += vectors * CodeRow::bytes) {
    DenseFour column[count];
    for (std::size_t v = 0; v < count; ++v) column[v] = DenseFour::load(x + v * CodeRow::bytes);
    for (std::size_t r = 0; r < rows; ++r) {
      const auto weights = DenseFour::broadcast(value + r * words);
      for (std::size_t v = 0; v < count; ++v) sum[r][v] = column[v].add_products(sum[r][v], weights);
    }
  }
  for (std::size_t r = 0; r < rows; ++r)
    finish_sums<count>(given.finish, row + r, ((row + r) * vectors + first) * Vec::lanes, sum[r], given.y);
}

// As many sums at a time as the registers hold.
template <std::size_t rows, std::size_t vectors>
void multiply_block(const Int8Rows& given, std::size_t row) {
  constexpr std::size_t at_once = vectors < DenseFour::vectors_at_once ? vectors : DenseFour::vectors_at_once;
  constexpr std::size_t rest = vectors % at_once;
  for (std::size_t first = 0; first + at_once <= vectors; first += at_once)
    multiply_part<rows, at_once>(given, row, vectors, first);
  if constexpr (rest > 0) multiply_part<rows, rest>(given, row, vectors, vectors - rest);
}

template <std::size_t vectors>
void multiply(const Int8Rows& given) {
  std::size_t row = 0;
  for (; row + kBlockRows <= given.rows; row += kBlockRows) multiply_block<kBlockRows, vectors>(given, row);
  switch (given.rows - row) {
    case 1:
      return multiply_block<1, vectors>(given, row);
    case 2:
      return multiply_block<2, vectors>(given, row);
    case 3:
      return multiply_block<3, vectors>(given, row);
    case 4:
      return multiply_block<4, vectors>(given, row);
    case 5:
      return multiply_block<5, vectors>(given, row);
    default:
      return;
  }
}

// [fours, rows, words]: what the kernel broadcasts lies side by side.
std::size_t words_of(std::size_t rows, std::size_t cols) { return rows * ((cols + 3) / 4) * DenseFour::words; }

void pack_block(const std::int8_t* weight, std::size_t rows, std::size_t cols, std::int32_t* words) {
  for (std::size_t col = 0; col < cols; col += 4)
    for (std::size_t r = 0; r < rows; ++r, words += DenseFour::words) {
      std::int8_t four[4] = {};
      for (std::size_t k = 0; k < 4 && col + k < cols; ++k) four[k] = weight[r * cols + col + k];
      DenseFour::pack(four, words);
    }
}

}  // namespace

extern const Int8DenseKernel int8_dense_kernel;
const Int8DenseKernel int8_dense_kernel = {
    kBlockRows, words_of, pack_block, {multiply<1>, multiply<2>, multiply<3>, multiply<4>}};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
#endif
