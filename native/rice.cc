#include "rice.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace pruneonce {
namespace {

// The lowest bit first.
class BitReader {
 public:
  explicit BitReader(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  // Zeros before the next one, which is read too; -1 where none is left.
  std::int64_t zeros() {
    std::int64_t count = 0;
    while (word_ == 0) {
      count += left_;
      if (!refill()) return -1;
    }
    const int here = std::countr_zero(word_);
    skip(here + 1);
    return count + here;
  }

  // -1 where too few bits are left.
  std::int64_t take(unsigned bits) {
    std::uint64_t result = 0;
    for (unsigned have = 0; have < bits;) {
      if (left_ == 0 && !refill()) return -1;
      const unsigned now = std::min(bits - have, static_cast<unsigned>(left_));
      result |= (word_ & ((std::uint64_t{1} << now) - 1)) << have;
      skip(static_cast<int>(now));
      have += now;
    }
    return static_cast<std::int64_t>(result);
  }

 private:
  bool refill() {
    word_ = 0;
    left_ = 0;
    if constexpr (std::endian::native == std::endian::little)
      if (bytes_.size() - next_ >= sizeof word_) {
        std::memcpy(&word_, bytes_.data() + next_, sizeof word_);
        next_ += sizeof word_;
        left_ = 64;
        return true;
      }
    for (; left_ < 64 && next_ < bytes_.size(); left_ += 8) word_ |= std::uint64_t{bytes_[next_++]} << left_;
    return left_ > 0;
  }
  void skip(int bits) {
    word_ = bits < 64 ? word_ >> bits : 0;
    left_ -= bits;
  }

  std::span<const std::uint8_t> bytes_;
  std::size_t next_ = 0;
  std::uint64_t word_ = 0;
  int left_ = 0;
};

// Calls `found(position)` for each; the number of elements covered, or -1.
template <class Found>
std::int64_t for_each_position(std::span<const std::uint8_t> data, unsigned bits, std::size_t count, Found found) {
  const std::size_t split = (count * bits + 7) / 8;
  if (bits > 8 || data.size() < split) return -1;
  BitReader remainders(data.first(split)), quotients(data.subspan(split));
  std::int64_t next = 0;  // first position that may come
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t quotient = quotients.zeros(), remainder = remainders.take(bits);
    if (quotient < 0 || remainder < 0) return -1;
    next += (quotient << bits) + remainder;
    if (next > std::numeric_limits<std::int32_t>::max()) return -1;
    found(static_cast<std::int32_t>(next++));
  }
  return next;
}

}  // namespace

bool decode_rice(std::span<const std::uint8_t> data, unsigned bits, std::span<std::int32_t> positions) {
  std::int32_t* to = positions.data();
  return for_each_position(data, bits, positions.size(), [&](std::int32_t position) { *to++ = position; }) >= 0;
}

std::int64_t rice_extent(std::span<const std::uint8_t> data, unsigned bits, std::size_t count) {
  return for_each_position(data, bits, count, [](std::int32_t) {});
}

}  // namespace pruneonce
