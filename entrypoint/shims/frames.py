"""Cut an engine's traceback down to the user's frames, for the messages of ``beam.py`` and ``spark.py``.

Like ``call.py`` it stands alone: standard library only, Python 3.8 and later.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BEGIN = "Traceback (most recent call last):"
FRAME = '  File "'
_HERE = os.path.dirname(os.path.abspath(__file__))
_STANDARD = os.path.dirname(os.path.abspath(os.__file__))


def last_of(text: str) -> list[str]:
    """Return the lines of the last traceback in a text: that of the first cause's last handler, or of another process."""
    return text[text.rindex(BEGIN) :].splitlines()


def of(error: BaseException) -> list[str]:
    """Return the lines of an exception's own traceback, without those of its causes."""
    import traceback

    return last_of("".join(traceback.format_exception(type(error), error, error.__traceback__)))


def users(lines: list[str], is_engines: Callable[[str], bool]) -> list[str]:
    """Return the lines of a traceback without the engine's frames, ours, and the standard library's that these called.

    Args:
        lines: of one traceback.
        is_engines: returns whether a file is the engine's.
    """
    kept = []
    above, dropped = True, False  # whether the frame above, and whether this line, is not the user's
    for line in lines:
        if line.startswith(FRAME):
            file = line[len(FRAME) :].partition('"')[0]
            standard = file.startswith((_STANDARD + os.sep, "<frozen ")) and "-packages" not in file
            above = dropped = is_engines(file) or file.startswith(_HERE + os.sep) or (above and standard)
        elif not line.startswith("  "):
            dropped = False
        if not dropped:
            kept.append(line)
    return kept


def place(lines: list[str]) -> str:
    """Return where a traceback ends, as `` (file:line)``, or an empty string if it has no frames."""
    frames = [line for line in lines if line.startswith(FRAME)]
    if not frames:
        return ""
    file, _, rest = frames[-1][len(FRAME) :].partition('", line ')
    return " (%s:%s)" % (file, rest.partition(",")[0])
