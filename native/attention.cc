#include "attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "dense.h"
#include "elementwise.h"
#include "parallel.h"

namespace pruneonce {
namespace {

// What one task computes: some queries of one head of one sequence.
struct Job {
  std::size_t first_token, tokens, head, first_query, end_query;
};

// Calls move(panel's float, place in the sequence, count) for each stretch of a feature's tokens that lies in one panel.
template <class Move>
void for_each_stretch(const Activations& activations, std::size_t feature, std::size_t first_token, std::size_t tokens,
                      Move move) {
  for (std::size_t done = 0; done < tokens;) {
    const std::size_t token = first_token + done;
    const Panel panel = activations.panel(token / activations.panel_tokens());
    const std::size_t place = token - panel.first_token;
    const std::size_t count = std::min(tokens - done, panel.tokens - place);
    move(panel.data + feature * panel.stride + place, done, count);
    done += count;
  }
}

// [rows, stride] ← features first ... of the sequence, times scale; zeros beyond the last token.
void gather(const Activations& from, std::size_t first_feature, std::size_t rows, std::size_t first_token,
            std::size_t tokens, float scale, float* to, std::size_t stride) {
  for (std::size_t r = 0; r < rows; ++r, to += stride) {
    for_each_stretch(from, first_feature + r, first_token, tokens,
                     [&](const float* panel, std::size_t place, std::size_t count) {
                       for (std::size_t i = 0; i < count; ++i) to[place + i] = panel[i] * scale;
                     });
    std::fill(to + tokens, to + stride, 0.0f);
  }
}

// [blocks, rows, kDenseRows] ← the same, so that the kernel reads the keys of a block one after the other.
void gather_blocks(const Activations& from, std::size_t first_feature, std::size_t rows, std::size_t first_token,
                   std::size_t tokens, float* to) {
  for (std::size_t r = 0; r < rows; ++r, to += kDenseRows)
    for_each_stretch(from, first_feature + r, first_token, tokens,
                     [&](const float* panel, std::size_t place, std::size_t count) {
                       float* block = to + place / kDenseRows * rows * kDenseRows;
                       for (std::size_t i = 0, in_block = place % kDenseRows; i < count; ++i) {
                         block[in_block] = panel[i];
                         if (++in_block == kDenseRows) {
                           in_block = 0;
                           block += rows * kDenseRows;
                         }
                       }
                     });
}

// y[rows, vectors] = a · x, in tiles of the dense kernel; a_block: from one tile's rows of a to the next one's
void multiply(const DenseKernel& kernel, std::size_t rows, std::size_t vectors, const DenseTile& tile,
              std::size_t a_block) {
  for (std::size_t row = 0; row < rows; row += kDenseRows) {
    const std::size_t count = std::min(kDenseRows, rows - row);
    DenseTile part = tile;
    part.a += row / kDenseRows * a_block;
    part.y += row * tile.y_stride;
    kernel.multiply[count - 1][vectors - 1](part);
  }
}

void attend(const Activations& qkv, const Job& job, std::size_t head_size, const Activations& out) {
  const DenseKernel& dense = dense_kernel(qkv.isa());
  const ElementwiseKernel& elementwise = elementwise_kernel(qkv.isa());
  const std::size_t hidden = out.features();
  const std::size_t lanes = qkv.lanes(), block = kDenseVectors * lanes;
  // One vector more than needed: values whose rows lie a power of two apart would fight for the same cache lines.
  const std::size_t value_stride = (divide_up(job.tokens, lanes) + 1) * lanes;
  const std::size_t key_block = head_size * kDenseRows;

  thread_local Buffer buffer;
  float* const keys = buffer.at_least(divide_up(job.tokens, kDenseRows) * key_block + head_size * (value_stride + 2 * block) +
                                      job.tokens * block + block);
  float* const values = keys + divide_up(job.tokens, kDenseRows) * key_block;
  float* const queries = values + head_size * value_stride;
  float* const result = queries + head_size * block;
  float* const scores = result + head_size * block;
  float* const sums = scores + job.tokens * block;

  const std::size_t feature = job.head * head_size;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_size));
  gather_blocks(qkv, hidden + feature, head_size, job.first_token, job.tokens, keys);
  gather(qkv, 2 * hidden + feature, head_size, job.first_token, job.tokens, 1.0f, values, value_stride);

  for (std::size_t query = job.first_query; query < job.end_query; query += block) {
    const std::size_t count = std::min(block, job.end_query - query);
    const std::size_t vectors = divide_up(count, lanes), stride = vectors * lanes;
    gather(qkv, feature, head_size, job.first_token + query, count, scale, queries, stride);
    multiply(dense, job.tokens, vectors, {head_size, keys, 1, kDenseRows, queries, stride, scores, stride, false},
             key_block);
    elementwise.exponentials(scores, job.tokens, vectors, sums);
    multiply(dense, head_size, vectors, {job.tokens, values, value_stride, 1, scores, stride, result, stride, false},
             kDenseRows * value_stride);
    elementwise.divide(result, head_size, vectors, sums);
    for (std::size_t f = 0; f < head_size; ++f)
      for_each_stretch(out, feature + f, job.first_token + query, count,
                       [&](float* panel, std::size_t place, std::size_t count) {
                         std::copy_n(result + f * stride + place, count, panel);
                       });
  }
}

}  // namespace

void attention(const Activations& qkv, std::span<const std::int64_t> starts, std::size_t heads, const Activations& out) {
  const std::size_t sequences = starts.size() - 1, head_size = out.features() / heads;
  // A few short sequences are cut further, so that every thread has something to do.
  const std::size_t parts = std::max<std::size_t>(1, divide_up(2 * num_threads(), std::max<std::size_t>(1, sequences * heads)));
  std::vector<Job> jobs;
  jobs.reserve(sequences * heads * parts);
  for (std::size_t s = 0; s < sequences; ++s) {
    const auto first = static_cast<std::size_t>(starts[s]), tokens = static_cast<std::size_t>(starts[s + 1]) - first;
    const std::size_t blocks = divide_up(tokens, kDenseVectors * qkv.lanes());
    for (std::size_t head = 0; head < heads; ++head)
      for (std::size_t p = 0; p < parts; ++p) {
        const std::size_t begin = part(blocks, parts, p) * kDenseVectors * qkv.lanes();
        const std::size_t end = std::min(tokens, part(blocks, parts, p + 1) * kDenseVectors * qkv.lanes());
        if (begin < end) jobs.push_back({first, tokens, head, begin, end});
      }
  }
  // The longest first: whoever starts a long one last is waited for.
  std::stable_sort(jobs.begin(), jobs.end(), [](const Job& a, const Job& b) {
    return a.tokens * (a.end_query - a.first_query) > b.tokens * (b.end_query - b.first_query);
  });
  parallel_for(jobs.size(), [&](std::size_t index) { attend(qkv, jobs[index], head_size, out); });
  clear_spare_lanes(out);
}

}  // namespace pruneonce
