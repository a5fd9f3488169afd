// What becomes of whole sums, for the int8 kernels; included after their interface and the vector header. No header of
// the standard library: see spmm_kernel.cc.
#pragma once

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {

// y[place …] = sums · scale + bias + residual[place …], of a row; place counts floats.
template <std::size_t vectors>
inline __attribute__((always_inline)) void finish_sums(const Int8Finish finish, std::size_t row, std::size_t place,
                                                       const Ints (&sum)[vectors], float* y) {
  const Vec scale = Vec::broadcast(finish.scale[row]);
  const Vec bias = Vec::broadcast(finish.bias ? finish.bias[row] : 0.0f);
  for (std::size_t v = 0; v < vectors; ++v, place += Vec::lanes) {
    Vec result = Vec::multiply_add(sum[v].to_float(), scale, bias);
    if (finish.residual) result = result + Vec::load(finish.residual + place);
    result.store(y + place);
  }
}

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
