"""Arrays that are made from files once and kept beside, for as long as the content of those files stays what it was.

    arrays = kept.arrays(Path("cache/processed_data/a.npz"), {"loss": Path("run/loss.npy")}, "mean", make)

What is kept holds a digest of all that determines it: the contents of the files, their names, and a text (`salt`) for
options and code. Since hashing a gigabyte takes a second, a digest is taken over where size, inode and times of every
file are unchanged. The time of a file's last change (ctime) follows every write and cannot be set; only a write within
the tick of the clock at which the digest was made could hide behind it, so a digest made so soon is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnemo.files import write_atomically

SETTLED_NS = 2_000_000_000  # a file whose last change is this much older than a look at it cannot change unseen
BLOCK = 1 << 20


def code_digest(sources: Iterable[str]) -> str:
    """A digest of program texts: what other code made is made again."""
    return hashlib.blake2b(b"\0".join(Path(source).read_bytes() for source in sources), digest_size=16).hexdigest()


def fingerprint(files: Mapping[str, Path], salt: str, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What determines a result.

    Parameters
    ----------
    files
        By the names that they have for whoever reads them; one that is missing counts as missing.
    salt
        All else.
    known
        An earlier fingerprint, whose digest holds where no file was touched since.

    Returns
    -------
    dict
        {"digest", "salt", "files": {name: [size, inode, mtime, ctime]}, "seen": when it was looked at}; times in ns.
    """
    found = {"salt": salt, "seen": time.time_ns(), "files": _looks(files)}
    if known and is_settled(known) and known.get("salt") == salt and known.get("files") == found["files"]:
        return {**known}
    digest = hashlib.blake2b(salt.encode(), digest_size=16)
    for name, path in files.items():
        digest.update(f"\0{name}\0{(found['files'][name] or ['missing'])[0]}\0".encode("utf-8", "surrogateescape"))
        if found["files"][name]:
            with open(path, "rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
    return {**found, "digest": digest.hexdigest()}


def _looks(files: Mapping[str, Path]) -> dict[str, list[int] | None]:
    return {name: _look(path) for name, path in files.items()}


def _look(path: Path) -> list[int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def is_settled(known: Mapping[str, Any]) -> bool:
    """Whether every file had been left alone for a while when it was looked at."""
    changes = [look[-1] for look in known["files"].values() if look]
    return known["seen"] - max(changes, default=0) > SETTLED_NS


def arrays(
    kept: Path, files: Mapping[str, Path], salt: str, make: Callable[[], dict[str, np.ndarray]], fresh: bool = False
) -> dict[str, np.ndarray]:
    """What `make` makes of some files, or what it made of the same content before.

    Parameters
    ----------
    kept
        An .npz file; one that is broken is made again, one that cannot be written is no error.
    files, salt
        See `fingerprint`.
    fresh
        Makes it in any case.
    """
    known, result = _read(kept)
    found = fingerprint(files, salt, known)
    if fresh or known is None or known.get("digest") != found["digest"]:
        result = make()
        if _looks(files) != found["files"]:
            return result  # a run went on while it was read: nobody knows what the result is of
    elif known == found:
        return result
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        text = np.frombuffer(json.dumps(found).encode(), np.uint8)
        write_atomically(kept, lambda file: np.savez(file, **result, fingerprint=text))
    return result


def _read(kept: Path) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
    try:
        with np.load(kept, allow_pickle=False) as content:
            result = dict(content)
        known = json.loads(result.pop("fingerprint").tobytes())
        return (known, result) if _is_fingerprint(known) else (None, {})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, SyntaxError):
        return None, {}


def _is_fingerprint(known: Any) -> bool:
    return isinstance(known, dict) and isinstance(known.get("files"), dict) and isinstance(known.get("seen"), int)


def folder(
    target: Path, files: Mapping[str, Path], salt: str, make: Callable[[Path], Any], fresh: bool = False
) -> Path:
    """As `arrays`, a folder that `make(target)` creates; returns it. Its parent is for it and its fingerprint alone."""
    kept, note = target.parent, target.with_name("fingerprint.json")
    known = _read_note(note) if target.is_dir() else None
    found = fingerprint(files, salt, known)
    if fresh or known is None or known.get("digest") != found["digest"]:
        shutil.rmtree(kept, ignore_errors=True)
        make(target)
    elif known == found:
        return target
    write_atomically(note, lambda file: file.write(json.dumps(found).encode()))
    return target


def outputs(note: Path, written: Sequence[Path], salt: str, make: Callable[[], Any], fresh: bool = False) -> None:
    """Calls `make()`, which writes some files, unless it wrote them before from the same `salt`, and nobody did since.

    note
        The file that remembers it.
    """
    names = {str(path.resolve()): path for path in written}
    known = _read_note(note)
    looks = _looks(names)
    if not fresh and known and known.get("salt") == salt and known["files"] == looks and None not in looks.values():
        return
    make()
    found = {"salt": salt, "seen": time.time_ns(), "files": _looks(names)}
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, lambda file: file.write(json.dumps(found).encode()))


def _read_note(note: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return None
    return known if _is_fingerprint(known) else None
