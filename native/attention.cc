#include "attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention_jobs.h"
#include "dense.h"
#include "kernels.h"
#include "parallel.h"

namespace pruneonce {
namespace {

// A score that no query gives, but finite: the softmax of spare lanes may have nothing else.
constexpr float kUnseen = -1e30f;

// scores: [keys, stride], of keys from `begin` on; `count` queries from `first` on. Sets what lies outside of a query's
// window to `value`.
void fill_outside(float* scores, std::size_t stride, const Visible& keys, std::size_t first, std::size_t count,
                  std::size_t window, float value) {
  for (std::size_t key = keys.begin; key < keys.end; ++key, scores += stride) {
    if (key + window >= first + count - 1 && key <= first + window) continue;  // all of them see it
    for (std::size_t query = 0; query < stride; ++query) {
      const std::size_t at = first + query;
      if (key + window < at || at + window < key) scores[query] = value;
    }
  }
}

// scores, of all keys, += bias / scale, as they are scaled afterwards. line: space for what a row takes, one behind the
// other for all rows: [keys + stride].
void add_biases(float* scores, std::size_t stride, const Visible& keys, std::size_t first, const float* bias,
                std::size_t reach, float scale, float* line) {
  const std::size_t rows = keys.end - keys.begin;
  const auto limit = static_cast<std::ptrdiff_t>(reach);
  // line[i]: of the last key and the first query at 0; each further one is a query further, or a key nearer.
  const std::ptrdiff_t farthest = static_cast<std::ptrdiff_t>(keys.end) - 1 - static_cast<std::ptrdiff_t>(first);
  for (std::size_t i = 0; i < rows + stride - 1; ++i)
    line[i] = bias[std::clamp(farthest - static_cast<std::ptrdiff_t>(i), -limit, limit) + limit] / scale;
  for (std::size_t row = 0; row < rows; ++row, scores += stride) {
    const float* const added = line + (rows - 1 - row);
    for (std::size_t query = 0; query < stride; ++query) scores[query] += added[query];
  }
}

void attend(const Activations& qkv, const AttentionJob& job, std::size_t head_size, std::size_t window,
            const DistanceBias& bias, const LiveFeatures& live, const Activations& out) {
  const DenseKernel& dense = kernels(qkv.isa()).dense;
  const ElementwiseKernel& elementwise = kernels(qkv.isa()).elementwise;
  const std::size_t hidden = out.features(), feature = job.head * head_size;
  const std::size_t scored = live.scored ? live.scored[job.head] : head_size;
  const std::size_t mixed = live.mixed ? live.mixed[job.head] : head_size;
  const std::size_t lanes = qkv.lanes(), block = kDenseVectors * lanes;
  const Visible seen = visible_to(job.first_query, job.end_query, job.tokens, window);
  const std::size_t seen_tokens = seen.end - seen.begin;
  // One vector more than needed: rows that lie a power of two apart would fight for the same cache lines.
  const std::size_t value_stride = (divide_up(seen_tokens, lanes) + 1) * lanes;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_size));

  thread_local Buffer buffer;
  float* const values = buffer.at_least(head_size * (value_stride + block) + seen_tokens * (block + 1) + 2 * block);
  float* const result = values + head_size * value_stride;
  float* const scores = result + head_size * block;
  float* const sums = scores + seen_tokens * block;
  float* const line = sums + block;

  for_each_stretch(qkv, job.first_token, seen.begin, seen.end, [&](const Stretch& keys) {
    const float* from = keys.panel.data + (2 * hidden + feature) * keys.panel.stride + keys.place;
    for (std::size_t f = 0; f < mixed; ++f, from += keys.panel.stride)
      std::copy_n(from, keys.tokens, values + f * value_stride + keys.first - seen.begin);
  });

  for_each_stretch(qkv, job.first_token, job.first_query, job.end_query, [&](const Stretch& queries) {
    for (std::size_t query = 0; query < queries.tokens; query += block) {
      const std::size_t count = std::min(block, queries.tokens - query), first = queries.first + query;
      const std::size_t vectors = divide_up(count, lanes), stride = vectors * lanes;
      const Visible here = visible_to(first, first + count, job.tokens, window);
      const std::size_t here_tokens = here.end - here.begin;
      // May read lanes beyond the stretch, which belong to other tokens or features: their sums are not used.
      const float* const q = queries.panel.data + feature * queries.panel.stride + queries.place + query;
      for_each_stretch(qkv, job.first_token, here.begin, here.end, [&](const Stretch& keys) {
        const float* const k = keys.panel.data + (hidden + feature) * keys.panel.stride + keys.place;
        multiply_dense(dense, keys.tokens, vectors,
                       {scored, k, 1, keys.panel.stride, q, queries.panel.stride,
                        scores + (keys.first - here.begin) * stride, stride, false});
      });
      if (bias.values)
        add_biases(scores, stride, here, first, bias.values + job.head * (2 * bias.reach + 1), bias.reach, scale, line);
      if (window > 0) fill_outside(scores, stride, here, first, count, window, kUnseen);
      elementwise.exponentials(scores, here_tokens, vectors, scale, sums);
      if (window > 0) fill_outside(scores, stride, here, first, count, window, 0.0f);  // they are nearly so
      const Panel to = out.panel((job.first_token + queries.first) / out.panel_tokens());
      float* const there = to.data + feature * to.stride + queries.place + query;
      for (std::size_t f = mixed; f < head_size; ++f)
        std::copy_n(q + (2 * hidden + f) * queries.panel.stride, count, there + f * to.stride);
      const bool whole = count == stride;  // whole vectors of this stretch
      float* const y = whole ? there : result;
      const std::size_t y_stride = whole ? to.stride : stride;
      multiply_dense(
          dense, mixed, vectors,
          {here_tokens, values + here.begin - seen.begin, value_stride, 1, scores, stride, y, y_stride, false});
      elementwise.divide(y, mixed, y_stride, vectors, sums);
      if (whole) continue;
      for (std::size_t f = 0; f < mixed; ++f) std::copy_n(result + f * stride, count, there + f * to.stride);
    }
  });
}

}  // namespace

void attention(const Activations& qkv, std::span<const std::int64_t> starts, std::size_t heads, std::size_t window,
               const DistanceBias& bias, const LiveFeatures& live, const Activations& out) {
  const std::size_t head_size = out.features() / heads;
  const std::vector<AttentionJob> jobs = attention_jobs(starts, heads, kDenseVectors * qkv.lanes(), window);
  parallel_for(jobs.size(), [&](std::size_t index) { attend(qkv, jobs[index], head_size, window, bias, live, out); });
  clear_spare_lanes(out);
}

}  // namespace pruneonce
