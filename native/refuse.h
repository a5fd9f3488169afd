// What callers get for arguments that break a rule.
#pragma once

#include <stdexcept>
#include <string>

namespace pruneonce {

[[noreturn]] inline void refuse(const std::string& who, const std::string& why) {
  throw std::invalid_argument("[" + who + "] " + why);
}

}  // namespace pruneonce
