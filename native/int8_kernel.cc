// Compiled once per instruction set: see spmm_kernel.cc.
#include "int8_kernel.h"

#include PRUNEONCE_VEC
#include "coder.h"
#include "int8_finish.h"
#include "tile_cursor.h"

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

constexpr std::size_t lanes = Vec::lanes;
constexpr std::size_t kWeightsAhead = 4096;  // bytes of values: what memory takes to answer

// Any four rows of x.
struct Any {
  static constexpr std::size_t offsets = 4;

  template <std::size_t vectors, class Word>
  static inline __attribute__((always_inline)) void add_one(Word word, const std::uint16_t* offset,
                                                            const std::uint8_t* x, Ints (&sum)[vectors]) {
    const std::uint64_t at = load_offsets(offset);
    const std::uint8_t* const rows[4] = {row_at(x, offset_of<0>(at)), row_at(x, offset_of<1>(at)),
                                         row_at(x, offset_of<2>(at)), row_at(x, offset_of<3>(at))};
    add_four<vectors>(word, rows, sum);
  }

  template <std::size_t vectors>
  static inline __attribute__((always_inline)) void add(std::uint32_t fours, const std::int8_t* value,
                                                        const std::uint16_t* offset, const std::uint8_t* x,
                                                        Ints (&sum)[vectors]) {
    if constexpr (vectors <= 2) {
      // So few sums would wait for their own additions: two of each, by turns.
      Ints odd[vectors];
      for (std::size_t v = 0; v < vectors; ++v) odd[v] = Ints::broadcast(0);
      for (; fours >= 4; fours -= 4, value += 16, offset += 16) {
        const auto words = Words::load_four(value);
        add_one<vectors>(Words::template broadcast<0>(words), offset, x, sum);
        add_one<vectors>(Words::template broadcast<1>(words), offset + 4, x, odd);
        add_one<vectors>(Words::template broadcast<2>(words), offset + 8, x, sum);
        add_one<vectors>(Words::template broadcast<3>(words), offset + 12, x, odd);
      }
      for (std::size_t v = 0; v < vectors; ++v) sum[v] = sum[v] + odd[v];
    } else {
      for (; fours >= 2; fours -= 2, value += 8, offset += 8) {
        add_one<vectors>(Words::load(value), offset, x, sum);
        add_one<vectors>(Words::load(value + 4), offset + 4, x, sum);
      }
    }
    for (; fours > 0; --fours, value += 4, offset += 4) add_one<vectors>(Words::load(value), offset, x, sum);
  }
};

// Four columns that lie together.
struct Neighbours {
  static constexpr std::size_t offsets = 1;

  template <std::size_t vectors, std::size_t count>
  static inline __attribute__((always_inline)) void add_fours(const std::int8_t* value, const std::uint16_t* offset,
                                                              const std::uint8_t* x, Ints (&even)[vectors],
                                                              Ints (&odd)[vectors]) {
    const auto words = Words::load_four(value);
    const std::uint64_t at = load_offsets(offset);
    if constexpr (count > 0)
      add_neighbours<vectors>(Words::template broadcast<0>(words), row_at(x, offset_of<0>(at) * vectors), even);
    if constexpr (count > 1)
      add_neighbours<vectors>(Words::template broadcast<1>(words), row_at(x, offset_of<1>(at) * vectors), odd);
    if constexpr (count > 2)
      add_neighbours<vectors>(Words::template broadcast<2>(words), row_at(x, offset_of<2>(at) * vectors), even);
    if constexpr (count > 3)
      add_neighbours<vectors>(Words::template broadcast<3>(words), row_at(x, offset_of<3>(at) * vectors), odd);
  }

  template <std::size_t vectors>
  static inline __attribute__((always_inline)) void add(std::uint32_t fours, const std::int8_t* value,
                                                        const std::uint16_t* offset, const std::uint8_t* x,
                                                        Ints (&sum)[vectors]) {
    Ints odd[vectors];  // by turns: one sum alone would wait for its own additions
    for (std::size_t v = 0; v < vectors; ++v) odd[v] = Ints::broadcast(0);
    for (std::uint32_t i = 0; i < fours / 4; ++i, value += 16, offset += 4)
      add_fours<vectors, 4>(value, offset, x, sum, odd);
    switch (fours % 4) {
      case 1:
        add_fours<vectors, 1>(value, offset, x, sum, odd);
        break;
      case 2:
        add_fours<vectors, 2>(value, offset, x, sum, odd);
        break;
      case 3:
        add_fours<vectors, 3>(value, offset, x, sum, odd);
        break;
      default:
        break;
    }
    for (std::size_t v = 0; v < vectors; ++v) sum[v] = sum[v] + odd[v];
  }
};

template <std::size_t vectors, class Fours>
void multiply(const Int8Tile& tile, const std::uint8_t* x, const std::int32_t* start, const Int8Finish* finish,
              float* y) {
  constexpr std::size_t stride = vectors * lanes;
  const std::uint16_t* next_row = tile.row;
  const std::uint16_t* offset = tile.offset;
  const std::int8_t* value = tile.value;
  const Int8Finish last = finish ? *finish : Int8Finish{};  // a copy, which no store to y can change
  for (const Run* run = tile.runs; run != tile.runs + tile.run_count; ++run) {
    const std::uint32_t fours = run->length;
    for (std::uint32_t r = 0; r < run->rows; ++r, value += 4 * fours, offset += Fours::offsets * fours) {
      const std::size_t row = *next_row++;
      float* const y_row = y + row * stride;
      const auto* ahead = reinterpret_cast<const char*>(y + next_row[kRowsAhead - 1] * stride);
      for (std::size_t line = 0; line < stride * sizeof(float); line += 64) __builtin_prefetch(ahead + line, 1);
      // As many lines as the row uses up.
      for (std::uint32_t line = 0; line < fours; line += 16) __builtin_prefetch(value + kWeightsAhead + 4 * line);
      for (std::uint32_t line = 0; line < fours; line += 32 / Fours::offsets)
        __builtin_prefetch(offset + kWeightsAhead * Fours::offsets / 4 + Fours::offsets * line);
      Ints sum[vectors];
      for (std::size_t v = 0; v < vectors; ++v)
        sum[v] = start ? Ints::broadcast(start[row]) : Ints::load(y_row + v * lanes);
      Fours::template add<vectors>(fours, value, offset, x, sum);
      if (finish) {
        finish_sums<vectors>(last, row, row * stride, sum, y);
      } else {
        for (std::size_t v = 0; v < vectors; ++v) sum[v].store(y_row + v * lanes);
      }
    }
  }
}

void quantize_features(const float* x, std::size_t features, std::size_t vectors, float inverse,
                       std::int32_t zero_point, std::uint8_t* codes) {
  const Coder code(inverse, zero_point);
  for (std::size_t f = 0; f < features; ++f, x += vectors * lanes, codes += CodeRow::bytes) {
    Ints four[4];
    for (std::size_t v = 0; v < 4; ++v) four[v] = v < vectors ? code(Vec::load(x + v * lanes)) : Ints::broadcast(0);
    CodeRow::store(four, codes);
  }
}

void quantize_fours(const float* x, std::size_t features, std::size_t vectors, float inverse, std::int32_t zero_point,
                    std::uint8_t* codes) {
  const Coder code(inverse, zero_point);
  const std::size_t stride = vectors * lanes;
  for (std::size_t f = 0; f < features; f += 4, x += 4 * stride)
    for (std::size_t v = 0; v < vectors; ++v, codes += CodeRow::bytes) {
      Ints four[4];
      for (std::size_t i = 0; i < 4; ++i)
        four[i] = f + i < features ? code(Vec::load(x + i * stride + v * lanes)) : Ints::broadcast(0);
      bytes_of(four).store(codes);
    }
}

}  // namespace

extern const Int8Kernel int8_kernel;
const Int8Kernel int8_kernel = {
    CodeRow::bytes,
    CodeRow::centre,
    Words::sums_fours,
    DenseFour::words,
    {multiply<1, Any>, multiply<2, Any>, multiply<3, Any>, multiply<4, Any>},
    {multiply<1, Neighbours>, multiply<2, Neighbours>, multiply<3, Neighbours>, multiply<4, Neighbours>},
    quantize_features,
    quantize_fours};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
