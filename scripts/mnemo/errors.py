"""What goes wrong for a reason that a user can mend, and the exit codes of all commands (core/error.h has the same)."""

from __future__ import annotations

EXIT_USAGE, EXIT_DATA, EXIT_CANNOT_CREATE, EXIT_IO, EXIT_STOPPED, EXIT_CONFIG = 64, 65, 73, 74, 75, 78
EXIT_BROKEN_PIPE = 141


class MnemoError(ValueError):
    """What a user can mend. The message is one line: where, what was found, what to do; `code` is the exit code."""

    code: int


class DataError(MnemoError):
    """Data that cannot be what they should be."""

    code = EXIT_DATA


class UsageError(MnemoError):
    """A request that cannot be met: an option, a name or a path that does not fit."""

    code = EXIT_USAGE


class CannotCreate(MnemoError):
    """A result that cannot be made here: it exists, or a package is missing."""

    code = EXIT_CANNOT_CREATE


def not_installed(package: str, why: str) -> CannotCreate:
    """The error where a package is missing; `why` says what needs it, up to `... is not installed here`."""
    return CannotCreate(
        f"{why} is not installed here: pip install {package}, or let MNEMO_PYTHON name a Python that has it"
    )


def require(condition: bool, message: str) -> None:
    """Raises DataError unless the condition holds."""
    if not condition:
        raise DataError(message)
