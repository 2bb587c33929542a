#pragma once

namespace mnemo {

/// SIGINT, SIGTERM and SIGUSR1 ask for a stop; a second one ends the process at once with 128 + its number.
void install_signal_handlers();
bool stop_signalled();

}  // namespace mnemo
