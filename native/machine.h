// What packing takes from the machine that it packs for.
#pragma once

#include <cstddef>

#include "isa.h"

namespace pruneonce {

struct Machine {
  Isa isa;
  std::size_t l1_bytes;  // of a core's data cache
  std::size_t threads;   // that share a product out among themselves
};

// L1 caches that packing knows what to do with: a few columns of a panel must fit.
constexpr std::size_t kSmallestL1Bytes = 1024;

std::size_t l1_bytes();  // of this machine

// This machine, as its threads are set now.
Machine this_machine(Isa isa);

}  // namespace pruneonce
