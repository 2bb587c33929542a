"""What a run prints: on a terminal, off it, with --progress and NO_COLOR; and the help."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import threading
from pathlib import Path

import pytest
from engine import BINARY, DONE, STOPPED, USAGE, call, environment, make_place

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
    line = r"info step \d+/10000000 \(0%\)  \d+ steps/s  loss \d\.\d+  top-10 accuracy .*left"
    assert re.search(line, stopped.stderr)


def test_on_a_terminal_there_is_a_live_bar(tmp_path: Path) -> None:
    code, text = call_on_terminal(make_place(tmp_path, 30000).command())
    assert code == DONE
    bars = re.findall(r"\r\x1b\[K([█·]{24} [^\r]*)", text)
    assert len(bars) >= 2, text
    assert re.match(r"[█·]{24} +\d+%  \d+/30000 ", bars[-1])
    assert "loss 0." in bars[-1] and "steps/s" in text
    assert all(len(bar) < 80 for bar in bars)
    assert not TIMED.search(text)
    assert text.rstrip().splitlines()[-1].startswith("next:")
    assert RED not in text  # nothing to worry about


def test_dumb_terminal_gets_lines(tmp_path: Path) -> None:
    code, text = call_on_terminal(make_place(tmp_path, 40).command(), TERM="dumb")
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
    command = make_place(tmp_path, 1500).command("--progress", "bar")
    done = subprocess.run(command, capture_output=True, env=environment(), timeout=60)
    assert done.returncode == DONE and re.search(r"\r\x1b\[K[█·]{24} ", done.stderr.decode())


def test_output_that_nobody_reads(tmp_path: Path) -> None:
    """`mnemo train ... | head -0` and closed streams: the run goes on."""
    place = make_place(tmp_path, 40)
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(place.command(), stdout=writing, stderr=writing, env=environment(), timeout=60)
    os.close(writing)
    assert process.returncode == DONE
    assert place.status()["state"] == "done"


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
