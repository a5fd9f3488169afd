#include "tiling.h"

#include <limits>
#include <numeric>

#include "parallel.h"

namespace pruneonce {
namespace {

// The y rows of one task stay in the L2 cache: at 32 tokens 1,152 rows are 144 KiB.
constexpr std::size_t kMaxRowsPerTask = 1152;

}  // namespace

std::size_t columns_per_tile(std::size_t cols, std::size_t bytes, const Machine& machine) {
  const std::size_t most =
      std::min(machine.l1_bytes, std::numeric_limits<std::uint16_t>::max() + std::size_t{1}) / bytes;
  return std::max<std::size_t>(1, divide_up(cols, std::max<std::size_t>(1, divide_up(cols, most))));
}

std::size_t rows_per_tile(std::size_t rows, const Machine& machine) {
  return std::clamp<std::size_t>(divide_up(rows, machine.threads * 32) * 32, 96, 384);
}

void Tiling::cut(const Csr& csr, Empty empty, FunctionRef<std::size_t(const TileRow&)> length_of,
                 FunctionRef<void(const TileRow&)> append) {
  starts_.reserve(across() * down() + 1);
  std::size_t steps = 0;
  std::vector<std::int64_t> next(csr.row_ptr.begin(), csr.row_ptr.end());  // per row: its first entry not yet packed
  std::vector<TileRow> tile(tile_rows_);
  std::vector<std::uint32_t> length(tile_rows_);
  std::vector<std::uint16_t> order(tile_rows_);
  for (std::size_t x = 0; x < across(); ++x) {
    const auto first_col = static_cast<std::int64_t>(x * tile_cols_);
    const auto end_col = first_col + static_cast<std::int64_t>(tile_cols_);
    const bool keeps_empty = x == 0 || (empty == Empty::in_first_and_last && x + 1 == across());
    for (std::size_t y = 0; y < down(); ++y) {
      starts_.push_back({runs_.size(), row_order_.size(), steps});
      const std::size_t first_row = y * tile_rows_, count = std::min(tile_rows_, rows_ - first_row);
      for (std::size_t r = 0; r < count; ++r) {
        std::int64_t& end = next[first_row + r];
        tile[r] = {r, end, end, first_col};
        while (end < csr.row_ptr[first_row + r + 1] && csr.col[end] < end_col) ++end;
        tile[r].end = end;
        length[r] = static_cast<std::uint32_t>(length_of(tile[r]));
      }
      std::iota(order.begin(), order.begin() + count, std::uint16_t{0});
      std::stable_sort(order.begin(), order.begin() + count, [&](auto a, auto b) { return length[a] < length[b]; });
      for (std::size_t position = 0; position < count; ++position) {
        const std::uint16_t r = order[position];
        if (length[r] == 0 && !keeps_empty) continue;
        if (runs_.size() == starts_.back().run || runs_.back().length != length[r]) runs_.push_back({0, length[r]});
        ++runs_.back().rows;
        row_order_.push_back(r);
        steps += length[r];
        append(tile[r]);
      }
    }
  }
  starts_.push_back({runs_.size(), row_order_.size(), steps});
  row_order_.insert(row_order_.end(), kRowsAhead, 0);
}

Tiling::Part Tiling::tile(std::size_t down_index, std::size_t across_index) const {
  const Start* const from = &starts_[across_index * down() + down_index];
  return {runs_.data() + from->run, from[1].run - from->run, row_order_.data() + from->row, from->step, from[1].step};
}

std::size_t Tiling::bytes() const {
  return starts_.capacity() * sizeof(Start) + runs_.capacity() * sizeof(Run) +
         row_order_.capacity() * sizeof(std::uint16_t);
}

std::size_t row_parts(const Tiling& tiling, std::size_t panels) {
  const std::size_t threads = num_threads();
  std::size_t parts = divide_up(tiling.down(), std::max<std::size_t>(1, kMaxRowsPerTask / tiling.tile_rows()));
  while (parts < tiling.down() && parts * panels < 4 * threads && parts * panels % threads != 0) ++parts;
  return parts;
}

}  // namespace pruneonce
