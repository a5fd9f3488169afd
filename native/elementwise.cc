#include "elementwise.h"

#include "isa_kernels.h"
#include "parallel.h"

namespace pruneonce {

PRUNEONCE_DECLARE_KERNEL(ElementwiseKernel, elementwise_kernel)

const ElementwiseKernel& elementwise_kernel(Isa isa) { PRUNEONCE_RETURN_KERNEL(isa, elementwise_kernel) }

void apply(Nonlinearity f, Isa isa, float* values, std::size_t count) {
  const ElementwiseKernel& kernel = elementwise_kernel(isa);
  switch (f) {
    case Nonlinearity::none:
      return;
    case Nonlinearity::gelu:
      return kernel.gelu(values, count);
    case Nonlinearity::gelu_tanh:
      return kernel.gelu_tanh(values, count);
    case Nonlinearity::relu:
      return kernel.relu(values, count);
  }
}

void layer_norm(const Activations& x, const float* scale, const float* shift, float epsilon) {
  const ElementwiseKernel& kernel = elementwise_kernel(x.isa());
  // A short text has one panel: its vectors are then shared out.
  const std::size_t parts = x.panels() < num_threads() ? kPanelVectors : 1;
  parallel_for(x.panels() * parts, [&](std::size_t task) {
    const Panel panel = x.panel(task / parts);
    const std::size_t first = part(panel.vectors, parts, task % parts);
    const std::size_t end = part(panel.vectors, parts, task % parts + 1);
    kernel.layer_norm(panel.data + first * kernel.lanes, x.features(), panel.stride, end - first, scale, shift, epsilon);
  });
}

}  // namespace pruneonce
