// Compiled once per instruction set: the table of its kernels.
#include "kernels.h"
#include "vector_isa.h"

#include PRUNEONCE_VEC

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {

static_assert(VectorIsa<Vec, Ints, Table, CodeRow, Words, DenseFour>,
              "the vector header lacks what vector_isa.h lists");

extern const DenseKernel dense_kernel;
extern const ElementwiseKernel elementwise_kernel;
extern const Int8Kernel int8_kernel;
extern const Int8AttentionKernel int8_attention_kernel;
extern const Int8DenseKernel int8_dense_kernel;
extern const SparseLinearKernel sparse_linear_kernel;
extern const SpmmKernel spmm_kernel;

extern const Kernels kernels;
constinit const Kernels kernels = {
    Vec::lanes,        dense_kernel,         elementwise_kernel, int8_kernel, int8_attention_kernel,
    int8_dense_kernel, sparse_linear_kernel, spmm_kernel};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
