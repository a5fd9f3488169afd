// The instruction sets that kernels are written for. One more is a row here, a vec_*.h and a line of CMakeLists.txt.
#pragma once

#if defined(__x86_64__) || defined(__i386__)
// Also asks XGETBV whether the operating system saves the wide registers:
// https://gcc.gnu.org/git/?p=gcc.git;a=blob;f=gcc/common/config/i386/cpuinfo.h (avx_usable, avx512_usable).
#define PRUNEONCE_X86_HAS(feature) __builtin_cpu_supports(feature)
#else
#define PRUNEONCE_X86_HAS(feature) false
#endif

namespace pruneonce {

// Whether this processor multiplies bytes in tiles (AMX), and the system lets this process do so: it saves their 8 KiB
// of registers for those alone that ask.
bool may_use_tiles();

// Whether this 64-bit ARM processor adds up products of four bytes: signed ones (SDOT), and signed with unsigned ones
// (USDOT).
bool has_signed_dot_products();
bool has_mixed_dot_products();

}  // namespace pruneonce

// ROW(name, whether this processor has it if it is built), slowest first: a later one is preferred. The name is that of
// the namespace and of the line in CMakeLists.txt, which defines PRUNEONCE_BUILT_name: 1 where the compiler knows the
// instruction set.
#define PRUNEONCE_ISAS(ROW)                                                                                          \
  ROW(scalar, true)                                                                                                  \
  ROW(avx2, PRUNEONCE_X86_HAS("avx2") && PRUNEONCE_X86_HAS("fma"))                                                   \
  ROW(avx512, PRUNEONCE_X86_HAS("avx512f") && PRUNEONCE_X86_HAS("avx512vl") && PRUNEONCE_X86_HAS("avx512bw") &&      \
                  PRUNEONCE_X86_HAS("avx512dq"))                                                                     \
  ROW(avx512_vnni, PRUNEONCE_X86_HAS("avx512f") && PRUNEONCE_X86_HAS("avx512vl") && PRUNEONCE_X86_HAS("avx512bw") && \
                       PRUNEONCE_X86_HAS("avx512dq") && PRUNEONCE_X86_HAS("avx512vnni"))                             \
  ROW(amx, PRUNEONCE_X86_HAS("avx512f") && PRUNEONCE_X86_HAS("avx512vl") && PRUNEONCE_X86_HAS("avx512bw") &&         \
               PRUNEONCE_X86_HAS("avx512dq") && PRUNEONCE_X86_HAS("avx512vnni") && may_use_tiles())                  \
  ROW(neon, true)                                                                                                    \
  ROW(neon_dotprod, has_signed_dot_products())                                                                       \
  ROW(neon_i8mm, has_signed_dot_products() && has_mixed_dot_products())

namespace pruneonce {

#define PRUNEONCE_ENUMERATOR(name, available) name,
enum class Isa { PRUNEONCE_ISAS(PRUNEONCE_ENUMERATOR) };
#undef PRUNEONCE_ENUMERATOR

}  // namespace pruneonce
