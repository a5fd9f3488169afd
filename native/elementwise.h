// Layer norm and the nonlinearities.
#pragma once

#include <cstddef>

#include "activations.h"
#include "elementwise_kernel.h"

namespace pruneonce {

// In place; count: floats, a multiple of the instruction set's lanes.
void apply(Nonlinearity f, Isa isa, float* values, std::size_t count);

// out = f(gate) · up; gate_up: [2 · features, tokens], the gates first. out: [features, tokens], of as many tokens.
void gate(Nonlinearity f, const Activations& gate_up, const Activations& out);

// In place, over the features of each token; scale and shift: [features].
void layer_norm(const Activations& x, const float* scale, const float* shift, float epsilon);

}  // namespace pruneonce
