#include "csr.h"

#include <limits>

#include "refuse.h"

namespace pruneonce {
namespace {

constexpr std::size_t kMaxSide = std::numeric_limits<std::int32_t>::max();

}  // namespace

void check_count(std::size_t nonzeros, std::size_t values, const char* who) {
  using std::to_string;
  if (values != nonzeros)
    refuse(who, "col has " + to_string(nonzeros) + " entries but values has " + to_string(values));
}

void check(const Csr& csr, std::size_t values, const char* who) {
  using std::to_string;
  const std::size_t nonzeros = csr.col.size();
  if (csr.row_ptr.empty()) refuse(who, "row_ptr is empty; it needs one entry more than there are rows");
  if (csr.row_ptr.size() - 1 > kMaxSide || csr.cols > kMaxSide) refuse(who, "more than 2^31 - 1 rows or columns");
  check_count(nonzeros, values, who);
  if (csr.row_ptr.front() != 0) refuse(who, "row_ptr[0] is " + to_string(csr.row_ptr.front()) + ", expected 0");
  // Before any entry is used as an index: all of them lie between the first and the last.
  for (std::size_t r = 0; r + 1 < csr.row_ptr.size(); ++r)
    if (csr.row_ptr[r + 1] < csr.row_ptr[r])
      refuse(who, "row_ptr falls from " + to_string(csr.row_ptr[r]) + " to " + to_string(csr.row_ptr[r + 1]) +
                      " after row " + to_string(r));
  if (static_cast<std::uint64_t>(csr.row_ptr.back()) != nonzeros)
    refuse(who, "row_ptr ends with " + to_string(csr.row_ptr.back()) + " but there are " + to_string(nonzeros) +
                    " non-zeros");
  for (std::size_t r = 0; r + 1 < csr.row_ptr.size(); ++r) {
    std::int64_t previous = -1;
    for (std::int64_t i = csr.row_ptr[r]; i < csr.row_ptr[r + 1]; ++i) {
      const std::int64_t col = csr.col[i];
      if (col <= previous)
        refuse(who, "columns of row " + to_string(r) + " must be 0 or more and rise; " + to_string(col) +
                        (previous < 0 ? " comes first" : " follows " + to_string(previous)));
      if (static_cast<std::uint64_t>(col) >= csr.cols)
        refuse(who, "row " + to_string(r) + " has column " + to_string(col) + " of " + to_string(csr.cols));
      previous = col;
    }
  }
}

}  // namespace pruneonce
