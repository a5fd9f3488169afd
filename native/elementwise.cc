#include "elementwise.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels.h"
#include "parallel.h"

namespace pruneonce {

namespace {

constexpr std::size_t kFeaturesPerTask = 64;  // of a gate: both its inputs and its output then fit the L2 cache

// Interpolated at Chebyshev's nodes, where a cubic is nearly as good as the best one.
NormalTail normal_tail() {
  NormalTail tail{};
  for (std::size_t n = 0; n + 1 < NormalTail::pieces; ++n) {
    double t[4], divided[4];  // Newton's divided differences
    for (int i = 0; i < 4; ++i) {
      t[i] = 0.5 * std::cos((2 * i + 1) * std::numbers::pi / 8);
      const double a = (static_cast<double>(n) + t[i]) / double{NormalTail::pieces_per_unit};
      divided[i] = 0.5 * std::erfc(a * std::numbers::sqrt2 / 2);
    }
    for (int order = 1; order < 4; ++order)
      for (int i = 3; i >= order; --i) divided[i] = (divided[i] - divided[i - 1]) / (t[i] - t[i - order]);
    double c[4] = {divided[3], 0, 0, 0};
    for (int i = 2; i >= 0; --i) {  // c = c · (t - t[i]) + divided[i]
      for (int power = 3; power > 0; --power) c[power] = c[power - 1] - t[i] * c[power];
      c[0] = divided[i] - t[i] * c[0];
    }
    for (int power = 0; power < 4; ++power) tail.coefficient[power][n] = static_cast<float>(c[power]);
  }
  return tail;
}

}  // namespace

void apply(Nonlinearity f, Isa isa, float* values, std::size_t count) {
  static const NormalTail tail = normal_tail();
  const ElementwiseKernel& kernel = kernels(isa).elementwise;
  switch (f) {
    case Nonlinearity::none:
      return;
    case Nonlinearity::gelu:
      return kernel.gelu(values, count, tail);
    case Nonlinearity::gelu_tanh:
      return kernel.gelu_tanh(values, count);
    case Nonlinearity::relu:
      return kernel.relu(values, count);
    case Nonlinearity::silu:
      return kernel.silu(values, count);
  }
}

void gate(Nonlinearity f, const Activations& gate_up, const Activations& out) {
  const std::size_t features = out.features(), parts = divide_up(features, kFeaturesPerTask);
  parallel_for(out.panels() * parts, [&](std::size_t task) {
    const Panel from = gate_up.panel(task / parts), to = out.panel(task / parts);
    const std::size_t first = part(features, parts, task % parts) * to.stride;
    const std::size_t count = part(features, parts, task % parts + 1) * to.stride - first;
    float* const y = to.data + first;
    const float* const up = from.data + features * from.stride + first;
    std::copy_n(from.data + first, count, y);
    apply(f, out.isa(), y, count);
    for (std::size_t i = 0; i < count; ++i) y[i] *= up[i];
  });
}

void layer_norm(const Activations& x, const float* scale, const float* shift, float epsilon) {
  const ElementwiseKernel& kernel = kernels(x.isa()).elementwise;
  // A short text has one panel: its vectors are then shared out.
  const std::size_t parts = x.panels() < num_threads() ? kPanelVectors : 1;
  parallel_for(x.panels() * parts, [&](std::size_t task) {
    const Panel panel = x.panel(task / parts);
    const std::size_t first = part(panel.vectors, parts, task % parts);
    const std::size_t end = part(panel.vectors, parts, task % parts + 1);
    kernel.layer_norm(panel.data + first * x.lanes(), x.features(), panel.stride, end - first, scale, shift, epsilon);
  });
}

}  // namespace pruneonce
