#include "kernels.h"

namespace pruneonce {

#define PRUNEONCE_DECLARE(name, available) \
  namespace name {                         \
  extern const Kernels kernels;            \
  }
PRUNEONCE_ISAS(PRUNEONCE_DECLARE)
#undef PRUNEONCE_DECLARE

const Kernels& kernels(Isa isa) {
#define PRUNEONCE_RETURN(name, available) \
  if constexpr (PRUNEONCE_BUILT_##name)   \
    if (isa == Isa::name) return name::kernels;
  PRUNEONCE_ISAS(PRUNEONCE_RETURN)
#undef PRUNEONCE_RETURN
  return scalar::kernels;  // not reached: what is not built cannot be chosen
}

}  // namespace pruneonce
