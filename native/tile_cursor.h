// How kernels read a tile. Included by them alone, once per instruction set: it has the namespace of each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile.h"

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {

// Four offsets in one load: loads are what sparse kernels are short of.
inline std::uint64_t load_offsets(const std::uint16_t* from) {
  std::uint64_t four;
  __builtin_memcpy(&four, from, sizeof four);
  return four;
}

// The offset at `index` of four.
template <std::size_t index>
inline std::size_t offset_of(std::uint64_t four) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  return static_cast<std::uint16_t>(four >> (48 - 16 * index));
#else
  return static_cast<std::uint16_t>(four >> (16 * index));
#endif
}

// The row of x at an offset in bytes. ARM's loads take an address and a distance, or two registers, not all three: a
// compiler that sees through the address would add it up for each vector.
template <class Byte>
inline const Byte* row_at(const Byte* x, std::size_t offset) {
  const Byte* row = x + offset;
#ifdef __aarch64__
  __asm__("" : "+r"(row));
#endif
  return row;
}

// Where the next row of a tile begins. Value: its weights, or the sums that are made for them.
template <class Value>
struct Cursor {
  const std::uint16_t* row;
  const std::uint16_t* offset;
  Value* value;
};

// step.operator()<run.length % 4>(run, cursor) for each run; it returns where the next one begins.
template <class Value, class Step>
inline __attribute__((always_inline)) void walk_runs(const Tile& tile, Value* value, Step step) {
  Cursor<Value> at{tile.row, tile.offset, value};
  for (const Run* run = tile.runs; run != tile.runs + tile.run_count; ++run) {
    switch (run->length % 4) {
      case 0:
        at = step.template operator()<0>(*run, at);
        break;
      case 1:
        at = step.template operator()<1>(*run, at);
        break;
      case 2:
        at = step.template operator()<2>(*run, at);
        break;
      default:
        at = step.template operator()<3>(*run, at);
    }
  }
}

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
