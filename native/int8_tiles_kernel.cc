// Compiled once per instruction set, and empty where the processor has no tiles (AMX): see spmm_kernel.cc.
//
// A tile is 16 rows of 64 bytes. One instruction adds to 16 × 16 sums the products of 16 rows of 64 weights with codes
// in fours, [16 fours, 16 tokens], which is how codes lie (CodeLayout::fours): nothing has to be moved. Two tiles of
// weights and two of codes make four of sums, so that a tile that was loaded is used twice.
#ifdef __AMX_INT8__
#include "int8_dense_kernel.h"

#include PRUNEONCE_VEC
#include "int8_finish.h"

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

constexpr std::size_t kTileRows = 16, kTileBytes = 64, kTile = kTileRows * kTileBytes;
constexpr std::size_t kBlockRows = 2 * kTileRows;
constexpr std::size_t kPanelVectors = 4;  // at most
static_assert(CodeRow::bytes == kTileBytes && Vec::lanes == kTileRows);

constexpr std::size_t round_up(std::size_t count, std::size_t unit) { return (count + unit - 1) / unit * unit; }

// All eight tiles whole; let go of at the end, or the system would save them at each change of threads.
class Tiles {
 public:
  Tiles() {
    alignas(64) struct {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t bytes_per_row[16] = {};
      std::uint8_t rows[16] = {};
    } shape;
    for (std::size_t tile = 0; tile < 8; ++tile) {
      shape.bytes_per_row[tile] = kTileBytes;
      shape.rows[tile] = kTileRows;
    }
    _tile_loadconfig(&shape);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// Codes of the last columns, where they fill no tile.
struct Rest {
  const std::uint8_t* whole;  // of x: [fours, vectors]
  alignas(64) std::uint8_t padded[kTileRows * kPanelVectors * kTileBytes];
  std::size_t steps;  // over columns, of which the last reads `padded` if there is a rest
  bool any;

  Rest(const Int8Rows& given, std::size_t vectors)
      : whole(given.x), steps(round_up(given.cols, kTileBytes) / kTileBytes), any(given.cols % kTileBytes != 0) {
    if (!any) return;
    const std::size_t row_bytes = vectors * kTileBytes, fours = (given.cols % kTileBytes + 3) / 4;
    const std::uint8_t* from = given.x + given.cols / kTileBytes * kTileRows * row_bytes;
    for (std::size_t byte = 0; byte < kTileRows * row_bytes; ++byte)
      padded[byte] = byte < fours * row_bytes ? from[byte] : 0;
    __asm__ volatile("" ::: "memory");  // GCC's loads of tiles do not say that they read memory
  }
  const std::uint8_t* at(std::size_t step, std::size_t vectors) const {
    return any && step + 1 == steps ? padded : whole + step * kTileRows * vectors * kTileBytes;
  }
};

// sums: of `count` tiles beside each other, [16, 16] each.
template <std::size_t count>
inline __attribute__((always_inline)) void finish_rows(const Int8Rows& given, std::size_t row, std::size_t vectors,
                                                       std::size_t first, const float* sums) {
  const std::size_t rows = given.rows - row < kTileRows ? given.rows - row : kTileRows;
  for (std::size_t r = 0; r < rows; ++r) {
    const Ints start = Ints::broadcast(given.start[row + r]);
    Ints sum[count];
    for (std::size_t v = 0; v < count; ++v) sum[v] = Ints::load(sums + (v * kTileRows + r) * Vec::lanes) + start;
    finish_sums<count>(given.finish, row + r, ((row + r) * vectors + first) * Vec::lanes, sum, given.y);
  }
}

// Tiles 0 to 3 are sums, 4 and 5 weights, 6 and 7 codes.
template <std::size_t row_tiles, std::size_t count>
inline __attribute__((always_inline)) void multiply_part(const Int8Rows& given, const Rest& codes, std::size_t row,
                                                         std::size_t vectors, std::size_t first) {
  const std::size_t steps = codes.steps;
  const auto* weights = reinterpret_cast<const std::uint8_t*>(given.words) + row * steps * kTileBytes;
  _tile_zero(0);
  if constexpr (count > 1) _tile_zero(1);
  if constexpr (row_tiles > 1) _tile_zero(2);
  if constexpr (row_tiles > 1 && count > 1) _tile_zero(3);
  for (std::size_t step = 0; step < steps; ++step, weights += row_tiles * kTile) {
    const std::uint8_t* x = codes.at(step, vectors) + first * kTileBytes;
    _tile_loadd(6, x, vectors * kTileBytes);
    _tile_loadd(4, weights, kTileBytes);
    _tile_dpbsud(0, 4, 6);
    if constexpr (count > 1) {
      _tile_loadd(7, x + kTileBytes, vectors * kTileBytes);
      _tile_dpbsud(1, 4, 7);
    }
    if constexpr (row_tiles > 1) {
      _tile_loadd(5, weights + kTile, kTileBytes);
      _tile_dpbsud(2, 5, 6);
      if constexpr (count > 1) _tile_dpbsud(3, 5, 7);
    }
  }
  alignas(64) float sums[4][kTileRows * Vec::lanes];
  _tile_stored(0, sums[0], kTileBytes);
  if constexpr (count > 1) _tile_stored(1, sums[1], kTileBytes);
  if constexpr (row_tiles > 1) _tile_stored(2, sums[2], kTileBytes);
  if constexpr (row_tiles > 1 && count > 1) _tile_stored(3, sums[3], kTileBytes);
  for (std::size_t tile = 0; tile < row_tiles; ++tile)
    finish_rows<count>(given, row + tile * kTileRows, vectors, first, sums[2 * tile]);
}

template <std::size_t row_tiles, std::size_t vectors>
inline __attribute__((always_inline)) void multiply_block(const Int8Rows& given, const Rest& codes, std::size_t row) {
  for (std::size_t first = 0; first + 2 <= vectors; first += 2)
    multiply_part<row_tiles, 2>(given, codes, row, vectors, first);
  if constexpr (vectors % 2 > 0) multiply_part<row_tiles, 1>(given, codes, row, vectors, vectors - 1);
}

template <std::size_t vectors>
void multiply(const Int8Rows& given) {
  const Tiles tiles;
  const Rest codes(given, vectors);
  std::size_t row = 0;
  for (; row + kTileRows < given.rows; row += kBlockRows) multiply_block<2, vectors>(given, codes, row);
  if (row < given.rows) multiply_block<1, vectors>(given, codes, row);
}

// Tiles of weights in the order in which they are loaded: [steps over columns, one or two, 16 rows, 64 columns].
std::size_t words_of(std::size_t rows, std::size_t cols) {
  return round_up(rows, kTileRows) * round_up(cols, kTileBytes) / sizeof(std::int32_t);
}

void pack_block(const std::int8_t* weight, std::size_t rows, std::size_t cols, std::int32_t* words) {
  auto* to = reinterpret_cast<std::int8_t*>(words);
  for (std::size_t col = 0; col < cols; col += kTileBytes)
    for (std::size_t r = 0; r < round_up(rows, kTileRows); ++r)
      for (std::size_t k = col; k < col + kTileBytes; ++k) *to++ = r < rows && k < cols ? weight[r * cols + k] : 0;
}

}  // namespace

extern const Int8DenseKernel int8_dense_kernel;
const Int8DenseKernel int8_dense_kernel = {
    kBlockRows, words_of, pack_block, {multiply<1>, multiply<2>, multiply<3>, multiply<4>}};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
#endif
