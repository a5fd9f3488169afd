// Sparse weight times activations.
#pragma once

#include <cstddef>

#include "activations.h"
#include "elementwise.h"
#include "pack.h"

namespace pruneonce {

// y = pattern · x + bias + residual, in one panel and for the rows of some tiles. x: [cols, vectors · lanes], y and
// residual: [rows, vectors · lanes]; bias [rows] and residual may be null.
void multiply_tiles(const PackedPattern& pattern, const float* values, std::size_t first_tile, std::size_t end_tile,
                    const float* x, std::size_t vectors, const float* bias, const float* residual, float* y);

// y = f(weight · x + bias + residual); bias [rows] and residual may be null, y must be neither x nor residual.
// Each sum adds its weights in an order that only the weight decides: the same bits for any number of threads, and for
// any number of other tokens.
void multiply(const PackedWeight& weight, const Activations& x, const float* bias, const Activations* residual,
              Nonlinearity f, const Activations& y);

// Multiply-adds on registers, on every thread of the pool: what the processor could do at best. Returns the number of
// floating point operations.
double run_multiply_adds(Isa isa, std::size_t iterations);

}  // namespace pruneonce
