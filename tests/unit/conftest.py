"""Unit tests start no processes, or say so: `make quick` leaves those out."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

_STARTS = frozenset(("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"))
_started: list[str] = []


def _note(event: str, args: tuple[object, ...]) -> None:
    if event in _STARTS:
        _started.append(f"{event}{args[:2]}")


sys.addaudithook(_note)


@pytest.fixture(autouse=True)
def _no_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts a process and is not marked ``processes``."""
    _started.clear()
    yield
    if _started and not request.node.get_closest_marker("processes"):
        pytest.fail(f"mark this test with pytest.mark.processes, for it did {_started[0]}", pytrace=False)
