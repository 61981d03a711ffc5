"""What a new attempt does for a dead one: make sure that it is dead, save its last words, stop what it left running.

Loaded only when a step's last attempt has a claim and no result.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import outcome, wire
from backends.errors import DuplicateError
from backends.process import is_alive, whoami
from backends.store import keys, records, trees

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backends.store.base import Store

_TAIL = 2048  # bytes of the last log that go into the record
_KILL_FOR = 5.0  # seconds


def perform(store: Store, run: str, step: str, number: int, claim: bytes) -> None:
    """Give a dead attempt its result.

    Args:
        store: where the run lives.
        run: the run id.
        step: the step's name.
        number: the attempt, which has a claim and no result.
        claim: the bytes of its claim, perhaps torn.

    Raises:
        DuplicateError: it isn't dead.
        InfraError: the store could not be reached.
    """
    owner = records.parse_object(claim) or {}
    here = _same_machine(owner)
    gone = here and is_alive(owner) is False
    silent = _silence(store, run, step, number)
    if not gone and silent is not None and silent < records.DEAD_AFTER:
        raise duplicate(run, step, number, claim, silent)
    if gone:
        kill_processes(owner.get("token"))  # nobody but they can write its log now, so stop them first
    if here:
        _save_log(store, keys.logs(run, step, number), owner)
    key = keys.result(run, step, number)
    record = wire.dumps(_last_words(store, run, step, number, owner, gone, silent)).encode()
    if not store.create(key, record):
        if records.result(store, run, step, number) is not None:
            return  # it had only been slow, or somebody else was quicker
        store.put(key, record)  # a torn one says nothing


def clean_up(store: Store, run: str, step: str, number: int) -> None:
    """Stop and remove what an attempt that was declared dead left behind.

    The next attempt's owner does it, whoever declared the death: that one may have died in its turn.

    Args:
        store: where the run lives.
        run: the run id.
        step: the step's name.
        number: the dead attempt.
    """
    kill_processes((records.read_json(store, keys.claim(run, step, number)) or {}).get("token"))
    if store.root is not None:
        trees.remove(store.url_of(keys.scratch(run, step, number)))


def duplicate(run: str, step: str, number: int, claim: bytes, silent: float | None = None) -> DuplicateError:
    """Return the error that says who holds a step.

    Args:
        run: the run id.
        step: the step's name.
        number: the attempt that holds it.
        claim: the bytes of its claim, perhaps torn.
        silent: seconds since its last sign of life, if known.
    """
    owner = records.parse_object(claim) or {}
    who = f"process {owner['pid']} on {owner['host']}" if "pid" in owner and "host" in owner else "an unknown process"
    heard = "" if silent is None else f", heard of {silent:.0f} s ago"
    return DuplicateError(
        f"step {step!r}, run {run!r}: attempt {number} is running ({who}{heard}). It counts as dead after "
        f"{records.DEAD_AFTER:.0f} s of silence; wait for it, stop it, or start a new run with another run id"
    )


def _same_machine(owner: Mapping[str, Any]) -> bool:
    """Return whether the claim's process, if it lives, can be seen here under its pid.

    Another boot id under the same host name may be another machine, so there only silence proves that the owner is dead.
    Snapshots of one virtual machine share the boot id and the namespace's number, so the host's name must agree too.
    """
    me = whoami()
    if not me["boot"] or not owner.get("pid_start"):
        return False
    return all(owner.get(key) == me[key] for key in ("boot", "pid_ns", "host"))


def _silence(store: Store, run: str, step: str, number: int) -> float | None:
    age = store.age(keys.heartbeat(run, step, number))
    return store.age(keys.claim(run, step, number)) if age is None else age


def _last_words(
    store: Store, run: str, step: str, number: int, owner: dict[str, Any], gone: bool, silent: float | None
) -> records.Record:
    beat = records.read_json(store, keys.heartbeat(run, step, number)) or {}
    usage = beat.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    oom = _number(usage.get("oom_kill")) > 0
    if not oom and _same_machine(owner):
        oom = _oom_kills(owner) > _number(owner.get("oom_kill"))
    kind = outcome.OOM if oom else outcome.INFRA
    when = f"last heartbeat {beat['at']}" if isinstance(beat.get("at"), str) else "no heartbeat"
    host = owner.get("host", "an unknown host")
    why = "its process is gone" if gone else f"it was silent for {silent or 0:.0f} s"
    message = f"attempt {number} died on {host} without a result: {why}, {when}"
    if oom:
        message += "; the out-of-memory killer was there"
    record = records.make_record(run, step, number, kind, message, seconds=_number(beat.get("seconds")), usage=usage)
    record["started"] = owner.get("at")  # a torn claim says nothing
    record["ended"] = beat.get("at") or owner.get("at")
    record["config"] = owner.get("config")
    record["host"] = owner.get("host")
    record["log_tail"] = _log_tail(store, keys.logs(run, step, number))
    record["declared_by"] = whoami()["host"]
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


def _save_log(store: Store, folder: str, owner: dict[str, Any]) -> None:
    scratch = owner.get("scratch")
    if store.root is not None or not isinstance(scratch, str):
        return  # on a local store the log is written in place
    saved = dict(store.walk(folder))
    for path in sorted(Path(scratch, "log").glob("*.txt")):
        key = f"{folder}/{path.name}"
        if path.is_file() and path.stat().st_size > saved.get(key, -1):
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
