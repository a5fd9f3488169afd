// Compiled once per instruction set: see spmm_kernel.cc.
#include "dense_kernel.h"

#include PRUNEONCE_VEC

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {
namespace {

constexpr std::size_t lanes = Vec::lanes;

template <std::size_t rows, std::size_t vectors>
void multiply(const DenseTile& tile) {
  Vec sum[rows][vectors];
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t v = 0; v < vectors; ++v)
      sum[r][v] = tile.add ? Vec::load(tile.y + r * tile.y_stride + v * lanes) : Vec::broadcast(0.0f);
  const float* a = tile.a;
  const float* x = tile.x;
  for (std::size_t k = 0; k < tile.depth; ++k, a += tile.a_depth, x += tile.x_stride) {
    Vec column[vectors];
    for (std::size_t v = 0; v < vectors; ++v) column[v] = Vec::load(x + v * lanes);
    for (std::size_t r = 0; r < rows; ++r) {
      const Vec weight = Vec::broadcast(a[r * tile.a_row]);
      for (std::size_t v = 0; v < vectors; ++v) sum[r][v] = Vec::multiply_add(weight, column[v], sum[r][v]);
    }
  }
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t v = 0; v < vectors; ++v) sum[r][v].store(tile.y + r * tile.y_stride + v * lanes);
}

}  // namespace

extern const DenseKernel dense_kernel;
const DenseKernel dense_kernel = {{{multiply<1, 1>, multiply<1, 2>},
                                   {multiply<2, 1>, multiply<2, 2>},
                                   {multiply<3, 1>, multiply<3, 2>},
                                   {multiply<4, 1>, multiply<4, 2>},
                                   {multiply<5, 1>, multiply<5, 2>},
                                   {multiply<6, 1>, multiply<6, 2>}}};

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE
