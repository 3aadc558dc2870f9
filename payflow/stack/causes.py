"""Why a step failed, in a sentence with what to do: read from what a program printed, and from the disk.

Standard library only: the bootstrap runs before anything is installed.
"""

import os
import re
import signal
from pathlib import Path

from payflow.stack.errors import tail

MB = 2**20
# With less than this a server may end at any write, even before it could say why.
SHORT_MB = 48
# What MongoDB asks for before it builds an index (its `indexBuildMinAvailableDiskSpaceMB`).
INDEX_BUILD_MB = 500
ROOM_MB = 100

_SPACE = (
    r"No space left on device|ENOSPC|Errno 28\b|OutOfDiskSpace|available disk space of \d+ bytes"
    r"|Disk quota exceeded|EDQUOT"
)
_CAUSES = (
    (r"Read-only file system|EROFS", "The file system of {folder} is read-only: mount it writable."),
    (
        r"Cannot allocate memory|ENOMEM|MemoryError|heap out of memory",
        "This machine has too little memory: end other programs, or give it more.",
    ),
    (r"Too many open files|EMFILE", "Too many files are open: raise the limit (`ulimit -n 4096`)."),
    (
        r"Permission denied|EACCES",
        "A file or folder may not be used (permission denied): see the log, and correct its permissions.",
    ),
    (
        r"AuthenticationFailed|Authentication failed|WRONGPASS|NOAUTH",
        "A server refuses the user or the password: correct MONGODB_URI or REDIS_URL.",
    ),
    (
        r"ServerSelectionTimeoutError|Connection refused|ECONNREFUSED|Name or service not known",
        "A server does not answer: see that it runs, and that MONGODB_URI and REDIS_URL name it.",
    ),
)


def cause_of(text: str, folder: Path) -> str:
    """Returns the sentence for what `text` says, or for a full disk; empty where nothing known is found."""
    if re.search(_SPACE, text):
        return space_sentence(folder)
    for pattern, sentence in _CAUSES:
        if re.search(pattern, text):
            return sentence.format(folder=folder)
    return space_sentence(folder) if is_short(folder) else ""


def why(log: Path, folder: Path) -> str:
    """Returns the cause of a program's end, as far as it is known, and how its log ends."""
    end = tail(log)
    cause = cause_of(end, folder)
    shown = f"Its log {log} ends with:{end}" if end else f"Its log {log} is empty."
    return f"{cause} {shown}" if cause else shown


def space_sentence(folder: Path) -> str:
    """Says how little is free, how much is needed and that nothing is lost."""
    free = free_mb(folder)
    return (
        f"There is too little space left on the device: {'?' if free is None else free} MB are free in "
        f"{folder}. Make room ({INDEX_BUILD_MB + ROOM_MB} MB are enough to set PayFlow up), then run it "
        "again: it goes on where it stopped."
    )


def os_error_sentence(error: OSError, folder: Path) -> str:
    """Says what the system refused, where and why; for an error that no step has made a sentence of."""
    where = f" {error.filename}" if error.filename else ""
    reason = error.strerror or type(error).__name__
    cause = cause_of(f"Errno {error.errno} {reason}", folder)
    return f"A file or folder{where} cannot be used ({reason})." + (f" {cause}" if cause else "")


def first_start_mb(margin_mb: int) -> int:
    """Returns how much the first start needs: for MongoDB's indexes, and for PayFlow's own margin."""
    return max(INDEX_BUILD_MB, margin_mb) + ROOM_MB


def free_mb(folder: Path) -> int | None:
    """Returns how much is free for this user where the folder is, or will be; None where nobody can say."""
    for place in (folder, *folder.parents):
        try:
            status = os.statvfs(place)
        except OSError:
            continue
        return status.f_bavail * status.f_frsize // MB
    return None


def is_short(folder: Path) -> bool:
    """Says whether so little is free that a server may have ended because of it."""
    free = free_mb(folder)
    return free is not None and free < SHORT_MB


def ending(status: int | None) -> str:
    """Returns how a process ended: `by SIGKILL`, `with exit status 1`."""
    if status is None or status >= 0:
        return f"with exit status {status}"
    name = signal.Signals(-status).name
    return f"by {name}" + (", most likely because memory ran out" if name == "SIGKILL" else "")
