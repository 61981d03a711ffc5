"""The exit table: every way a step can end, in one place.

The container's exit status, the retry rules and each platform's own failure policy are all read from ``TABLE``.
The codes from 64 to 78 are those of BSD's ``sysexits.h``, 124 is what ``timeout(1)`` uses, 126 and 127 are POSIX shell's, and 137
and 143 are 128 plus the signal's number.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SUCCESS = "success"
USER = "user"
USAGE = "usage"
INPUT = "input"
INFRA = "infra"
DUPLICATE = "duplicate"
PLACEMENT = "placement"
CONFIG = "config"
TIMEOUT = "timeout"
OOM = "oom"
TERMINATED = "terminated"


class Row:
    """One line of the exit table.

    Args:
        code: the process's exit status, 0 to 255.
        name: the class, as records and ``retry.on`` spell it.
        retry: ``yes`` (by default), ``ask`` (only where ``retry.on`` names the class) or ``never`` (even if asked).
        meaning: one sentence for people.
    """

    __slots__ = ("code", "meaning", "name", "retry")

    def __init__(self, code: int, name: str, retry: str, meaning: str) -> None:
        self.code = code
        self.name = name
        self.retry = retry
        self.meaning = meaning


TABLE: tuple[Row, ...] = (
    Row(0, SUCCESS, "never", "the step finished and its outputs are published"),
    Row(1, USER, "ask", "the step's own failure; any status outside this table counts as this too"),
    Row(64, USAGE, "never", "bad command line"),
    Row(65, INPUT, "never", "an input artifact is missing or its digest differs"),
    Row(69, INFRA, "yes", "the store or a platform's API could not be reached after its own retries"),
    Row(73, DUPLICATE, "never", "another live attempt holds this step's claim"),
    Row(76, PLACEMENT, "never", "what the step needs is not in this container: GPU, driver, memory, JVM, Beam"),
    Row(78, CONFIG, "never", "the config is wrong"),
    Row(124, TIMEOUT, "ask", "the step ran past its timeout"),
    Row(126, USER, "never", "the step's program is not executable"),
    Row(127, USER, "never", "the step's program was not found"),
    Row(137, OOM, "ask", "the cgroup's out-of-memory killer took the step"),
    Row(143, TERMINATED, "yes", "SIGTERM: preempted or cancelled"),
)

_BY_CODE = {row.code: row for row in TABLE}
_BY_NAME: dict[str, Row] = {}
for _row in TABLE:
    _BY_NAME.setdefault(_row.name, _row)

RETRIED_BY_DEFAULT: tuple[str, ...] = tuple(row.name for row in TABLE if row.retry == "yes")
RETRIABLE: tuple[str, ...] = tuple(dict.fromkeys(row.name for row in TABLE if row.retry != "never"))


def code_of(name: str) -> int:
    """Return the exit status of a class, e.g. 78 for ``config``."""
    return _BY_NAME[name].code


def row_of(code: int) -> Row:
    """Return the table's row for an exit status; a status outside the table is the step's own, so ``user``."""
    return _BY_CODE.get(code) or _BY_NAME[USER]


def own_status(status: int) -> int:
    """Return what the container exits with when the step itself ended with ``status``.

    A step's own status passes through, unless it would read as one of the table's classes: then it is 1. 0, 1, 126 and 127 mean
    the same on both sides.
    """
    if status in (0, 1, 126, 127):
        return status
    return 1 if status in _BY_CODE else status


def is_retried(name: str, code: int, on: Iterable[str]) -> bool:
    """Return whether a step that ended in class ``name`` with ``code`` may run again, given the classes in ``retry.on``."""
    row = _BY_CODE.get(code)
    if row is None or row.name != name:
        row = _BY_NAME[name]
    return row.retry != "never" and name in on
