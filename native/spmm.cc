#include "spmm.h"

#include <algorithm>

#include "isa_kernels.h"
#include "parallel.h"

namespace pruneonce {

PRUNEONCE_DECLARE_KERNEL(SpmmKernel, spmm_kernel)

namespace {

// The y rows of one task stay in the L2 cache: at 32 tokens 1,152 rows are 144 KiB.
constexpr std::size_t kMaxRowsPerTask = 1152;

}  // namespace

std::size_t row_parts(std::size_t tile_rows, std::size_t tiles_down, std::size_t panels) {
  const std::size_t threads = num_threads();
  std::size_t parts = divide_up(tiles_down, std::max<std::size_t>(1, kMaxRowsPerTask / tile_rows));
  while (parts < tiles_down && parts * panels < 4 * threads && parts * panels % threads != 0) ++parts;
  return parts;
}

const SpmmKernel& spmm_kernel(Isa isa) { PRUNEONCE_RETURN_KERNEL(isa, spmm_kernel) }

void multiply_tiles(const PackedPattern& pattern, const float* values, std::size_t first_tile, std::size_t end_tile,
                    const float* x, std::size_t vectors, const float* bias, const float* residual, float* y) {
  const SpmmKernel& kernel = spmm_kernel(pattern.isa());
  const std::size_t stride = vectors * kernel.lanes;
  for (std::size_t across = 0; across < pattern.tiles_across(); ++across) {
    const float* const x_tile = x + across * pattern.tile_cols() * stride;
    for (std::size_t down = first_tile; down < end_tile; ++down) {
      const std::size_t row = down * pattern.tile_rows();
      const Start start{across > 0, bias ? bias + row : nullptr, residual ? residual + row * stride : nullptr};
      kernel.multiply[vectors - 1](pattern.tile(down, across, values), x_tile, start, y + row * stride);
    }
  }
}

void multiply(const PackedWeight& weight, const Activations& x, const float* bias, const Activations* residual,
              Nonlinearity f, const Activations& y) {
  if (x.tokens() == 0 || weight.rows() == 0) return;
  const std::size_t parts = row_parts(weight.tile_rows(), weight.tiles_down(), x.panels());

  // Panels of one part follow each other: the part's weights are then still in some cache.
  parallel_for(x.panels() * parts, [&](std::size_t task) {
    const std::size_t index = task % x.panels(), part_index = task / x.panels();
    const Panel from = x.panel(index), to = y.panel(index);
    const std::size_t stride = to.stride;
    const std::size_t first_tile = part(weight.tiles_down(), parts, part_index);
    const std::size_t end_tile = part(weight.tiles_down(), parts, part_index + 1);
    const std::size_t first_row = first_tile * weight.tile_rows();
    const std::size_t end_row = std::min(end_tile * weight.tile_rows(), weight.rows());

    multiply_tiles(weight, weight.values(), first_tile, end_tile, from.data, from.vectors, bias,
                   residual ? residual->panel(index).data : nullptr, to.data);
    apply(f, weight.isa(), to.data + first_row * stride, (end_row - first_row) * stride);
  });
}

double run_multiply_adds(Isa isa, std::size_t iterations) {
  const SpmmKernel& kernel = spmm_kernel(isa);
  const std::size_t threads = num_threads();
  parallel_for(threads, [&](std::size_t) {
    [[maybe_unused]] volatile float kept = kernel.multiply_adds(iterations);
  });
  return 2.0 * static_cast<double>(kPeakFmas * kernel.lanes) * static_cast<double>(iterations * threads);
}

}  // namespace pruneonce
