"""An attempt that raises anything at all becomes its record, and the run goes on."""

from __future__ import annotations

import errno
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backends.errors import InfraError, UserError
from backends.store import open_store

if TYPE_CHECKING:
    from backends.store.records import Record
from entrypoint.runtime.blame import CLAIM, PREPARE, PUBLISH, STORE, blame
from entrypoint.runtime.claimed import Task
from entrypoint.runtime.launcher import LocalLauncher
from tests.support.configs import resolved

PHASES = (CLAIM, PREPARE, PUBLISH, STORE)
CONFIG = resolved({"a": {}, "b": {}})


class Panic(BaseException):
    """What a library in Rust raises."""

    __module__ = "pyo3_runtime"


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InfraError("away"), "infra"),
        (UserError("yours"), "user"),
        (OSError(errno.EIO, "Input/output error"), "infra"),
        (OSError(errno.ESTALE, "Stale file handle"), "infra"),
        (OSError(errno.ENOSPC, "No space left on device"), "infra"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "infra"),
        (TimeoutError("timed out"), "infra"),
        (http.client.IncompleteRead(b""), "infra"),
        (Panic("a panic"), "infra"),
        (MemoryError(), "infra"),
        (RecursionError("maximum recursion depth exceeded"), "user"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "user"),
        (KeyError("outputs"), "user"),
        (SystemExit(0), "user"),
    ],
)
def test_each_exception_has_a_class_in_each_phase(error: BaseException, kind: str, phase: str) -> None:
    found, message, code = blame(error, phase, CONFIG, {})
    assert (found, code) == (kind, {"infra": 69, "user": 1}[kind])
    assert str(error) in message


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EACCES])
def test_what_a_step_did_to_its_directory_is_its_own_doing(number: int) -> None:
    error = OSError(number, "…")
    assert [blame(error, phase, CONFIG, {})[0] for phase in PHASES] == ["infra", "infra", "user", "infra"]


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[LocalLauncher]:
    launcher = LocalLauncher({**CONFIG, "code": None}, "0" * 64, "r", open_store(str(tmp_path)), lambda *_: None, {})
    yield launcher
    launcher.close()


@pytest.mark.parametrize("error", [ValueError("odd"), Panic("a panic"), SystemExit(3), KeyboardInterrupt(), OSError(5, "EIO")])
def test_whatever_is_raised_ends_the_attempt(
    launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(task: Task) -> None:
        raise error

    monkeypatch.setattr(Task, "claim", fail)
    launcher.start("a", None)
    launcher.start("b", None)
    over: list[Record] = []
    while len(over) < 2:
        over += launcher.wait(10)
    assert sorted(record["step"] for record in over) == ["a", "b"]
    assert all(record["class"] in ("infra", "user") and str(error) in record["message"] for record in over)
