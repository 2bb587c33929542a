"""What a run prints: on a terminal, off it, with --progress and NO_COLOR; and the help."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine import (
    BINARY,
    CONFIG,
    DONE,
    IO,
    REPOSITORY,
    STOPPED,
    USAGE,
    Place,
    assert_whole,
    call,
    environment,
    make_place,
    start,
)

ESCAPE = "\x1b"
TIMED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (info|warning|error) .+")
RED = "\x1b[31m"


def call_on_terminal(command: list[str], **changes: str) -> tuple[int, str]:
    """Runs a command whose output goes to a pseudo-terminal: its exit code and what a user sees."""
    master, slave = pty.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(master, 65536):
                chunks.append(chunk)
        except OSError:  # EIO: the other side is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        code = subprocess.run(command, stdin=slave, stdout=slave, stderr=slave, env=environment(**changes), timeout=60)
    finally:
        os.close(slave)
        reader.join(timeout=10)
        os.close(master)
    return code.returncode, b"".join(chunks).decode()


def test_off_a_terminal_every_line_has_its_time(tmp_path: Path) -> None:
    place = make_place(tmp_path, 40)
    done = place.train()
    assert done.returncode == DONE
    lines = done.stderr.splitlines()
    assert len(lines) >= 6  # what it trains, and five events
    assert all(TIMED.fullmatch(line) for line in lines)
    assert ESCAPE not in done.stderr + done.stdout and "\r" not in done.stderr
    assert "ceiling" in done.stdout
    assert done.stdout.splitlines()[-2:] == [f"results: {place.run}", f"next:    {BINARY} plot {place.run}"]
    log = (place.run / "log.txt").read_text().splitlines()
    assert all(TIMED.fullmatch(line) for line in log)


@pytest.mark.slow
def test_off_a_terminal_a_line_every_ten_seconds(tmp_path: Path) -> None:
    place = make_place(tmp_path, 10_000_000)
    stopped = place.train("--max-hours", str(12 / 3600))
    assert stopped.returncode == STOPPED
    line = r"info step \d+/10000000 \(\d%\)  \d+ steps/s  loss \d\.\d+  top-10 accuracy .*left"
    assert re.search(line, stopped.stderr)


def endless(place: Place, *arguments: str) -> list[str]:
    """A run that two seconds end, whatever the speed of the machine: a speed is shown after half a second."""
    return place.command("--max-hours", str(2 / 3600), *arguments)


def test_on_a_terminal_there_is_a_live_bar(tmp_path: Path) -> None:
    code, text = call_on_terminal(endless(make_place(tmp_path, 10_000_000)))
    assert code == STOPPED
    bars = re.findall(r"\r\x1b\[K([█·]{24} [^\r]*)", text)
    assert len(bars) >= 2, text
    assert re.match(r"[█·]{24} +\d+%  \d+/10000000 ", bars[-1])
    assert "steps/s" in bars[-1]
    assert "loss 0." in bars[0]
    assert all(len(bar) < 80 for bar in bars)
    assert not TIMED.search(text)
    assert RED not in text  # nothing to worry about


def test_on_a_terminal_the_last_line_says_what_next(tmp_path: Path) -> None:
    code, text = call_on_terminal(make_place(tmp_path, 40).command())
    assert code == DONE and text.rstrip().splitlines()[-1].startswith("next:")


@pytest.mark.parametrize("name", ["dumb", ""])
def test_terminal_without_cursor_control_gets_lines(tmp_path: Path, name: str) -> None:
    code, text = call_on_terminal(make_place(tmp_path, 40).command(), TERM=name)
    assert code == DONE and ESCAPE not in text and TIMED.search(text)


def test_no_color(tmp_path: Path) -> None:
    place = make_place(tmp_path, 40)
    assert place.train().returncode == DONE
    for changes, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)):
        code, text = call_on_terminal(place.command("train.lr=1", "run=tiny"), **changes)
        assert code == 78 and "error: " in text
        assert (RED in text) == coloured


def test_progress_none_says_only_what_was_learned(tmp_path: Path) -> None:
    place = make_place(tmp_path, 40)
    done = place.train("--progress", "none")
    assert done.returncode == DONE
    assert done.stderr == ""
    assert "ceiling" in done.stdout and done.stdout.splitlines()[-1].startswith("next:")
    assert (place.run / "log.txt").read_text().count("\n") >= 6  # the log file is whole
    refused = place.train("--progress", "none", "train.lr=1", "run=tiny")
    assert refused.returncode == 78 and "train.lr: 0.01 -> 1" in refused.stderr


def test_progress_plain_on_a_terminal(tmp_path: Path) -> None:
    code, text = call_on_terminal(make_place(tmp_path, 1500).command("--progress", "plain"))
    assert code == DONE and "█" not in text and f"{ESCAPE}[K" not in text


def test_progress_bar_off_a_terminal(tmp_path: Path) -> None:
    command = endless(make_place(tmp_path, 10_000_000), "--progress", "bar")
    done = subprocess.run(command, capture_output=True, env=environment(), timeout=60)
    assert done.returncode == STOPPED and re.search(r"\r\x1b\[K[█·]{24} ", done.stderr.decode())


def start_on_terminal(command: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """On a pseudo-terminal that controls it, as in a shell; and the other side."""
    master, slave = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment(), preexec_fn=take_terminal
    )
    os.close(slave)
    return process, master


def read_terminal(master: int, until: bytes = b"") -> bytes:
    text = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while not until or until not in text:
            text += os.read(master, 65536)
    return text


def test_ctrl_c_leaves_the_bar_whole(tmp_path: Path) -> None:
    process, master = start_on_terminal(make_place(tmp_path, 10_000_000).command())
    text = read_terminal(master, until=b" steps/s ")
    os.write(master, b"\x03")
    text += read_terminal(master)
    os.close(master)
    assert process.wait(timeout=30) == STOPPED
    assert b"\r\x1b[Kstopping: this step is finished and saved" in text
    shown = [line.rpartition("\x1b[K")[2] for line in text.decode().split("\n")]
    assert not any("stopping" in line and "steps/s" in line for line in shown), shown


def test_a_terminal_that_goes_away_stops_the_run(tmp_path: Path) -> None:
    place = make_place(tmp_path, 10_000_000)
    process, master = start_on_terminal(place.command())
    read_terminal(master, until=b" steps/s ")
    os.close(master)  # HUP; what is printed from here on fails
    assert process.wait(timeout=30) == STOPPED
    assert place.status()["state"] == "stopped"


# Output that cannot be written ----------------------------------------------------------------------------------------

FULL = "No space left on device"


@contextlib.contextmanager
def closed_pipe() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def test_a_run_goes_on_when_nobody_reads(tmp_path: Path) -> None:
    """`mnemo train ... | head -0`, full disks and closed streams: the run goes on, and its exit code stands."""
    with closed_pipe() as pipe, open("/dev/full", "wb") as full:
        for k, output in enumerate((pipe, full)):
            place = make_place(tmp_path / str(k), 40)
            process = subprocess.run(place.command(), stdout=output, stderr=output, env=environment(), timeout=60)
            assert process.returncode == DONE
            assert place.status()["state"] == "done"
    place = make_place(tmp_path / "closed", 40)
    process = subprocess.run(f"{shlex.join(place.command())} >&- 2>&- <&-", shell=True, env=environment(), timeout=60)
    assert process.returncode == DONE
    assert_whole(place.run)  # no message has gone into a file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = make_place(tmp_path_factory.mktemp("run"), 40)
    settings = ("output.pickle=numpy", "output.epoch_steps=20", "train.log_every=20", "run=tiny")
    assert place.train(*settings).returncode == DONE
    return place.run


COMMANDS = [
    "--help", "--version", "train --help", "train {config} --dry-run", "config {config}", "config --fields",
    "theory {config} --json", "doctor", "evaluate {run}", "export {run}",
    "bench one_layer --config C --seconds 0.001 --warmup 0 --rounds 1 --json",
    "show {run}", "show {run} --csv -", "show --help", "compare {run}", "plot {run} --output {out}",
    "export --check {run}", "report {run} --output {out}", "export {run} --tensorboard {out}",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_lost_output_is_an_error(command: str, run: Path, tmp_path: Path) -> None:
    config = run / "config.yaml"
    words = [str(BINARY), *command.format(run=run, config=config, out=tmp_path / "x.png").split()]
    options = {"stderr": subprocess.PIPE, "text": True, "timeout": 60}
    for unbuffered in ("", "1"):  # of Python
        environ = environment(PYTHONUNBUFFERED=unbuffered)
        with open("/dev/full", "wb") as full:
            lost = subprocess.run(words, stdout=full, env=environ, **options)
        assert lost.returncode == IO
        assert re.fullmatch(rf".*standard output: .*{FULL}\n", lost.stderr), lost.stderr
        with closed_pipe() as pipe:
            quiet = subprocess.run(words, stdout=pipe, env=environ, **options)
        assert quiet.returncode in (128 + signal.SIGPIPE, -signal.SIGPIPE)
        assert quiet.stderr == ""
    closed = subprocess.run(f"{shlex.join(words)} >&-", shell=True, env=environment(), **options)
    assert closed.returncode == IO
    assert re.fullmatch(r".*standard output: .*Bad file descriptor\n", closed.stderr), closed.stderr


def test_a_closed_pipe_is_quiet_where_sigpipe_is_ignored(run: Path) -> None:
    for command in ("config", "show"):
        words = [str(BINARY), command, str(run / "config.yaml" if command == "config" else run)]
        with closed_pipe() as pipe:
            quiet = subprocess.run(
                words, stdout=pipe, stderr=subprocess.PIPE, restore_signals=False, env=environment(), timeout=60
            )
        assert (quiet.returncode, quiet.stderr) == (128 + signal.SIGPIPE, b"")


def test_errors_count_where_stderr_is_full() -> None:
    with open("/dev/full", "wb") as full:
        for arguments, code in ((["config", "none"], CONFIG), (["fly"], USAGE), (["show", "none"], IO)):
            assert subprocess.run([BINARY, *arguments], stderr=full, env=environment(), timeout=60).returncode == code


# Signals to commands that are no runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command",
    [
        "bench one_layer --config A --seconds 60",
        "theory {config} data.num_sequences=30000000",
        "evaluate {run} --sequences {many} --out {out}",
    ],
)
def test_the_first_signal_ends_every_other_command(
    command: str, number: signal.Signals, run: Path, tmp_path: Path
) -> None:
    many, out = tmp_path / "many.npy", tmp_path / "out"
    if "{many}" in command:
        np.save(many, np.random.default_rng(0).integers(0, 2, (5_000_000, 8), np.uint8))
    words = command.format(config=run / "config.yaml", run=run, many=many, out=out).split()
    process = start([str(BINARY), *words])
    time.sleep(0.7)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert time.monotonic() - began < 1
    assert process.returncode == -number  # 128 + number in a shell
    assert not out.exists()


def test_a_script_ends_without_a_traceback(run: Path) -> None:
    script = f"import sys, time; sys.path.insert(0, {str(REPOSITORY / 'scripts')!r}); import mnemo_io\n"
    script += "mnemo_io.guarded(lambda: print('ready', flush=True) or time.sleep(60))"
    process = start([sys.executable, "-c", script])
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (-signal.SIGINT, "")


def test_a_duration_is_a_positive_number() -> None:
    for seconds in ("nan", "inf", "-1", "0", "x"):
        refused = call([str(BINARY), "bench", "one_layer", "--seconds", seconds])
        assert refused.returncode == USAGE and "--seconds" in refused.stderr


def test_every_command_has_help_with_an_example() -> None:
    top = call([str(BINARY), "--help"])
    assert top.returncode == DONE and "Example" in top.stdout
    listed = top.stdout[top.stdout.index("Subcommands") :]
    commands = re.findall(r"^  ([a-z]+) ", listed, re.MULTILINE)
    assert {"train", "evaluate", "config", "theory", "doctor"} <= set(commands)
    for command in commands:
        shown = call([str(BINARY), command, "--help"])
        assert shown.returncode == DONE, command
        assert re.search(r"[Ee]xamples?:", shown.stdout), command


def test_usage_errors() -> None:
    for arguments in ([], ["fly"], ["train"], ["train", "x.yaml", "--progress", "loud"]):
        refused = call([str(BINARY), *arguments])
        assert refused.returncode == USAGE, arguments
        assert "--help" in refused.stderr
