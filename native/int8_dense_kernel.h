// The interface between the code that is compiled once and the dense int8 kernels, one per instruction set: vectors of
// sums for a few rows (int8_dense_kernel.cc), or squares of them where the processor has such registers
// (int8_tiles_kernel.cc).
#pragma once

#include <cstddef>
#include <cstdint>

#include "int8_kernel.h"

namespace pruneonce {

// Rows of a dense weight times all of x.
struct Int8Rows {
  std::size_t rows;
  std::size_t cols;
  const std::int32_t* words;  // as packed; the first row begins a block
  const std::uint8_t* x;      // [cols / 4, rounded up; vectors of code_bytes]
  const std::int32_t* start;  // [rows]: where sums begin
  Int8Finish finish;
  float* y;
};

struct Int8DenseKernel {
  std::size_t block_rows;  // that are packed together: parts begin at a multiple of it
  // Of so many rows, whole blocks but for the last.
  std::size_t (*words)(std::size_t rows, std::size_t cols);
  // A block, or the rows that are left: [rows, cols] to words(rows, cols) words.
  void (*pack_block)(const std::int8_t* weight, std::size_t rows, std::size_t cols, std::int32_t* words);
  void (*multiply[4])(const Int8Rows& rows);  // by a panel's vectors - 1
};

}  // namespace pruneonce
