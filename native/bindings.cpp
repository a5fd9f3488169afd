// The Python module. The bind_*.cpp check and convert arguments, and do nothing else.
#include <atomic>

#include "bind.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace pruneonce::python {
namespace {

bool ending = false;                 // read and written under the interpreter's lock
std::atomic<unsigned> computing{0};  // threads that have given it up

#if defined(__unix__) || defined(__APPLE__)
// A forked child has none of them.
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { computing = 0; });
#endif

void end() {
  ending = true;
  PyThreadState* const state = PyEval_SaveThread();
  for (unsigned threads = computing; threads != 0; threads = computing) computing.wait(threads);
  PyEval_RestoreThread(state);
}

}  // namespace

Computing::Computing() : state_(nullptr) {
  if (ending) return;
  ++computing;
  state_ = PyEval_SaveThread();
}

Computing::~Computing() {
  if (!state_) return;
  PyEval_RestoreThread(state_);
  if (--computing == 0) computing.notify_all();
}

void wait_at_exit() { nb::module_::import_("atexit").attr("register")(nb::cpp_function(&end)); }

}  // namespace pruneonce::python

NB_MODULE(_native, m) {
  using namespace pruneonce::python;
  m.doc() = "Kernels of the encoder. Activations are feature-major: [features, tokens], tokens contiguous.";
#ifdef NDEBUG
  nb::set_leak_warnings(false);  // what a program still holds at its end is the program's affair
#endif
  wait_at_exit();
  bind_machine(m);
  bind_encoder(m);
  bind_weights(m);
  bind_training(m);
}
