#include "cpu_isa.h"

#include <cstdlib>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
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
  static const bool granted = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return granted;
#else
  return false;
#endif
}

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
