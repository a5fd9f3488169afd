// Work cut into parts.
#pragma once

#include <cstddef>

namespace pruneonce {

inline std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

// `index`-th of `parts` nearly equal parts of 0 .. total.
inline std::size_t part(std::size_t total, std::size_t parts, std::size_t index) { return total * index / parts; }

}  // namespace pruneonce
