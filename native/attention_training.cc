#include "attention_training.h"

#include <algorithm>

#include "activations.h"
#include "dense.h"
#include "kernels.h"
#include "parallel.h"

namespace pruneonce {
namespace {

// Rows of one head of one sequence.
struct Head {
  std::size_t first, tokens, stride;  // in floats: of the first row, from row to row
};

template <class Visit>
void for_each_head(const AttentionShape& shape, Visit visit) {
  const std::size_t stride = shape.heads * shape.head_size;
  parallel_for(shape.sequences * shape.heads, [&](std::size_t task) {
    const std::size_t sequence = task / shape.heads, head = task % shape.heads;
    visit(Head{sequence * shape.tokens * stride + head * shape.head_size,
               static_cast<std::size_t>(shape.lengths[sequence]), stride});
  });
}

// Products of any size by the kernels of an instruction set.
struct Products {
  const Kernels& kernels;
  std::size_t lanes;

  explicit Products(Isa isa) : kernels(pruneonce::kernels(isa)), lanes(kernels.lanes) {}

  std::size_t queries() const { return kPanelVectors * lanes; }

  // y[rows, columns] (+)= a[rows, depth] · x[depth, columns]; columns: a multiple of the lanes
  void multiply(std::size_t rows, std::size_t columns, const DenseTile& whole) const {
    for (std::size_t column = 0; column < columns;) {
      const std::size_t vectors = std::min(kDenseVectors, (columns - column) / lanes);
      DenseTile tile = whole;
      tile.x += column;
      tile.y += column;
      multiply_dense(kernels.dense, rows, vectors, tile);
      column += vectors * lanes;
    }
  }
};

void copy_rows(const float* from, std::size_t stride, std::size_t rows, std::size_t columns, float* to) {
  for (std::size_t r = 0; r < rows; ++r) std::copy_n(from + r * stride, columns, to + r * columns);
}

void clear_rows(float* rows, std::size_t stride, std::size_t first, std::size_t end, std::size_t columns) {
  for (std::size_t r = first; r < end; ++r) std::fill_n(rows + r * stride, columns, 0.0f);
}

// Of a panel of queries, turned to feature-major: probabilities [keys, queries]. k: [keys, head_size]
void probabilities(const Products& products, std::size_t keys, std::size_t head_size, const float* k,
                   const float* queries, std::size_t vectors, float scale, float* p, float* sums) {
  const std::size_t width = vectors * products.lanes;
  products.multiply(keys, width, {head_size, k, head_size, 1, queries, width, p, width, false});
  products.kernels.elementwise.exponentials(p, keys, vectors, scale, sums);
  products.kernels.elementwise.divide(p, keys, width, vectors, sums);
}

thread_local Buffer buffer;

}  // namespace

void attend(Isa isa, const AttentionShape& shape, const float* q, const float* k, const float* v, float scale,
            float* out) {
  const Products products(isa);
  const std::size_t size = shape.head_size, block = products.queries();
  for_each_head(shape, [&](const Head& head) {
    // Copies of this head's rows lie together: in the arrays they fight for the same cache lines.
    float* const keys = buffer.at_least(2 * head.tokens * size + size * block + head.tokens * block + block);
    float* const values = keys + head.tokens * size;
    float* const queries = values + head.tokens * size;
    float* const p = queries + size * block;
    float* const sums = p + head.tokens * block;
    copy_rows(k + head.first, head.stride, head.tokens, size, keys);
    copy_rows(v + head.first, head.stride, head.tokens, size, values);
    for (std::size_t query = 0; query < head.tokens; query += block) {
      const std::size_t count = std::min(block, head.tokens - query), vectors = divide_up(count, products.lanes);
      const std::size_t width = vectors * products.lanes, first = head.first + query * head.stride;
      products.kernels.sparse_linear.load_panel(q + first, head.stride, count, size, vectors, queries);
      probabilities(products, head.tokens, size, keys, queries, vectors, scale, p, sums);
      products.multiply(count, size, {head.tokens, p, 1, width, values, size, out + first, head.stride, false});
    }
    clear_rows(out + head.first, head.stride, head.tokens, shape.tokens, size);
  });
}

void attend_backward(Isa isa, const AttentionShape& shape, const float* q, const float* k, const float* v, float scale,
                     const float* dout, float* dq, float* dk, float* dv) {
  const Products products(isa);
  const std::size_t size = shape.head_size, block = products.queries();
  for_each_head(shape, [&](const Head& head) {
    const std::size_t tokens = head.tokens;
    float* const keys = buffer.at_least(2 * tokens * size + 4 * block * size + 2 * tokens * block + block);
    float* const values = keys + tokens * size;
    float* const q_rows = values + tokens * size;
    float* const dout_rows = q_rows + block * size;
    float* const q_panel = dout_rows + block * size;
    float* const dout_panel = q_panel + block * size;
    float* const p = dout_panel + block * size;
    float* const ds = p + tokens * block;
    float* const sums = ds + tokens * block;
    copy_rows(k + head.first, head.stride, tokens, size, keys);
    copy_rows(v + head.first, head.stride, tokens, size, values);
    for (std::size_t query = 0; query < tokens; query += block) {
      const std::size_t count = std::min(block, tokens - query), vectors = divide_up(count, products.lanes);
      const std::size_t width = vectors * products.lanes, first = head.first + query * head.stride;
      const bool add = query > 0;
      copy_rows(q + first, head.stride, count, size, q_rows);
      copy_rows(dout + first, head.stride, count, size, dout_rows);
      products.kernels.sparse_linear.load_panel(q_rows, size, count, size, vectors, q_panel);
      products.kernels.sparse_linear.load_panel(dout_rows, size, count, size, vectors, dout_panel);
      probabilities(products, tokens, size, keys, q_panel, vectors, scale, p, sums);
      products.multiply(tokens, size, {count, p, width, 1, dout_rows, size, dv + head.first, head.stride, add});
      products.multiply(tokens, width, {size, values, size, 1, dout_panel, width, ds, width, false});
      products.kernels.elementwise.softmax_gradient(p, tokens, vectors, scale, ds);
      products.multiply(tokens, size, {count, ds, width, 1, q_rows, size, dk + head.first, head.stride, add});
      products.multiply(count, size, {tokens, ds, 1, width, keys, size, dq + first, head.stride, false});
    }
    for (float* const gradient : {dq, dk, dv})
      clear_rows(gradient + head.first, head.stride, tokens, shape.tokens, size);
  });
}

}  // namespace pruneonce
