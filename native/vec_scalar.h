// Portable lanes: plain loops over four floats, which compilers turn into the baseline's vectors (SSE2, NEON).
#pragma once

#include <cstddef>

namespace pruneonce::scalar {

struct Vec {
  static constexpr std::size_t lanes = 4;
  float lane[lanes];

  static Vec load(const float* from) {
    Vec result;
    for (std::size_t i = 0; i < lanes; ++i) result.lane[i] = from[i];
    return result;
  }
  static Vec broadcast(float value) {
    Vec result;
    for (std::size_t i = 0; i < lanes; ++i) result.lane[i] = value;
    return result;
  }
  // a * b + c
  static Vec multiply_add(Vec a, Vec b, Vec c) {
    for (std::size_t i = 0; i < lanes; ++i) c.lane[i] += a.lane[i] * b.lane[i];
    return c;
  }
  void store(float* to) const {
    for (std::size_t i = 0; i < lanes; ++i) to[i] = lane[i];
  }
};

}  // namespace pruneonce::scalar
