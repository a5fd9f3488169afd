#include "cpu_isa.h"

#include <cstdlib>
#include <stdexcept>

namespace pruneonce {
namespace {

constexpr Isa kAll[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512_vnni};

// __builtin_cpu_supports also asks XGETBV whether the operating system saves the wide registers:
// https://gcc.gnu.org/git/?p=gcc.git;a=blob;f=gcc/common/config/i386/cpuinfo.h (avx_usable, avx512_usable).
bool is_available(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
#ifdef PRUNEONCE_HAS_AVX2
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
      return false;
#endif
    case Isa::avx512:
#ifdef PRUNEONCE_HAS_AVX512
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
#else
      return false;
#endif
    case Isa::avx512_vnni:
#ifdef PRUNEONCE_HAS_AVX512_VNNI
      return is_available(Isa::avx512) && __builtin_cpu_supports("avx512vnni");
#else
      return false;
#endif
  }
  return false;
}

template <class Isas>
std::string joined(const Isas& isas) {
  std::string names;
  for (Isa isa : isas) names += (names.empty() ? "" : ", ") + std::string(name_of(isa));
  return names;
}

Isa parse(const std::string& name, const std::string& origin) {
  for (Isa isa : kAll) {
    if (name != name_of(isa)) continue;
    if (is_available(isa)) return isa;
    throw std::invalid_argument("[isa] " + origin + "'" + name +
                                "' was asked for, but this processor or this build lacks it; available: " +
                                joined(available_isas()));
  }
  throw std::invalid_argument("[isa] " + origin + "'" + name + "' is unknown; use one of: " + joined(kAll));
}

}  // namespace

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_vnni:
      return "avx512_vnni";
  }
  return "?";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (Isa isa : kAll)
    if (is_available(isa)) isas.push_back(isa);
  return isas;
}

Isa choose_isa(const std::optional<std::string>& name) {
  if (name) return parse(*name, "");
  if (const char* forced = std::getenv("PRUNEONCE_ISA"); forced && *forced) return parse(forced, "PRUNEONCE_ISA=");
  return available_isas().back();
}

}  // namespace pruneonce
