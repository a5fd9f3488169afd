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

// y[rows, vectors] = a · x, in tiles of the dense kernel
void multiply(const DenseKernel& kernel, std::size_t rows, std::size_t vectors, DenseTile tile) {
  for (std::size_t row = 0; row < rows; row += kDenseRows) {
    const std::size_t count = std::min(kDenseRows, rows - row);
    DenseTile part = tile;
    part.a += row * tile.a_row;
    part.y += row * tile.y_stride;
    kernel.multiply[count - 1][vectors - 1](part);
  }
}

void attend(const Activations& qkv, const Job& job, std::size_t head_size, const Activations& out) {
  const DenseKernel& dense = dense_kernel(qkv.isa());
  const ElementwiseKernel& elementwise = elementwise_kernel(qkv.isa());
  const std::size_t hidden = out.features();
  const std::size_t lanes = qkv.lanes(), block = kDenseVectors * lanes;
  const std::size_t queries = job.end_query - job.first_query;
  const std::size_t query_stride = divide_up(queries, lanes) * lanes;
  const std::size_t key_stride = divide_up(job.tokens, lanes) * lanes;

  thread_local Buffer buffer;
  float* const q = buffer.at_least(head_size * (query_stride + 2 * key_stride + block) + job.tokens * block + block);
  float* const k = q + head_size * query_stride;
  float* const v = k + head_size * key_stride;
  float* const result = v + head_size * key_stride;
  float* const scores = result + head_size * block;
  float* const sums = scores + job.tokens * block;

  const std::size_t feature = job.head * head_size;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_size));
  gather(qkv, feature, head_size, job.first_token + job.first_query, queries, scale, q, query_stride);
  gather(qkv, hidden + feature, head_size, job.first_token, job.tokens, 1.0f, k, key_stride);
  gather(qkv, 2 * hidden + feature, head_size, job.first_token, job.tokens, 1.0f, v, key_stride);

  for (std::size_t query = 0; query < queries; query += block) {
    const std::size_t vectors = std::min(kDenseVectors, (query_stride - query) / lanes);
    const std::size_t stride = vectors * lanes;
    multiply(dense, job.tokens, vectors,
             {head_size, k, 1, key_stride, q + query, query_stride, scores, stride, false});
    elementwise.exponentials(scores, job.tokens, vectors, sums);
    multiply(dense, head_size, vectors, {job.tokens, v, key_stride, 1, scores, stride, result, stride, false});
    elementwise.divide(result, head_size, vectors, sums);
    const std::size_t first_token = job.first_token + job.first_query + query;
    for (std::size_t f = 0; f < head_size; ++f)
      for_each_stretch(out, feature + f, first_token, std::min(stride, queries - query),
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
