// How attention is shared out among threads, and where a sequence's tokens lie.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "activations.h"

namespace pruneonce {

// What one task computes: some queries of one head of one sequence.
struct AttentionJob {
  std::size_t first_token, tokens, head, first_query, end_query;
};

// The longest first: whoever starts a long one last is waited for. block: queries that are computed at once. The rest
// as in attention().
std::vector<AttentionJob> attention_jobs(std::span<const std::int64_t> starts, std::size_t heads, std::size_t block,
                                         std::size_t window);

// What queries first ... end - 1 see: keys begin ... end - 1. It begins at an even one, since the softmax adds up even
// and odd rows apart: what lies before a query's own window is zero, and must not change the order of its sum.
struct Visible {
  std::size_t begin, end;
};
Visible visible_to(std::size_t first, std::size_t end, std::size_t tokens, std::size_t window);

// A stretch of neighbouring tokens within one panel.
struct Stretch {
  Panel panel;
  std::size_t place;  // in the panel
  std::size_t first;  // in the sequence
  std::size_t tokens;
};

// The stretches of a sequence's tokens first ... end.
template <class Visit>
void for_each_stretch(const Activations& activations, std::size_t first_token, std::size_t first, std::size_t end,
                      Visit visit) {
  while (first < end) {
    const std::size_t token = first_token + first;
    const Panel panel = activations.panel(token / activations.panel_tokens());
    const std::size_t place = token - panel.first_token;
    const std::size_t tokens = std::min(end - first, panel.tokens - place);
    visit(Stretch{panel, place, first, tokens});
    first += tokens;
  }
}

}  // namespace pruneonce
