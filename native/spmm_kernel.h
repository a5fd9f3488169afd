// The interface between the code that is compiled once and the kernels that are compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pruneonce {

// Widest panel of tokens, in vectors. Eight sums, one weight: fits 16 registers and hides the latency of the FMA
// (4 or 5 cycles, two per cycle).
constexpr std::size_t kMaxVectors = 8;

// Neighbouring rows (in the tile's own order) that have equally many non-zeros.
struct Run {
  std::uint32_t rows;
  std::uint32_t nonzeros_per_row;
};

// The non-zeros of some rows in some columns.
struct Tile {
  const Run* runs;
  std::size_t run_count;
  const std::uint16_t* row;     // [rows with non-zeros] place in the tile
  const std::uint16_t* offset;  // [non-zeros] column in the tile, times the bytes of one vector
  const float* value;           // [non-zeros]
};

// A panel is [features, vectors · lanes], contiguous and aligned; an x panel's vectors are rounded up to a power of two,
// so that an offset becomes an address by an x86 scale factor of 1, 2, 4 or 8.
struct SpmmKernel {
  std::size_t lanes;  // floats per vector
  // y += tile · x, for panels of `index + 1` vectors.
  void (*multiply[kMaxVectors])(const Tile& tile, const float* x, float* y);
  // Every row of the panel becomes its bias, or zero where bias is null.
  void (*fill)(const float* bias, std::size_t rows, float* panel, std::size_t panel_stride);
  // Matrix rows to panel rows; what is beyond `tokens` becomes zero.
  void (*load)(const float* from, std::size_t from_stride, std::size_t rows, std::size_t tokens, float* panel,
               std::size_t panel_stride);
  void (*store)(const float* panel, std::size_t panel_stride, std::size_t rows, std::size_t tokens, float* to,
                std::size_t to_stride);
  // `iterations` times kPeakFmas independent multiply-adds on registers; returns something that depends on them all.
  float (*multiply_adds)(std::size_t iterations);
};

constexpr std::size_t kPeakFmas = 12;  // enough chains for any FMA latency here, few enough for 16 registers

}  // namespace pruneonce
