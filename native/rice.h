// Where the non-zeros of a matrix are: the code of docs/format.md that has no plain way to be read in numpy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace pruneonce {

// Positions from their gaps: the low `bits` of every gap, then all quotients in unary. False where the data ends too
// soon or a position would pass 2^31 - 1.
bool decode_rice(std::span<const std::uint8_t> data, unsigned bits, std::span<std::int32_t> positions);

// How many elements `count` codes cover, the zeros before each included; -1 where decode_rice would return false.
std::int64_t rice_extent(std::span<const std::uint8_t> data, unsigned bits, std::size_t count);

}  // namespace pruneonce
