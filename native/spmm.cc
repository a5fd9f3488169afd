#include "spmm.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>

#include "parallel.h"

namespace pruneonce {

namespace scalar {
extern const SpmmKernel kernel;
}
namespace avx2 {
extern const SpmmKernel kernel;
}
namespace avx512 {
extern const SpmmKernel kernel;
}

namespace {

// The y rows of one task stay in the L2 cache: at 64 tokens 960 rows are 240 KiB, half of what current cores have.
constexpr std::size_t kMaxTilesPerTask = 960 / PackedWeight::tile_rows;

// Memory of one thread, kept from call to call: fresh pages would cost more than the copying done in them.
class Scratch {
 public:
  float* at_least(std::size_t floats) {
    if (floats > size_) {
      memory_.reset();
      memory_.reset(static_cast<float*>(::operator new(floats * sizeof(float), kAlignment)));
      size_ = floats;
    }
    return memory_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};  // a cache line, and the widest vector
  struct Free {
    void operator()(float* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<float, Free> memory_;
  std::size_t size_ = 0;
};

// `index`-th of `parts` nearly equal parts of 0 .. total.
std::size_t part(std::size_t total, std::size_t parts, std::size_t index) { return total * index / parts; }

// Into how many parts to cut the rows: as few as keep every thread equally busy and y in its cache.
std::size_t row_parts(std::size_t tiles, std::size_t panels, std::size_t threads) {
  std::size_t parts = (tiles + kMaxTilesPerTask - 1) / kMaxTilesPerTask;
  while (parts < tiles && parts * panels < 4 * threads && parts * panels % threads != 0) ++parts;
  return parts;
}

}  // namespace

const SpmmKernel& spmm_kernel(Isa isa) {
  switch (isa) {
#ifdef PRUNEONCE_HAS_AVX512
    case Isa::avx512:
      return avx512::kernel;
#endif
#ifdef PRUNEONCE_HAS_AVX2
    case Isa::avx2:
      return avx2::kernel;
#endif
    default:
      return scalar::kernel;
  }
}

void spmm(const PackedWeight& weight, const float* x, const float* bias, float* y, std::size_t tokens) {
  if (tokens == 0 || weight.rows() == 0) return;
  const SpmmKernel& kernel = spmm_kernel(weight.isa());
  const std::size_t vectors = (tokens + kernel.lanes - 1) / kernel.lanes;
  const std::size_t panels = (vectors + kMaxVectors - 1) / kMaxVectors;
  const std::size_t parts = row_parts(weight.tiles_down(), panels, num_threads());

  parallel_for(panels * parts, [&](std::size_t task) {
    const std::size_t panel = task / parts;
    const std::size_t first_vector = part(vectors, panels, panel);
    const std::size_t width = part(vectors, panels, panel + 1) - first_vector;
    const std::size_t first_token = first_vector * kernel.lanes;
    const std::size_t panel_tokens = std::min(width * kernel.lanes, tokens - first_token);

    const std::size_t first_tile = part(weight.tiles_down(), parts, task % parts);
    const std::size_t end_tile = part(weight.tiles_down(), parts, task % parts + 1);
    const std::size_t first_row = first_tile * PackedWeight::tile_rows;
    const std::size_t rows = std::min(end_tile * PackedWeight::tile_rows, weight.rows()) - first_row;

    const std::size_t x_stride = std::bit_ceil(width) * kernel.lanes;
    const std::size_t y_stride = width * kernel.lanes;
    const std::size_t x_floats = weight.tile_cols() * x_stride;
    thread_local Scratch scratch;
    float* const x_panel = scratch.at_least(x_floats + rows * y_stride);
    float* const y_panel = x_panel + x_floats;

    kernel.fill(bias ? bias + first_row : nullptr, rows, y_panel, y_stride);
    for (std::size_t across = 0; across < weight.tiles_across(); ++across) {
      const std::size_t first_col = across * weight.tile_cols();
      const std::size_t cols = std::min(weight.tile_cols(), weight.cols() - first_col);
      kernel.load(x + first_col * tokens + first_token, tokens, cols, panel_tokens, x_panel, x_stride);
      for (std::size_t down = first_tile; down < end_tile; ++down)
        kernel.multiply[width - 1](weight.tile(down, across), x_panel,
                                   y_panel + (down - first_tile) * PackedWeight::tile_rows * y_stride);
    }
    kernel.store(y_panel, y_stride, rows, panel_tokens, y + first_row * tokens + first_token, tokens);
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
