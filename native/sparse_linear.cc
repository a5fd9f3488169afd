#include "sparse_linear.h"

#include <algorithm>
#include <string>

#include "activations.h"
#include "kernels.h"
#include "parallel.h"
#include "refuse.h"
#include "spmm.h"

namespace pruneonce {
namespace {

// A thread's panels, kept from call to call.
struct Scratch {
  Buffer x, y, dx;
};
thread_local Scratch scratch;

// Packed values and sums of the calling thread: one matrix at a time needs them, so all layers share them.
struct PackedScratch {
  Buffer values, sums;
};
thread_local PackedScratch packed_scratch;

struct Transposed {
  std::vector<std::int64_t> row_ptr;
  std::vector<std::int32_t> col;
  std::vector<std::uint16_t> place_in_row;  // of W, of each non-zero
};

Transposed transpose(const Csr& csr) {
  const std::size_t rows = csr.row_ptr.size() - 1;
  Transposed result;
  result.row_ptr.assign(csr.cols + 1, 0);
  result.col.resize(csr.col.size());
  result.place_in_row.resize(csr.col.size());
  for (const std::int32_t col : csr.col) ++result.row_ptr[col + 1];
  for (std::size_t c = 0; c < csr.cols; ++c) result.row_ptr[c + 1] += result.row_ptr[c];
  std::vector<std::int64_t> next(result.row_ptr.begin(), result.row_ptr.end());
  for (std::size_t r = 0; r < rows; ++r)
    for (std::int64_t i = csr.row_ptr[r]; i < csr.row_ptr[r + 1]; ++i) {
      const std::int64_t to = next[csr.col[i]]++;
      result.col[to] = static_cast<std::int32_t>(r);
      result.place_in_row[to] = static_cast<std::uint16_t>(i - csr.row_ptr[r]);
    }
  return result;
}

}  // namespace

SparseLinear::SparseLinear(const Csr& csr, const Machine& machine) : row_ptr_(csr.row_ptr.begin(), csr.row_ptr.end()) {
  std::vector<std::uint32_t> source;
  pattern_.emplace(csr, machine, "SparseLinear", &source);  // checks the CSR
  if (csr.cols > (std::size_t{1} << 16))
    refuse("SparseLinear", std::to_string(csr.cols) + " columns, expected at most 65536");
  for (std::size_t i = 0; i < source.size(); ++i)
    if (i == 0 || source[i] != source[i - 1] + 1) {
      stretch_.push_back(source[i]);
      stretch_start_.push_back(static_cast<std::uint32_t>(i));
    }
  stretch_start_.push_back(static_cast<std::uint32_t>(source.size()));

  const Transposed transposed = transpose(csr);
  source.clear();
  transposed_.emplace(Csr{transposed.row_ptr, transposed.col, row_ptr_.size() - 1}, machine, "SparseLinear", &source);
  place_in_row_.reserve(source.size());
  for (const std::uint32_t place : source) place_in_row_.push_back(transposed.place_in_row[place]);
}

std::size_t SparseLinear::bytes() const {
  return sizeof(*this) + pattern_->bytes() + transposed_->bytes() + row_ptr_.capacity() * sizeof(std::int64_t) +
         (stretch_.capacity() + stretch_start_.capacity()) * sizeof(std::uint32_t) +
         place_in_row_.capacity() * sizeof(std::uint16_t);
}

void SparseLinear::pack(const float* values, float* packed) const {
  const std::size_t parts = num_threads();
  parallel_for(parts, [&](std::size_t index) {
    for (std::size_t s = part(stretch_.size(), parts, index); s < part(stretch_.size(), parts, index + 1); ++s)
      std::copy(values + stretch_[s], values + stretch_[s] + (stretch_start_[s + 1] - stretch_start_[s]),
                packed + stretch_start_[s]);
  });
}

void SparseLinear::pack_transposed(const float* values, float* packed) const {
  const std::size_t vector_bytes = kernels(isa()).lanes * sizeof(float);
  const Tiling& tiling = transposed_->tiling();
  const std::size_t down = tiling.down();
  parallel_for(down * tiling.across(), [&](std::size_t index) {
    const Tile tile = transposed_->tile(index % down, index / down, packed);
    const std::int64_t* const row_ptr = row_ptr_.data() + index / down * tiling.tile_cols();
    const Tiling::Part part = tiling.tile(index % down, index / down);
    const std::size_t first = part.first_step, count = part.end_step - first;
    for (std::size_t i = 0; i < count; ++i)
      packed[first + i] = values[row_ptr[tile.offset[i] / vector_bytes] + place_in_row_[first + i]];
  });
}

void SparseLinear::unpack(const float* sums, std::size_t count, std::size_t stride, float* dvalues) const {
  const std::size_t parts = num_threads();
  parallel_for(parts, [&](std::size_t index) {
    for (std::size_t s = part(stretch_.size(), parts, index); s < part(stretch_.size(), parts, index + 1); ++s) {
      float* const to = dvalues + stretch_[s];
      const std::size_t first = stretch_start_[s], size = stretch_start_[s + 1] - first;
      std::copy(sums + first, sums + first + size, to);
      for (std::size_t other = 1; other < count; ++other)
        for (std::size_t i = 0; i < size; ++i) to[i] += sums[other * stride + first + i];
    }
  });
}

void SparseLinear::forward(const float* values, const float* bias, const float* x, std::size_t tokens, float* y) const {
  if (tokens == 0 || rows() == 0) return;
  const SparseLinearKernel& kernel = kernels(isa()).sparse_linear;
  const Tiling& tiling = pattern_->tiling();
  float* const packed = packed_scratch.values.at_least(nonzeros() + kValuesAhead);
  pack(values, packed);
  const std::size_t panels = divide_up(tokens, kPanelVectors * kernels(isa()).lanes);
  const std::size_t parts = row_parts(tiling, panels);
  // Each part of the rows turns x to feature-major for itself: a tenth of its work, and there are several parts only
  // where there are too few panels for the threads.
  parallel_for(panels * parts, [&](std::size_t task) {
    const Panel panel = panel_of(task / parts, tokens, isa());
    const std::size_t first_tile = part(tiling.down(), parts, task % parts);
    const std::size_t end_tile = part(tiling.down(), parts, task % parts + 1);
    const std::size_t first_row = first_tile * tiling.tile_rows();
    const std::size_t end_row = std::min(end_tile * tiling.tile_rows(), rows());
    float* const x_panel = scratch.x.at_least(cols() * panel.stride);
    float* const y_panel = scratch.y.at_least(rows() * panel.stride);
    kernel.load_panel(x + panel.first_token * cols(), cols(), panel.tokens, cols(), panel.vectors, x_panel);
    multiply_tiles(*pattern_, packed, first_tile, end_tile, x_panel, panel.vectors, bias, nullptr, y_panel);
    kernel.store_panel(y_panel + first_row * panel.stride, panel.vectors, panel.tokens, end_row - first_row,
                       y + panel.first_token * rows() + first_row, rows());
  });
}

void SparseLinear::backward(const float* values, const float* x, const float* dy, std::size_t tokens, float* dx,
                            float* dvalues, float* dbias) const {
  const SparseLinearKernel& kernel = kernels(isa()).sparse_linear;
  const Tiling& tiling = pattern_->tiling();
  const std::size_t panels = divide_up(tokens, kPanelVectors * kernels(isa()).lanes);
  const std::size_t shares = std::max<std::size_t>(1, std::min(num_threads(), panels));
  float* const packed = packed_scratch.values.at_least(nonzeros() + kValuesAhead);
  if (dx) pack_transposed(values, packed);
  // Each share's sums, over weights and then over rows, begin a cache line.
  const std::size_t stride = divide_up(nonzeros() + rows(), 16) * 16;
  float* const all_sums = packed_scratch.sums.at_least(shares * stride);
  parallel_for(shares, [&](std::size_t share) {
    float* const sums = all_sums + share * stride;
    std::fill_n(sums, nonzeros() + rows(), 0.0f);
    for (std::size_t index = part(panels, shares, share); index < part(panels, shares, share + 1); ++index) {
      const Panel panel = panel_of(index, tokens, isa());
      float* const dy_panel = scratch.y.at_least(rows() * panel.stride);
      kernel.load_panel(dy + panel.first_token * rows(), rows(), panel.tokens, rows(), panel.vectors, dy_panel);
      if (dx) {
        float* const dx_panel = scratch.dx.at_least(cols() * panel.stride);
        multiply_tiles(*transposed_, packed, 0, transposed_->tiling().down(), dy_panel, panel.vectors, nullptr, nullptr,
                       dx_panel);
        kernel.store_panel(dx_panel, panel.vectors, panel.tokens, cols(), dx + panel.first_token * cols(), cols());
      }
      if (dbias) kernel.add_rows(dy_panel, panel.vectors, rows(), sums + nonzeros());
      if (!dvalues) continue;
      float* const x_panel = scratch.x.at_least(cols() * panel.stride);
      kernel.load_panel(x + panel.first_token * cols(), cols(), panel.tokens, cols(), panel.vectors, x_panel);
      for (std::size_t across = 0; across < tiling.across(); ++across)
        for (std::size_t down = 0; down < tiling.down(); ++down)
          kernel.sample[panel.vectors - 1](
              pattern_->tile(down, across, nullptr), x_panel + across * tiling.tile_cols() * panel.stride,
              dy_panel + down * tiling.tile_rows() * panel.stride, sums + tiling.tile(down, across).first_step);
    }
  });
  if (dvalues) unpack(all_sums, shares, stride, dvalues);
  if (!dbias) return;
  std::copy_n(all_sums + nonzeros(), rows(), dbias);
  for (std::size_t share = 1; share < shares; ++share)
    for (std::size_t r = 0; r < rows(); ++r) dbias[r] += all_sums[share * stride + nonzeros() + r];
}

}  // namespace pruneonce
