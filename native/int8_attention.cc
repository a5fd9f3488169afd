#include "int8_attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "attention_jobs.h"
#include "kernels.h"
#include "parallel.h"

namespace pruneonce {
namespace {

// Memory of a thread for one job, which grows and stays.
struct Space {
  Buffer floats, words, codes;

  std::int32_t* words_at_least(std::size_t count) { return reinterpret_cast<std::int32_t*>(words.at_least(count)); }
  std::uint8_t* codes_at_least(std::size_t count) {
    return reinterpret_cast<std::uint8_t*>(codes.at_least(divide_up(count, sizeof(float))));
  }
};

Code code_of(const CodeScale& scale) { return {1.0f / scale.scale, scale.zero_point}; }

// y of any number of rows, in blocks of the kernel; two of four are faster than one of six and one of two.
void multiply(const Int8AttentionKernel& kernel, std::size_t rows, std::size_t vectors, Int8Product product) {
  for (std::size_t left = rows; left > 0;) {
    const std::size_t count =
        left > kInt8AttentionRows && left < 2 * kInt8AttentionRows ? left / 2 : std::min(left, kInt8AttentionRows);
    kernel.multiply[count - 1][vectors - 1](product);
    product.value += count * product.row;
    if (product.start) product.start += count;
    product.y += count * product.y_stride;
    left -= count;
  }
}

// scored: features of queries and keys that count.
void attend(const Activations& qkv, const AttentionJob& job, std::size_t head_size, std::size_t scored,
            const Int8AttentionScales& scales, const Activations& out) {
  const Int8AttentionKernel& kernel = kernels(qkv.isa()).int8_attention;
  const std::size_t words = kernels(qkv.isa()).int8.words_per_four, code_bytes = kernels(qkv.isa()).int8.code_bytes;
  const std::int32_t centre = kernels(qkv.isa()).int8.code_centre;
  const std::size_t hidden = out.features(), feature = job.head * head_size;
  const std::size_t lanes = qkv.lanes(), block = kInt8AttentionVectors * lanes, panel = 4 * lanes;
  const std::size_t fours = divide_up(scored, 4), key_fours = divide_up(job.tokens, 4);
  // One vector more than needed: rows that lie a power of two apart would fight for the same cache lines.
  const std::size_t key_stride = (divide_up(job.tokens, lanes) + 1) * lanes;
  const std::size_t value_stride = (divide_up(job.tokens, panel) + 1) * lanes;
  const float scale = scales.query.scale * scales.key.scale / std::sqrt(static_cast<float>(head_size));

  thread_local Space space;
  float* const scores = space.floats.at_least(job.tokens * block + head_size * block + 2 * block);
  float* const result = scores + job.tokens * block;
  float* const sums = result + head_size * block;
  float* const factors = sums + block;
  std::int32_t* const keys =
      space.words_at_least(words * (fours * key_stride + head_size * value_stride) + key_stride + head_size);
  std::int32_t* const values = keys + words * fours * key_stride;
  std::int32_t* const starts = values + words * head_size * value_stride;
  std::int32_t* const value_starts = starts + key_stride;
  const std::size_t query_bytes = fours * kInt8AttentionVectors * code_bytes;
  const std::size_t probability_bytes = key_fours * kInt8AttentionVectors * code_bytes;
  const std::size_t value_bytes = 4 * value_stride;  // of a feature
  std::uint8_t* const query_codes = space.codes_at_least(query_bytes + probability_bytes + head_size * value_bytes);
  std::uint8_t* const probabilities = query_codes + query_bytes;
  std::uint8_t* const value_codes = probabilities + probability_bytes;

  // Stretches in order: each is coded in whole vectors, and what is too much is written over by the next.
  for_each_stretch(qkv, job.first_token, 0, job.tokens, [&](const Stretch& stretch) {
    const std::size_t stride = stretch.panel.stride, vectors = divide_up(stretch.tokens, lanes);
    const float* const from = stretch.panel.data + (hidden + feature) * stride + stretch.place;
    kernel.code_keys(from, scored, stride, vectors, code_of(scales.key), keys + stretch.first, key_stride,
                     starts + stretch.first);
    kernel.code_values(from + hidden * stride, head_size, stride, vectors, code_of(scales.value),
                       value_codes + stretch.first, value_bytes);
  });
  for (std::size_t f = 0; f < head_size; ++f) {
    const std::uint8_t* const codes = value_codes + f * value_bytes;
    kernel.value_words(codes, key_fours, values + f * words * value_stride, value_stride);
    if (centre != 0)
      value_starts[f] =
          centre * std::accumulate(codes, codes + 4 * key_fours, -512 * static_cast<std::int32_t>(key_fours));
  }
  // What the queries' zero point adds too much. That of the keys adds the same to all scores of a query: no weight
  // changes, and it is left out.
  for (std::size_t key = 0; key < job.tokens; ++key) starts[key] *= centre - scales.query.zero_point;

  for_each_stretch(qkv, job.first_token, job.first_query, job.end_query, [&](const Stretch& queries) {
    const std::size_t count = queries.tokens, vectors = divide_up(count, lanes), stride = vectors * lanes;
    // May read lanes beyond the stretch, which belong to other tokens or features: their sums are not used.
    kernel.code_queries(queries.panel.data + feature * queries.panel.stride + queries.place, scored,
                        queries.panel.stride, vectors, code_of(scales.query), query_codes);
    multiply(kernel, job.tokens, vectors,
             {fours, keys, 1, words * key_stride, key_stride, query_codes, starts, nullptr, 0.0f, scores, stride});
    kernel.code_probabilities(scores, job.tokens, vectors, scale, probabilities, sums);
    for (std::size_t i = 0; i < stride; ++i) factors[i] = scales.value.scale / sums[i];
    const Panel to = out.panel((job.first_token + queries.first) / out.panel_tokens());
    float* const there = to.data + feature * to.stride + queries.place;
    const bool whole = count == stride;  // whole vectors of this stretch
    multiply(
        kernel, head_size, vectors,
        {key_fours, values, words * value_stride, 1, value_stride, probabilities, centre != 0 ? value_starts : nullptr,
         factors, static_cast<float>(128 - scales.value.zero_point) * scales.value.scale, whole ? there : result,
         whole ? to.stride : stride});
    if (whole) return;
    for (std::size_t f = 0; f < head_size; ++f) std::copy_n(result + f * stride, count, there + f * to.stride);
  });
}

}  // namespace

void int8_attention(const Activations& qkv, std::span<const std::int64_t> starts, std::size_t heads,
                    const Int8AttentionScales& scales, const std::int64_t* scored, const Activations& out) {
  const std::size_t head_size = out.features() / heads;
  const std::vector<AttentionJob> jobs = attention_jobs(starts, heads, kInt8AttentionVectors * qkv.lanes(), 0);
  parallel_for(jobs.size(), [&](std::size_t index) {
    const AttentionJob& job = jobs[index];
    attend(qkv, job, head_size, scored ? scored[job.head] : head_size, scales, out);
  });
  clear_spare_lanes(out);
}

}  // namespace pruneonce
