#include "rotary.h"

#include "parallel.h"

namespace pruneonce {

void rotate(const Activations& qkv, std::span<const std::int64_t> positions, std::size_t heads, const float* cosines,
            const float* sines) {
  const std::size_t hidden = qkv.features() / 3, head_size = hidden / heads, half = head_size / 2;
  parallel_for(qkv.panels(), [&](std::size_t index) {
    const Panel panel = qkv.panel(index);
    const std::size_t stride = panel.stride;
    // The panel's angles as its features lie, once for all heads.
    thread_local Buffer buffer;
    float* const cosine = buffer.at_least(2 * half * stride);
    float* const sine = cosine + half * stride;
    for (std::size_t t = 0; t < panel.tokens; ++t) {
      const std::size_t row = static_cast<std::size_t>(positions[panel.first_token + t]) * half;
      for (std::size_t f = 0; f < half; ++f) {
        cosine[f * stride + t] = cosines[row + f];
        sine[f * stride + t] = sines[row + f];
      }
    }
    for (std::size_t head = 0; head < 2 * heads; ++head) {  // the queries', then the keys'
      float* const first = panel.data + head * head_size * stride;
      float* const second = first + half * stride;
      for (std::size_t f = 0; f < half; ++f)
        for (std::size_t t = f * stride; t < f * stride + panel.tokens; ++t) {
          const float a = first[t], b = second[t];
          first[t] = a * cosine[t] - b * sine[t];
          second[t] = b * cosine[t] + a * sine[t];
        }
    }
  });
}

}  // namespace pruneonce
