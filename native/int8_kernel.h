// The interface between the code that is compiled once and the int8 kernels, compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile.h"

namespace pruneonce {

// The non-zeros of some rows in some columns, in fours: a run's length counts them.
struct Int8Tile {
  const Run* runs;
  std::size_t run_count;
  const std::uint16_t* row;  // place in the tile; kRowsAhead more can be read
  // Any: [fours, 4] column in the tile, times code_bytes. Neighbours: [fours] column / 4, times code_bytes, to be
  // multiplied by a panel's vectors; three more can be read.
  const std::uint16_t* offset;
  const std::int8_t* value;  // [fours, 4]; three fours more can be read
};

// What becomes of the sums of a row after its last tile: y = sum · scale + bias + residual. Rows as in y.
struct Int8Finish {
  const float* scale;
  const float* bias;      // may be null
  const float* residual;  // may be null
};

struct Int8Kernel {
  std::size_t code_bytes;      // of one feature in a panel of codes by feature, and of one vector of fours
  std::int32_t code_centre;    // is taken from codes before they are multiplied: sums begin accordingly
  bool sums_fours;             // exactly, however large they are; else pairs must not overflow 16 bits
  std::size_t words_per_four;  // of dense operands, which attention packs
  using Multiply = void (*)(const Int8Tile& tile, const std::uint8_t* x, const std::int32_t* start,
                            const Int8Finish* finish, float* y);
  // y = tile · x, for panels of `index + 1` vectors per row; y holds int32 sums until `finish` (else null) makes floats
  // of them. start: where sums begin, [rows]; null: at y.
  Multiply multiply_any[4], multiply_neighbours[4];
  // code = round(x · inverse), cut to 0 .. 255 around the zero point; x: [features, vectors].
  using Quantize = void (*)(const float* x, std::size_t features, std::size_t vectors, float inverse,
                            std::int32_t zero_point, std::uint8_t* codes);
  Quantize quantize_features, quantize_fours;  // see CodeLayout
};

}  // namespace pruneonce
