// Included by kernels alone, once per instruction set: it has the namespace of each.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {

// The offset at `index`, of four that were read in one load: loads are what sparse kernels are short of.
template <std::size_t index>
inline std::size_t offset_of(std::uint64_t four) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  return static_cast<std::uint16_t>(four >> (48 - 16 * index));
#else
  return static_cast<std::uint16_t>(four >> (16 * index));
#endif
}

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
