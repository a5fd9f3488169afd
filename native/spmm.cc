#include "spmm.h"

#include <algorithm>

#include "kernels.h"
#include "parallel.h"

namespace pruneonce {

void multiply_tiles(const PackedPattern& pattern, const float* values, std::size_t first_tile, std::size_t end_tile,
                    const float* x, std::size_t vectors, const float* bias, const float* residual, float* y) {
  const SpmmKernel& kernel = kernels(pattern.isa()).spmm;
  const Tiling& tiling = pattern.tiling();
  const std::size_t stride = vectors * kernels(pattern.isa()).lanes;
  for (std::size_t across = 0; across < tiling.across(); ++across) {
    const float* const x_tile = x + across * tiling.tile_cols() * stride;
    for (std::size_t down = first_tile; down < end_tile; ++down) {
      const std::size_t row = down * tiling.tile_rows();
      const Start start{across > 0, bias ? bias + row : nullptr, residual ? residual + row * stride : nullptr};
      kernel.multiply[vectors - 1](pattern.tile(down, across, values), x_tile, start, y + row * stride);
    }
  }
}

void multiply(const PackedWeight& weight, const Activations& x, const float* bias, const Activations* residual,
              Nonlinearity f, const Activations& y) {
  if (x.tokens() == 0 || weight.rows() == 0) return;
  const Tiling& tiling = weight.tiling();
  const std::size_t parts = row_parts(tiling, x.panels());

  // Panels of one part follow each other: the part's weights are then still in some cache.
  parallel_for(x.panels() * parts, [&](std::size_t task) {
    const std::size_t index = task % x.panels(), part_index = task / x.panels();
    const Panel from = x.panel(index), to = y.panel(index);
    const std::size_t stride = to.stride;
    const std::size_t first_tile = part(tiling.down(), parts, part_index);
    const std::size_t end_tile = part(tiling.down(), parts, part_index + 1);
    const std::size_t first_row = first_tile * tiling.tile_rows();
    const std::size_t end_row = std::min(end_tile * tiling.tile_rows(), weight.rows());

    multiply_tiles(weight, weight.values(), first_tile, end_tile, from.data, from.vectors, bias,
                   residual ? residual->panel(index).data : nullptr, to.data);
    apply(f, weight.isa(), to.data + first_row * stride, (end_row - first_row) * stride);
  });
}

double run_multiply_adds(Isa isa, std::size_t iterations) {
  const Kernels& kernel = kernels(isa);
  const std::size_t threads = num_threads();
  parallel_for(threads,
               [&](std::size_t) { [[maybe_unused]] volatile float kept = kernel.spmm.multiply_adds(iterations); });
  return 2.0 * static_cast<double>(kPeakFmas * kernel.lanes) * static_cast<double>(iterations * threads);
}

}  // namespace pruneonce
