// Sparse weight times dense activations.
#pragma once

#include <cstddef>

#include "pack.h"
#include "spmm_kernel.h"

namespace pruneonce {

const SpmmKernel& spmm_kernel(Isa isa);

// y[rows, tokens] = weight · x[cols, tokens] + bias[rows]; bias may be null. x and y must not overlap.
// Each result is one chain of multiply-adds in the order of its columns: the same bits for any number of threads, and
// for any number of other tokens.
void spmm(const PackedWeight& weight, const float* x, const float* bias, float* y, std::size_t tokens);

// Multiply-adds on registers, on every thread of the pool: what the processor could do at best. Returns the number of
// floating point operations.
double run_multiply_adds(Isa isa, std::size_t iterations);

}  // namespace pruneonce
