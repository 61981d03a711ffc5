"""What a new attempt does for a dead one: save its last words, stop what it left running, remove what it left lying.

Loaded only where a step's last attempt did not end well.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import outcome, process, wire
from backends.store import keys, records, trees

if TYPE_CHECKING:
    from backends.store.base import Store

    Place = tuple[str, str, int]

_TAIL = 2048  # bytes of the last log that go into the record
_KILL_FOR = 5.0  # seconds


def bury(store: Store, place: Place, claim: bytes, why: str, *, is_gone: bool = False) -> None:
    """Give a dead attempt its result, unless it has one by now.

    Args:
        store: where the run lives.
        place: run, step and number of an attempt that has a claim and no result.
        claim: the bytes of its claim, perhaps torn.
        why: what its death is told by.
        is_gone: its process has ended for certain.

    Raises:
        InfraError: the store could not be reached.
    """
    owner = records.parse_object(claim) or {}
    if is_gone:
        kill_processes(owner.get("token"))  # nobody but they can write its log now, so stop them first
    if process.is_visible(owner):
        _save_log(store, place, owner)
    key = keys.result(*place)
    record = wire.dumps(_last_words(store, place, owner, why)).encode()
    if not store.create(key, record):
        if records.result(store, *place) is not None:
            return  # it had only been slow, or somebody else was quicker
        store.put(key, record)  # a torn one says nothing


def clean_up(store: Store, place: Place) -> None:
    """Stop and remove what an attempt that has ended may have left behind.

    The next attempt's owner does it, whoever wrote the result: that one may have died in its turn.

    Args:
        store: where the run lives.
        place: run, step and number of the attempt.

    Raises:
        InfraError: the store could not be reached.
    """
    owner = records.read_json(store, keys.claim(*place)) or {}
    kill_processes(owner.get("token"))
    if store.root is not None:
        trees.remove(store.url_of(keys.scratch(*place)))
    elif process.is_visible(owner) and _is_scratch(owner.get("scratch")):
        _save_log(store, place, owner)
        trees.remove(owner["scratch"])


def _is_scratch(path: object) -> bool:
    """Return whether a path is a scratch directory's; a claim is untrusted, and nothing else may be removed for its sake."""
    if not isinstance(path, str) or "\0" in path:
        return False
    folder, name = os.path.split(path)
    if folder != tempfile.gettempdir() or not name.startswith(keys.SCRATCH) or len(name) != len(keys.SCRATCH) + 8:
        return False
    try:
        state = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid()


def _last_words(store: Store, place: Place, owner: dict[str, Any], why: str) -> records.Record:
    beat = records.read_json(store, keys.heartbeat(*place)) or {}
    usage = beat.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    oom = _number(usage.get("oom_kill")) > 0
    if not oom and process.is_visible(owner):
        oom = _oom_kills(owner) > _number(owner.get("oom_kill"))
    kind = outcome.OOM if oom else outcome.INFRA
    when = f"last heartbeat {beat['at']}" if isinstance(beat.get("at"), str) else "no heartbeat"
    host = owner.get("host", "an unknown host")
    message = f"attempt {place[2]} died on {host} without a result: {why}, {when}"
    if oom:
        message += "; the out-of-memory killer was there"
    record = records.make_record(*place, kind, message, seconds=_number(beat.get("seconds")), usage=usage)
    record["started"] = owner.get("at")  # a torn claim says nothing
    record["ended"] = beat.get("at") or owner.get("at")
    record["config"] = owner.get("config")
    record["host"] = owner.get("host")
    record["log_tail"] = _log_tail(store, keys.logs(*place))
    record["declared_by"] = process.whoami()["host"]
    return record


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0


def _oom_kills(owner: dict[str, Any]) -> int:
    """Return the OOM kills that the attempt's memory cgroup counts by now.

    Source: ``memory.events`` in cgroup v2, ``memory.oom_control`` in v1; both have a line ``oom_kill N``.
    """
    for name in ("memory.events", "memory.oom_control"):
        try:
            with open(f"{owner['cgroup']}/{name}", encoding="ascii") as file:
                for line in file:
                    field, _, count = line.partition(" ")
                    if field == "oom_kill":
                        return int(count)
        except (OSError, KeyError, ValueError):
            continue
    return 0


def _log_tail(store: Store, folder: str) -> str:
    tail = b""
    for key, size in sorted(store.walk(folder), reverse=True):
        tail = (store.get(key, max(0, size - _TAIL)) or b"") + tail
        if len(tail) >= _TAIL:
            break
    return tail[-_TAIL:].decode("utf-8", "replace")


def _save_log(store: Store, place: Place, owner: dict[str, Any]) -> None:
    scratch = owner.get("scratch")
    if store.root is not None or not isinstance(scratch, str):
        return  # on a local store the log is written in place
    segments = sorted(path for path in Path(scratch, "log").glob("*.txt") if path.is_file())
    saved = dict(store.walk(keys.logs(*place))) if segments else {}
    for path in segments:
        key = f"{keys.logs(*place)}/{path.name}"
        if path.stat().st_size > saved.get(key, -1):
            store.upload(key, str(path))


def kill_processes(token: object) -> None:
    """Kill the processes that carry a claim's token in their environment, and wait until they are gone.

    Args:
        token: from the claim; a claim is untrusted, so anything but what `records.claim` makes finds nobody.
    """
    if not (isinstance(token, str) and len(token) == 16 and token.isalnum()):
        return
    mark = f"ZEN_CLAIM={token}".encode()
    until = time.monotonic() + _KILL_FOR
    while orphans := _processes_with(mark):  # again and again: one may fork while its sibling dies
        for pid in orphans:
            try:
                os.kill(pid, 9)
            except OSError:
                pass  # gone by now
        if time.monotonic() > until:
            return  # stuck in the kernel: it can't write, and can't be waited for
        time.sleep(0.01)


def _processes_with(mark: bytes) -> list[int]:
    found = []
    for path in Path("/proc").glob("[1-9]*"):
        pid = int(path.name)
        if pid in (1, os.getpid()):
            continue
        try:
            environ = (path / "environ").read_bytes()  # empty for a zombie
        except OSError:
            continue  # gone, or somebody else's
        if mark in environ.split(b"\0"):
            found.append(pid)
    return found
