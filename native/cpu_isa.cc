#include "cpu_isa.h"

#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include "refuse.h"

namespace pruneonce {
namespace {

struct Row {
  Isa isa;
  const char* name;
  bool (*available)();
};

#define PRUNEONCE_ROW(name, available) {Isa::name, #name, [] { return PRUNEONCE_BUILT_##name && (available); }},
constexpr Row kRows[] = {PRUNEONCE_ISAS(PRUNEONCE_ROW)};
#undef PRUNEONCE_ROW

template <class Keep>
std::string names(Keep keep) {
  std::string joined;
  for (const Row& row : kRows)
    if (keep(row)) joined += (joined.empty() ? "" : ", ") + std::string(row.name);
  return joined;
}

Isa parse(const std::string& name, const std::string& origin) {
  for (const Row& row : kRows) {
    if (name != row.name) continue;
    if (row.available()) return row.isa;
    refuse("isa", origin + "'" + name + "' was asked for, but this processor or this build lacks it; available: " +
                      names([](const Row& other) { return other.available(); }));
  }
  refuse("isa", origin + "'" + name + "' is unknown; use one of: " + names([](const Row&) { return true; }));
}

}  // namespace

bool may_use_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  // https://docs.kernel.org/arch/x86/xstate.html: ARCH_REQ_XCOMP_PERM, for XFEATURE_XTILEDATA. Forked processes
  // inherit.
  static const bool granted = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kTiles = 1u << 24, kInt8 = 1u << 25;  // not all compilers know their names
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kTiles) != 0 && (d & kInt8) != 0 &&
           syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  }();
  return granted;
#else
  return false;
#endif
}

#if defined(__linux__) && defined(__aarch64__)
// https://docs.kernel.org/arch/arm64/elf_hwcaps.html: HWCAP_ASIMDDP and HWCAP2_I8MM, which older headers lack.
bool has_signed_dot_products() { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; }
bool has_mixed_dot_products() { return (getauxval(AT_HWCAP2) >> 13 & 1) != 0; }
#elif defined(__APPLE__) && defined(__aarch64__)
namespace {
bool has_feature(const char* name) {
  int value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
}  // namespace
bool has_signed_dot_products() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
bool has_mixed_dot_products() { return has_feature("hw.optional.arm.FEAT_I8MM"); }
#else
bool has_signed_dot_products() { return false; }
bool has_mixed_dot_products() { return false; }
#endif

const char* name_of(Isa isa) { return kRows[static_cast<std::size_t>(isa)].name; }

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Row& row : kRows)
    if (row.available()) isas.push_back(row.isa);
  return isas;
}

Isa choose_isa(const std::optional<std::string>& name) {
  if (name) return parse(*name, "");
  if (const char* forced = std::getenv("PRUNEONCE_ISA"); forced && *forced) return parse(forced, "PRUNEONCE_ISA=");
  return available_isas().back();
}

}  // namespace pruneonce
