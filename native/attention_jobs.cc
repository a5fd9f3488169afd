#include "attention_jobs.h"

#include "parallel.h"

namespace pruneonce {
namespace {

// Of a sequence within windows, at once: the values that they see then stay in the L2 cache.
constexpr std::size_t kWindowedQueries = 512;

std::size_t work(const AttentionJob& job, std::size_t window) {
  const Visible keys = visible_to(job.first_query, job.end_query, job.tokens, window);
  return (keys.end - keys.begin) * (job.end_query - job.first_query);
}

}  // namespace

std::vector<AttentionJob> attention_jobs(std::span<const std::int64_t> starts, std::size_t heads, std::size_t block,
                                         std::size_t window) {
  const std::size_t sequences = starts.size() - 1;
  // A few short sequences are cut further, so that every thread has something to do.
  const std::size_t least =
      std::max<std::size_t>(1, divide_up(2 * num_threads(), std::max<std::size_t>(1, sequences * heads)));
  std::vector<AttentionJob> jobs;
  jobs.reserve(sequences * heads * least);
  for (std::size_t s = 0; s < sequences; ++s) {
    const auto first = static_cast<std::size_t>(starts[s]), tokens = static_cast<std::size_t>(starts[s + 1]) - first;
    const std::size_t blocks = divide_up(tokens, block);
    const std::size_t parts = std::max(least, window > 0 ? divide_up(tokens, kWindowedQueries) : 1);
    for (std::size_t head = 0; head < heads; ++head)
      for (std::size_t p = 0; p < parts; ++p) {
        const std::size_t begin = part(blocks, parts, p) * block;
        const std::size_t end = std::min(tokens, part(blocks, parts, p + 1) * block);
        if (begin < end) jobs.push_back({first, tokens, head, begin, end});
      }
  }
  std::stable_sort(jobs.begin(), jobs.end(), [window](const AttentionJob& a, const AttentionJob& b) {
    return work(a, window) > work(b, window);
  });
  return jobs;
}

Visible visible_to(std::size_t first, std::size_t end, std::size_t tokens, std::size_t window) {
  if (window == 0) return {0, tokens};
  const std::size_t begin = first > window ? first - window : 0;
  return {begin - begin % 2, std::min(tokens, end + window)};
}

}  // namespace pruneonce
