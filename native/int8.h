// Int8 weights times activations, which become codes of 8 bits first.
#pragma once

#include "activations.h"
#include "codes.h"
#include "elementwise.h"
#include "int8_dense.h"
#include "int8_kernel.h"
#include "int8_pack.h"

namespace pruneonce {

const Int8Kernel& int8_kernel(Isa isa);

// y = f(factor · (weight · (codes - zero point)) + bias + residual); bias [rows] and residual may be null. Sums are exact.
// The codes are those of weight.code().
void multiply(const Int8Weight& weight, const Codes& x, const float* bias, const Activations* residual, Nonlinearity f,
              const Activations& y);
void multiply(const Int8DenseWeight& weight, const Codes& x, const float* bias, const Activations* residual,
              Nonlinearity f, const Activations& y);

}  // namespace pruneonce
