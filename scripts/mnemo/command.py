"""What all commands share: arguments, and errors that become one line on stderr and an exit code."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mnemo.errors import EXIT_BROKEN_PIPE, EXIT_DATA, EXIT_IO, EXIT_USAGE, CannotCreate, DataError, UsageError


def argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` as a type for argparse, which would else name the function where its ValueError has the reason."""

    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def expanded_path(text: str) -> Path:
    """The path with `~` or `~/` at its begin replaced by $HOME: a shell does not do it after `=`."""
    if not text.startswith("~"):
        return Path(text)
    if text[1:2] not in ("", "/"):
        raise ValueError(f"{text}: only ~ and ~/ mean a home folder here; write the path out (./{text})")
    if not os.environ.get("HOME"):
        raise ValueError(f"{text}: HOME is not set; write the path out")
    return Path(os.environ["HOME"], text[2:])


path_argument = argument(expanded_path)


def cache_folder() -> Path:
    """The root of all results: $MNEMO_CACHE, else ./cache."""
    return expanded_path(os.environ.get("MNEMO_CACHE") or "cache")


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """`parser.parse_args` that exits with 64, as all of mnemo does, on a usage error."""
    try:
        return parser.parse_args(argv)
    except SystemExit as stop:
        raise SystemExit(EXIT_USAGE if stop.code == 2 else stop.code) from None


def carry_out(
    parser: argparse.ArgumentParser, act: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None
) -> int:
    """Parses arguments and acts on them; the exit code, of usage errors and of what cannot be created too."""
    arguments = parse_arguments(parser, argv)
    try:
        return act(arguments) or 0
    except UsageError as error:
        return usage_error(str(error))
    except CannotCreate as error:
        complain(str(error))
        return error.code


def usage_error(message: str) -> int:
    """Prints a usage error and returns its exit code."""
    complain(f"{message} (--help shows how)")
    return EXIT_USAGE


def one_line(error: Exception) -> str:
    """What an error says, on one line: where, what was found, what to do."""
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else text
    return " ".join(line.strip() for line in text.splitlines())


def progress(items: Sequence[Any], doing: str) -> Iterator[Any]:
    """The items, and on a terminal a line on stderr that says how many are done; elsewhere nothing is said."""
    shown = sys.stderr is not None and sys.stderr.isatty()
    try:
        for count, item in enumerate(items):
            if shown:
                filled = 24 * count // len(items)
                print(f"\r{doing} [{'=' * filled:24}] {count} of {len(items)}", end="", file=sys.stderr, flush=True)
            yield item
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _as_given(error: UnicodeError) -> tuple[str | bytes, int]:
    """What a terminal's alphabet lacks: the bytes of a path (lone surrogates) as they came, all else escaped."""
    if isinstance(error, UnicodeEncodeError) and "\udc80" <= error.object[error.start] <= "\udcff":
        return os.fsencode(error.object[error.start]), error.start + 1
    error.end = error.start + 1
    return codecs.backslashreplace_errors(error)


class _Output(io.FileIO):
    """Standard output that remembers why it was not written: argparse passes over it."""

    failure: OSError | None = None

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def guarded(command: Callable[[], int]) -> int:
    """Runs a command; errors become one line on stderr and mnemo's exit codes: 65 corrupt data, 74 I/O.

    Lost output is an error too, but for a closed pipe: 141, and nothing is said. Ctrl-C ends without a traceback.
    """
    codecs.register_error("as_given", _as_given)
    for descriptor in range(3):  # a closed one would be the number of the next file that is opened
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
    output = _Output(1, "w", closefd=False)
    if sys.stdout is sys.__stdout__:
        encoding = sys.stdout.encoding if sys.stdout else "utf-8"
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(output), encoding, line_buffering=output.isatty())
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="as_given")
    code: Any = EXIT_IO
    failure = None
    try:
        code = command()
    except SystemExit as stop:  # --help, a usage error
        code = stop.code or 0
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except ValueError as error:
        complain(str(error))
        code = getattr(error, "code", EXIT_DATA)
    except OSError as error:
        failure = error
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    lost = output.failure
    if lost:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is tried again at exit
        if code == 0 or (failure and failure.filename is None):
            if lost.errno == errno.EPIPE:  # `| head` has seen enough
                return EXIT_BROKEN_PIPE
            failure, code = OSError(lost.errno, lost.strerror, "standard output"), EXIT_IO
    if failure:
        complain(f"{failure.filename or 'I/O'}: {failure.strerror or failure}")
    return code


def note(message: str) -> None:
    """What a user must know and need not mend: one line on stderr."""
    _say(f"note: {message}")


def complain(message: str) -> None:
    """An error: one line on stderr."""
    _say(f"error: {message}")


def fail_with(problems: Sequence[str]) -> None:
    """Complains of what could not be read while all else was done; DataError with the last where there is any."""
    for problem in problems[:-1]:
        complain(problem)
    if problems:
        raise DataError(problems[-1])


def _say(message: str) -> None:
    """One line on stderr, if there is one."""
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
