// attuned: one thread owns the socket and the trackers of all live jobs; the store is written by
// Writer's thread, learning happens on the Learner's. README.md shows the data flow.
#pragma once

#include <functional>
#include <memory>

#include "agent/learner.h"
#include "agent/options.h"
#include "agent/paths.h"

namespace attune {

class Writer;

class Daemon {
 public:
  // Takes the state directory (StateLock), opens the store and binds the socket. `learner` makes
  // the one who learns, given the writer for its records; none: rules only. `reload` gives the
  // options anew when Reload is asked for. Throws OptionsError, StoreError or std::runtime_error
  // with one line for a person.
  Daemon(const Options& options, const Paths& paths,
         const std::function<std::unique_ptr<Learner>(Writer&)>& learner,
         std::function<Options()> reload);
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // Serves until Stop. Everything accepted by then is in the store when it returns true; false
  // where the store could not be written, after the log says so.
  bool Run();

  // Thread safe, and safe in a signal handler.
  void Stop();
  void Reload();

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace attune
