// Compiled once per instruction set: see spmm_kernel.cc.
#include "int8_kernel.h"

#include PRUNEONCE_VEC

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

constexpr std::size_t lanes = Vec::lanes;
constexpr std::size_t kWeightsAhead = 512;  // bytes of values; see spmm_kernel.cc

template <std::size_t vectors>
void multiply(const Int8Tile& tile, const std::uint8_t* x, const std::int32_t* start, const Int8Finish* finish, float* y) {
  constexpr std::size_t stride = vectors * lanes;
  const std::uint16_t* next_row = tile.row;
  const std::uint16_t* offset = tile.offset;
  const std::int8_t* value = tile.value;
  for (const Run* run = tile.runs; run != tile.runs + tile.run_count; ++run)
    for (std::uint32_t r = 0; r < run->rows; ++r) {
      const std::size_t row = *next_row++;
      float* const y_row = y + row * stride;
      const auto* ahead = reinterpret_cast<const char*>(y + next_row[kRowsAhead - 1] * stride);
      for (std::size_t line = 0; line < stride * sizeof(float); line += 64) __builtin_prefetch(ahead + line, 1);
      __builtin_prefetch(value + kWeightsAhead);
      __builtin_prefetch(offset + kWeightsAhead);
      __builtin_prefetch(offset + kWeightsAhead + 32);
      Ints sum[vectors];
      for (std::size_t v = 0; v < vectors; ++v) sum[v] = start ? Ints::broadcast(start[row]) : Ints::load(y_row + v * lanes);
      for (std::uint32_t i = 0; i < run->nonzeros_per_row; ++i, value += 4, offset += 4) {
        std::uint64_t four;  // offsets in one load
        __builtin_memcpy(&four, offset, sizeof four);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        const std::uint8_t* const rows[4] = {x + offset[0], x + offset[1], x + offset[2], x + offset[3]};
#else
        const std::uint8_t* const rows[4] = {x + static_cast<std::uint16_t>(four), x + static_cast<std::uint16_t>(four >> 16),
                                             x + static_cast<std::uint16_t>(four >> 32), x + (four >> 48)};
#endif
        add_four<vectors>(value, rows, sum);
      }
      if (!finish) {
        for (std::size_t v = 0; v < vectors; ++v) sum[v].store(y_row + v * lanes);
        continue;
      }
      const Vec scale = Vec::broadcast(finish->scale[row]);
      const Vec bias = Vec::broadcast(finish->bias ? finish->bias[row] : 0.0f);
      for (std::size_t v = 0; v < vectors; ++v) {
        Vec result = Vec::multiply_add(sum[v].to_float(), scale, bias);
        if (finish->residual) result = result + Vec::load(finish->residual + row * stride + v * lanes);
        result.store(y_row + v * lanes);
      }
    }
}

void quantize(const float* x, std::size_t features, std::size_t vectors, float inverse, std::int32_t zero_point,
              std::uint8_t* codes) {
  const Vec factor = Vec::broadcast(inverse);
  const Vec lowest = Vec::broadcast(static_cast<float>(-zero_point)), highest = Vec::broadcast(static_cast<float>(255 - zero_point));
  const Ints shift = Ints::broadcast(zero_point);
  for (std::size_t f = 0; f < features; ++f, x += vectors * lanes, codes += CodeRow::bytes) {
    Ints four[4];
    for (std::size_t v = 0; v < 4; ++v) {
      const Vec value = v < vectors ? Vec::load(x + v * lanes) * factor : Vec::broadcast(0.0f);
      // Cut first: what is beyond 2^31 could not be rounded.
      four[v] = Ints::round(Vec::min(Vec::max(value, lowest), highest)) + shift;
    }
    CodeRow::store(four, codes);
  }
}

}  // namespace

extern const Int8Kernel int8_kernel;
const Int8Kernel int8_kernel = {CodeRow::bytes, {multiply<1>, multiply<2>, multiply<3>, multiply<4>}, quantize};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
