#include "int8.h"

#include <algorithm>

#include "isa_kernels.h"
#include "parallel.h"
#include "spmm.h"

namespace pruneonce {

PRUNEONCE_DECLARE_KERNEL(Int8Kernel, int8_kernel)

const Int8Kernel& int8_kernel(Isa isa) { PRUNEONCE_RETURN_KERNEL(isa, int8_kernel) }

void multiply(const Int8Weight& weight, const Codes& x, const float* bias, const Activations* residual, Nonlinearity f,
              const Activations& y) {
  if (x.tokens() == 0 || weight.rows() == 0) return;
  const Int8Kernel& kernel = int8_kernel(weight.isa());
  const bool any = weight.fours() == Fours::any;
  const std::size_t parts = row_parts(weight.tile_rows(), weight.tiles_down(), x.panels());
  const std::size_t last_across = weight.tiles_across() - 1;
  const Int8Scales& scales = weight.scales();

  // Panels of one part follow each other: the part's weights are then still in some cache.
  parallel_for(x.panels() * parts, [&](std::size_t task) {
    const std::size_t index = task % x.panels(), part_index = task / x.panels();
    const Panel to = y.panel(index);
    const auto multiply_tile = (any ? kernel.multiply_any : kernel.multiply_neighbours)[to.vectors - 1];
    const std::size_t column_bytes = any ? kernel.code_bytes : to.stride;  // in fours of as many bytes, times four
    const std::size_t first_tile = part(weight.tiles_down(), parts, part_index);
    const std::size_t end_tile = part(weight.tiles_down(), parts, part_index + 1);
    const std::size_t first_row = first_tile * weight.tile_rows();
    const std::size_t end_row = std::min(end_tile * weight.tile_rows(), weight.rows());

    for (std::size_t across = 0; across <= last_across; ++across) {
      const std::uint8_t* const x_tile = x.panel(index) + across * weight.tile_cols() * column_bytes;
      for (std::size_t down = first_tile; down < end_tile; ++down) {
        const std::size_t row = down * weight.tile_rows();
        const Int8Finish finish{scales.factor() + row, bias ? bias + row : nullptr,
                                residual ? residual->panel(index).data + row * to.stride : nullptr};
        multiply_tile(weight.tile(down, across), x_tile, across == 0 ? scales.start() + row : nullptr,
                      across == last_across ? &finish : nullptr, to.data + row * to.stride);
      }
    }
    apply(f, weight.isa(), to.data + first_row * to.stride, (end_row - first_row) * to.stride);
  });
}

}  // namespace pruneonce
