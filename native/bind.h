// What the bind_*.cpp share: arrays, checks, and when the interpreter's lock is given up.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <optional>
#include <string>

#include "activations.h"
#include "cpu_isa.h"
#include "machine.h"
#include "refuse.h"

namespace pruneonce::python {

namespace nb = nanobind;
using namespace nb::literals;
using std::to_string;

template <class Scalar, std::size_t dimensions>
using Array = nb::ndarray<Scalar, nb::numpy, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using Vector = Array<const float, 1>;
using Matrix = Array<const float, 2>;

// While it lives, other Python threads run. Not so once Python has begun to end: a thread that then waited for the lock
// would be killed within our functions, and the process with it. What was begun before is waited for (wait_at_exit).
class Computing {
 public:
  Computing();
  ~Computing();
  Computing(const Computing&) = delete;
  Computing& operator=(const Computing&) = delete;

 private:
  PyThreadState* state_;  // null: the lock is kept
};
void wait_at_exit();

// What is not given is this machine's.
Machine machine_of(const char* who, const std::optional<std::string>& isa, const std::optional<std::size_t>& l1_bytes,
                   const std::optional<std::size_t>& threads);

template <class Entries>
void require_length(const char* who, const char* name, const Entries& entries, std::size_t length) {
  if (entries.shape(0) != length)
    refuse(who, std::string(name) + " has " + to_string(entries.shape(0)) + " entries, expected " + to_string(length));
}
template <class Entries>
void require_length(const char* who, const char* name, const std::optional<Entries>& entries, std::size_t length) {
  if (entries) require_length(who, name, *entries, length);
}

inline const float* data_of(const std::optional<Vector>& vector) { return vector ? vector->data() : nullptr; }

template <class Object>
std::string isa_name(const Object& object) {
  return name_of(object.isa());
}

// By subject. Order of registration is that of _native.pyi.
void bind_machine(nb::module_& m);   // instruction sets, threads, memory
void bind_encoder(nb::module_& m);   // activations and what is done with them
void bind_weights(nb::module_& m);   // matrices, packed
void bind_training(nb::module_& m);  // layers and attention with gradients

}  // namespace pruneonce::python
