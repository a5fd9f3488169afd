// Every kernel: tables of functions, compiled once per instruction set.
#pragma once

#include <cstddef>

#include "dense_kernel.h"
#include "elementwise_kernel.h"
#include "int8_attention_kernel.h"
#include "int8_dense_kernel.h"
#include "int8_kernel.h"
#include "isa.h"
#include "sparse_linear_kernel.h"
#include "spmm_kernel.h"

namespace pruneonce {

// References, not copies: then the compiler fills it in, and no code of a wide instruction set runs at start.
struct Kernels {
  std::size_t lanes;  // floats per vector
  const DenseKernel& dense;
  const ElementwiseKernel& elementwise;
  const Int8Kernel& int8;
  const Int8AttentionKernel& int8_attention;
  const Int8DenseKernel& int8_dense;
  const SparseLinearKernel& sparse_linear;
  const SpmmKernel& spmm;
};

// isa: an available one (choose_isa).
const Kernels& kernels(Isa isa);

}  // namespace pruneonce
