#pragma once

namespace mnemo {

/// From now on INT, TERM, USR1, USR2, HUP and XCPU ask for a stop, those excepted that this process was started to ignore (nohup). The first one
/// says on standard error that the work is being saved. None of them cuts a save short but an INT more than a second after the first signal:
/// it ends the process at once with 130, and says what is lost. A limit of CPU time sends its XCPU while there is time to save.
/// `over_bar`: a progress bar may stand on the line. `silently`: says nothing, for a process whose parent does.
void stop_on_signals(bool over_bar, bool silently = false);
bool stop_signalled();
/// The first of them that came; 0: none.
int stop_signal();

}  // namespace mnemo
