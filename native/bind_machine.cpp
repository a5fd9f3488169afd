// Of the machine: instruction sets, threads, memory.
#include "bind.h"
#include "granted_cores.h"
#include "memory.h"
#include "parallel.h"
#include "spmm.h"

namespace pruneonce::python {
namespace {

std::vector<std::string> names_of_available_isas() {
  std::vector<std::string> names;
  for (Isa isa : available_isas()) names.emplace_back(name_of(isa));
  return names;
}

}  // namespace

Machine machine_of(const char* who, const std::optional<std::string>& isa, const std::optional<std::size_t>& l1_bytes,
                   const std::optional<std::size_t>& threads) {
  Machine machine = this_machine(choose_isa(isa));
  if (l1_bytes) machine.l1_bytes = *l1_bytes;
  if (threads) machine.threads = *threads;
  if (machine.l1_bytes < kSmallestL1Bytes)
    refuse(who, "l1_bytes is " + to_string(machine.l1_bytes) + ", expected at least " + to_string(kSmallestL1Bytes));
  if (machine.threads < 1 || machine.threads > kMaxThreads)
    refuse(who, "threads is " + to_string(machine.threads) + ", expected 1 to " + to_string(kMaxThreads));
  return machine;
}

void bind_machine(nb::module_& m) {
  m.def("available_isas", &names_of_available_isas,
        "Instruction sets of this build that this processor has, fastest last.");
  m.def(
      "choose_isa", [](const std::optional<std::string>& isa) { return std::string(name_of(choose_isa(isa))); },
      "isa"_a = nb::none(),
      "The instruction set in use: `isa`, else $PRUNEONCE_ISA, else the fastest available.\n\n"
      "ValueError if it is unknown, or this processor lacks it.");
  m.def("num_threads", &num_threads,
        "Threads in use, the calling one included. At first $PRUNEONCE_THREADS, else `granted_cores()`.\n\n"
        "ValueError if the variable is no number of 1 to 1024.");
  m.def("set_num_threads", &set_num_threads, "count"_a,
        "Use `count` threads, the calling one included, from the next call on. Callers at once share them.");
  m.def(
      "granted_cores", &granted_cores,
      "Processors this process may keep busy: its affinity, or fewer by the quotas of its control groups, rounded up.");
  m.def("quota_cores", &quota_cores, "groups"_a = "/proc/self/cgroup", "root"_a = "/sys/fs/cgroup",
        "Processors that control groups of version 1 or 2 grant, rounded up; 0 where they set no limit.");
  m.def("l1_bytes", &l1_bytes, "Of a core's data cache on this machine, which tiles follow.");
  m.def(
      "borrow_threads",
      [](std::uintptr_t gomp_parallel) { borrow_threads(reinterpret_cast<OpenMpParallel>(gomp_parallel)); },
      "gomp_parallel"_a,
      "Compute on the threads of an OpenMP library from now on: the address of its GOMP_parallel; 0: on our own "
      "again.");
  m.def("keep_freed_memory", &keep_freed_memory,
        "Keep freed memory in the process: for loops that allocate the same large arrays again and again. For glibc.");
  m.def(
      "run_multiply_adds",
      [](std::size_t iterations, const std::optional<std::string>& isa) {
        const Isa chosen = choose_isa(isa);
        const Computing computing;
        return run_multiply_adds(chosen, iterations);
      },
      "iterations"_a, nb::kw_only(), "isa"_a = nb::none(),
      "Multiply and add on registers alone, on every thread; returns the floating point operations done.\n\n"
      "Timed, it gives the processor's peak, against which the kernels are measured.");
}

}  // namespace pruneonce::python
