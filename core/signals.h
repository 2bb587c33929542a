#pragma once

namespace mnemo {

/// From now on INT, TERM, USR1, USR2, HUP and XCPU ask for a stop, except those that the process was started to ignore (nohup). The first signal says
/// on standard error that the work is being saved. Only an INT more than a second after it cuts the save short: the process ends at once with 130 and
/// says what is lost. XCPU comes early enough before a limit of CPU time to save. `over_bar`: a progress bar may be on the line.
/// `silently`: says nothing, for a process whose parent does.
void stop_on_signals(bool over_bar, bool silently = false);
bool stop_signalled();
/// The first of them that came; 0: none.
int stop_signal();

}  // namespace mnemo
