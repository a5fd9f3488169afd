// Int8 weights times activations, which become codes of 8 bits first.
#pragma once

#include "activations.h"
#include "codes.h"
#include "elementwise.h"
#include "int8_dense.h"
#include "int8_pack.h"

namespace pruneonce {

// Weight: Int8Weight or Int8DenseWeight. The codes are those of weight.code(). Sums are exact.

// y = f(factor · (weight · (codes - zero point)) + bias + residual); bias [rows] and residual may be null.
template <class Weight>
void multiply(const Weight& weight, const Codes& x, const float* bias, const Activations* residual, Nonlinearity f,
              const Activations& y);

// The same, without residual, as the codes of another weight's input: floats are made for a few rows at a time.
template <class Weight>
void multiply_to_codes(const Weight& weight, const Codes& x, const float* bias, Nonlinearity f, const CodeOf& code,
                       Codes& y);

}  // namespace pruneonce
