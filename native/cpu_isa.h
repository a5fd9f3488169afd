// Which instruction sets the kernels were compiled for, which of them this processor has, and which one is used.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "isa.h"

namespace pruneonce {

const char* name_of(Isa isa);

// Compiled in, and supported by both processor and operating system. Never empty: scalar is always there.
std::vector<Isa> available_isas();

// `name`, else $PRUNEONCE_ISA, else the best available. Throws std::invalid_argument for an unknown name and for an
// instruction set that is not available.
Isa choose_isa(const std::optional<std::string>& name = std::nullopt);

}  // namespace pruneonce
