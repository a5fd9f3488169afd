// Activations: feature-major, in panels of a few dozen tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>

#include "isa.h"
#include "parts.h"

namespace pruneonce {

// Vectors of tokens in a panel. Few enough that a long stretch of features fits the L1 cache, so that every sum stays
// in its registers for many weights; enough that loading a weight and its place is shared. docs/kernels.md has the
// figures.
constexpr std::size_t kPanelVectors = 4;

// Memory aligned to cache lines and vectors, which grows and is never given back before the end: fresh pages cost more
// than the work done in them.
class Buffer {
 public:
  float* at_least(std::size_t floats) {
    if (floats > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<float*>(::operator new(floats * sizeof(float), kAlignment)));
      size_ = floats;
      std::fill_n(memory_.get(), size_, 0.0f);
    }
    return memory_.get();
  }
  float* data() const { return memory_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<float, Free> memory_;
  std::size_t size_ = 0;
};

struct Panel {
  float* data;  // [features, stride]
  std::size_t first_token;
  std::size_t tokens;   // less than the stride in the last panel only
  std::size_t vectors;  // per feature
  std::size_t stride;   // floats per feature
};

// The shape of panel `index` of `tokens` tokens, without data.
Panel panel_of(std::size_t index, std::size_t tokens, Isa isa);

// [features, tokens]. All panels are `kPanelVectors` wide but the last, which has as many vectors as it needs. Lanes
// beyond the last token hold finite numbers that mean nothing.
class Activations {
 public:
  Activations(std::size_t features, Isa isa);

  // Keeps the memory if it suffices; the contents are then old or zero, but finite.
  void resize(std::size_t tokens);

  Isa isa() const { return isa_; }
  std::size_t features() const { return features_; }
  std::size_t tokens() const { return tokens_; }
  std::size_t lanes() const { return lanes_; }
  std::size_t panel_tokens() const { return kPanelVectors * lanes_; }
  std::size_t panels() const { return divide_up(tokens_, panel_tokens()); }
  Panel panel(std::size_t index) const {
    const std::size_t first = index * panel_tokens();
    const std::size_t tokens = std::min(panel_tokens(), tokens_ - first);
    const std::size_t vectors = divide_up(tokens, lanes_);
    return {buffer_.data() + first * features_, first, tokens, vectors, vectors * lanes_};
  }

 private:
  std::size_t features_;
  std::size_t tokens_ = 0;
  Isa isa_;
  std::size_t lanes_;
  Buffer buffer_;
};

// Zeros beyond the last token: what an earlier, longer content left must not grow from layer to layer.
void clear_spare_lanes(const Activations& activations);

// rows: [tokens, features] with `stride` floats from row to row.
void load_rows(const Activations& to, const float* rows, std::size_t stride);
void store_rows(const Activations& from, float* rows, std::size_t stride);

// to = from; as many features and tokens.
void copy(const Activations& from, const Activations& to);

// Keeps only some tokens, whose numbers rise.
void take(Activations& from, std::span<const std::int64_t> tokens);

}  // namespace pruneonce
