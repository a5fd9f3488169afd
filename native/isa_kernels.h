// Every kernel is a table of functions, compiled once per instruction set.
#pragma once

#include "cpu_isa.h"

#define PRUNEONCE_DECLARE_KERNEL(Table, name) \
  namespace scalar {                          \
  extern const Table name;                    \
  }                                           \
  namespace avx2 {                            \
  extern const Table name;                    \
  }                                           \
  namespace avx512 {                          \
  extern const Table name;                    \
  }                                           \
  namespace avx512_vnni {                     \
  extern const Table name;                    \
  }

#ifdef PRUNEONCE_HAS_AVX2
#define PRUNEONCE_IF_AVX2(x) x
#else
#define PRUNEONCE_IF_AVX2(x)
#endif
#ifdef PRUNEONCE_HAS_AVX512
#define PRUNEONCE_IF_AVX512(x) x
#else
#define PRUNEONCE_IF_AVX512(x)
#endif
#ifdef PRUNEONCE_HAS_AVX512_VNNI
#define PRUNEONCE_IF_AVX512_VNNI(x) x
#else
#define PRUNEONCE_IF_AVX512_VNNI(x)
#endif

// Instruction sets that this build leaves out cannot be chosen (choose_isa), so their cases are not needed.
#define PRUNEONCE_RETURN_KERNEL(isa, name)                                      \
  switch (isa) {                                                                \
    PRUNEONCE_IF_AVX512_VNNI(case Isa::avx512_vnni : return avx512_vnni::name;) \
    PRUNEONCE_IF_AVX512(case Isa::avx512 : return avx512::name;)                \
    PRUNEONCE_IF_AVX2(case Isa::avx2 : return avx2::name;)                      \
    default:                                                                    \
      return scalar::name;                                                      \
  }
