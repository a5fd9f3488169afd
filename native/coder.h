// From floats to codes of 0 to 255, for the kernels; included after the vector header. No header of the standard
// library: see spmm_kernel.cc.
#pragma once

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {

// round(x · inverse) + zero point, cut to 0 .. 255: halves to the even number, NaN to 0.
struct Coder {
  Vec factor, lowest, highest;
  Ints shift;

  Coder(float inverse, std::int32_t zero_point)
      : factor(Vec::broadcast(inverse)),
        lowest(Vec::broadcast(static_cast<float>(-zero_point))),
        highest(Vec::broadcast(static_cast<float>(255 - zero_point))),
        shift(Ints::broadcast(zero_point)) {}

  // Cut first: what is beyond 2^31 could not be rounded.
  Ints operator()(Vec x) const { return Ints::round(Vec::min(Vec::max(x * factor, lowest), highest)) + shift; }
};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
