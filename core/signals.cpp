#include "core/signals.h"

#include <csignal>
#include <initializer_list>
#include <unistd.h>

namespace mnemo {

namespace {

volatile std::sig_atomic_t received = 0;

void on_signal(int number) {
  if (received != 0) _exit(128 + number);
  received = number;
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) sigaction(number, &action, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is then an error of write()
  std::signal(SIGPIPE, SIG_IGN);
}

bool stop_signalled() { return received != 0; }

}  // namespace mnemo
