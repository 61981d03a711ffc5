"""A record as the one line that outlives the container: on stderr, and in the termination log."""

from __future__ import annotations

import os

from backends import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LAST_WORDS = 4096  # bytes: what Kubernetes keeps of a termination message
TERMINATION_LOG = "/dev/termination-log"


def last_words(record: Mapping[str, Any]) -> str:
    """Return a record as one line of JSON of at most 4096 bytes, and leave the same in the termination log where there is one."""
    words = {name: record[name] for name in ("version", "run", "step", "attempt", "class", "exit_code", "message")}
    for name in ("status", "signal", "seconds", "host", "cached_from", "traceback", "log_tail"):
        if record.get(name) not in (None, ""):
            words[name] = record[name]
    line = wire.dumps(words)
    # What people need most goes last: the tail of the log is cut first, then a traceback's beginning, then the message's middle.
    for name in ("log_tail", "traceback", "message"):
        while len(line) >= LAST_WORDS and words.get(name):
            text = str(words[name])
            keep = max(0, len(text) - max(1, (len(line) - LAST_WORDS + 8) // 6 + 1))
            middle_cut = text[: keep * 2 // 3] + "…" + text[len(text) - keep // 3 :]
            words[name] = middle_cut if name == "message" else text[len(text) - keep :]
            if keep == 0:
                del words[name]
            line = wire.dumps(words)
    path = os.environ.get("ZEN_RUNNER_TERMINATION_LOG", TERMINATION_LOG)
    try:  # never through a link, never waiting for a reader
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)
    except OSError:
        pass
    return line + "\n"
