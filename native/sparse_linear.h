// A linear layer whose weights change from call to call and whose zeros stay: for training.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "pack.h"

namespace pruneonce {

// The pattern of W [rows, cols], packed for both directions. Values are the caller's: [nonzeros] in the order of the
// CSR. Rows of x [tokens, cols] and y [tokens, rows] are tokens, as training frameworks have them; a panel of tokens at
// a time is turned to feature-major in the caches.
class SparseLinear {
 public:
  // Throws std::invalid_argument where the CSR breaks a rule.
  SparseLinear(const Csr& csr, const Machine& machine);

  std::size_t rows() const { return pattern_->rows(); }
  std::size_t cols() const { return pattern_->cols(); }
  std::size_t nonzeros() const { return pattern_->nonzeros(); }
  Isa isa() const { return pattern_->isa(); }
  std::size_t bytes() const;

  // y = x · Wᵀ + bias; bias [rows] may be null. The same bits for any number of threads.
  void forward(const float* values, const float* bias, const float* x, std::size_t tokens, float* y) const;

  // dx = dy · W, dvalues = dyᵀ · x at the non-zeros, dbias = the sum of dy over tokens. Each may be null: then it is
  // not computed. Sums over tokens are added up per thread: their rounding depends on the number of threads, on nothing
  // else.
  void backward(const float* values, const float* x, const float* dy, std::size_t tokens, float* dx, float* dvalues,
                float* dbias) const;

 private:
  // Three orders of the same non-zeros, and how one finds the other:
  //
  //   CSR      row 0: a b c      row 1: d e           values, dvalues
  //   W        tile: d a b   tile: e c                stretch_[s], one per row and tile: its place in the CSR;
  //                                                   stretch_start_[s]: in W
  //   Wᵀ       tile: a d     tile: b c e              place_in_row_[i] of its row of W, which its offset tells: the
  //                                                   place in the CSR is row_ptr_[row] + place_in_row_[i]
  std::vector<std::int64_t> row_ptr_;         // [rows + 1]
  std::optional<PackedPattern> pattern_;      // of W
  std::optional<PackedPattern> transposed_;   // of Wᵀ
  std::vector<std::uint32_t> stretch_;        // [stretches]
  std::vector<std::uint32_t> stretch_start_;  // [stretches + 1]
  std::vector<std::uint16_t> place_in_row_;   // [nonzeros]

  void pack(const float* values, float* packed) const;
  void pack_transposed(const float* values, float* packed) const;
  void unpack(const float* sums, std::size_t count, std::size_t stride, float* dvalues) const;
};

}  // namespace pruneonce
