"""Who runs a step, since when, and how it ended: claims, heartbeats, results, the cache and the logs, in the store.

    runs/<run>/run.json
    runs/<run>/<step>/<attempt>/claim.json  heartbeat.json  log/000001.txt …  result.json  out/<name>…

A claim is a conditional create of ``claim.json``. ``result.json`` is written once, by conditional create too,
and decides everything else: whoever writes it, the attempt's owner or the successor that found the owner dead, the
other one knows that it has lost.
"""

from __future__ import annotations

import os

from backends import outcome, wire
from backends.process import utc
from backends.store import keys
from backends.store.base import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NotRequired, TypedDict

    from backends.store.base import Store
    from backends.store.digests import Artifact

    # How an attempt ended. The functional form, since ``class`` is a keyword.
    Record = TypedDict(
        "Record",
        {
            "version": int,
            "run": str,
            "step": str,
            "attempt": int,
            "class": str,
            "exit_code": int,
            "message": str,
            "started": Any,  # RFC 3339; a torn claim says none
            "ended": Any,
            "seconds": float,
            "status": int | None,
            "signal": int | None,
            "inputs": dict[str, str],
            "outputs": dict[str, Artifact],
            "values": dict[str, Any],
            "config": Any,
            "usage": dict[str, Any],
            "host": Any,
            "cached_from": dict[str, Any] | None,
            "platform": NotRequired[dict[str, Any]],
            "image": NotRequired[str | None],
            "traceback": NotRequired[str],
            "log_tail": NotRequired[str],
            "log_lost": NotRequired[str],
            "engine": NotRequired[str],
            "metrics": NotRequired[dict[str, Any]],
            "event_log": NotRequired[list[str]],
            "event_log_lost": NotRequired[str],
            "declared_by": NotRequired[str],
        },
    )


DEAD_AFTER = 30.0  # seconds of silence after which an attempt's owner counts as dead
HEARTBEAT_EVERY = 5.0  # seconds; five may be lost before anybody takes over


def make_record(
    run: str,
    step: str,
    attempt: int,
    kind: str,
    message: str,
    *,
    code: int | None = None,
    started: str | None = None,
    ended: str | None = None,
    seconds: float = 0.0,
    status: int | None = None,
    signal: int | None = None,
    inputs: Mapping[str, str] | None = None,
    config: str = "",
    usage: Mapping[str, Any] | None = None,
    host: str | None = None,
) -> Record:
    """Return the record of an attempt's end, without outputs and values.

    Args:
        run: the run id.
        step: the step's name.
        attempt: its number; 0 for one that claimed nothing.
        kind: its class.
        message: why it did not succeed.
        code: the exit status; None for the class's own.
        started: RFC 3339; None for now.
        ended: RFC 3339; None for now.
        seconds: from start to end.
        status: what the step's process ended with.
        signal: what ended it.
        inputs: digests by name.
        config: the resolved config's sha256.
        usage: what the attempt used.
        host: where it ran; None for here.
    """
    now = utc()
    return {
        "version": 1,
        "run": run,
        "step": step,
        "attempt": attempt,
        "class": kind,
        "exit_code": outcome.code_of(kind) if code is None else code,
        "message": message,
        "started": now if started is None else started,
        "ended": now if ended is None else ended,
        "seconds": seconds,
        "status": status,
        "signal": signal,
        "inputs": dict(inputs or {}),
        "outputs": {},
        "values": {},
        "config": config,
        "usage": dict(usage or {}),
        "host": os.uname().nodename if host is None else host,
        "cached_from": None,
    }


def attempts(store: Store, run: str, step: str) -> list[int]:
    """Return the numbers of a step's attempts, ascending."""
    return sorted(int(name) for name in store.names(keys.step(run, step)) if name.isdecimal())


def result(store: Store, run: str, step: str, number: int) -> Record | None:
    """Return one attempt's result record; None while there is none, or if what is there is torn."""
    record: Any = read_json(store, keys.result(run, step, number))
    return record if record is not None and "class" in record else None


def last_job(store: Store, run: str, step: str) -> tuple[int, dict[str, Any] | None]:
    """Return the number of a step's last job, 0 if it had none, and what was noted of it when it was given to its platform.

    Returns:
        The number, and ``version``, ``run``, ``step``, ``round``, ``name``, ``at``, ``backend`` (a block), who gave it away,
        and ``job``, the platform's id, once that was known; None where the note is gone.
    """
    numbers = map(keys.parse_job, store.names(keys.step(run, step)))
    last = max((number for number in numbers if number is not None), default=0)
    return last, read_json(store, keys.job(run, step, last)) if last else None


def good_result(store: Store, run: str, step: str) -> Record | None:
    """Return the record of the step's success in this run, or None."""
    return good_of(store, run, step, attempts(store, run, step))


def good_of(store: Store, run: str, step: str, numbers: list[int]) -> Record | None:
    for number in reversed(numbers):
        record = result(store, run, step, number)
        if record is not None and record["class"] == outcome.SUCCESS:
            return record
    return None


def good_results(store: Store, run: str, steps: Sequence[str]) -> dict[str, Record]:
    """Return the records of the successes of many steps, by step; a step without one is left out."""
    goods = each(store, lambda step: good_result(store, run, step), steps)
    return {step: record for step, record in zip(steps, goods, strict=True) if record is not None}


def results(store: Store, run: str) -> dict[str, Record]:
    """Return the last record of each step that has one, by step."""
    keys.check_run_id(run)
    found: dict[str, Record] = {}
    if store.root is not None:
        for step in store.names(keys.run(run)):
            if keys.is_step(step):
                for number in reversed(attempts(store, run, step)):
                    if (record := result(store, run, step, number)) is not None:
                        found[step] = record
                        break
        return found
    # In a bucket every look costs a round trip: list once, then read side by side.
    ended = sorted(filter(None, (keys.parse_result(key) for key, _ in store.walk(keys.run(run)))))
    for (step, _), record in zip(ended, each(store, lambda at: result(store, run, *at), ended), strict=True):
        if record is not None:
            found[step] = record
    return found


def read_handle(store: Store, run_id: str) -> dict[str, Any] | None:
    """Return the handle that ``submit`` left in the store, or None if this run was not submitted."""
    return read_json(store, keys.handle(keys.check_run_id(run_id)))


def runs(store: Store) -> list[str]:
    """Return the ids of all runs in the store, sorted."""
    return store.names(keys.RUNS)


def read_run(store: Store, run: str) -> dict[str, Any] | None:
    """Return a run's own record, or None if there is no such run."""
    return read_json(store, keys.run_record(keys.check_run_id(run)))


def write_run(store: Store, run: str, record: Mapping[str, Any], *, is_new: bool = False) -> bool:
    """Write a run's own record, replacing the one before, and return whether that was done.

    Args:
        store: where the run lives.
        run: the run id.
        record: ``name``, ``config`` (the resolved config's sha256), ``started`` (RFC 3339), ``state`` (``running`` or a
            class), …
        is_new: replace none; of many that try at once, one does it.
    """
    key, data = keys.run_record(keys.check_run_id(run)), wire.dumps({**record, "version": 1, "run": run}).encode()
    if is_new:
        return store.create(key, data)
    store.put(key, data)
    return True


def put_config(store: Store, config: Mapping[str, Any]) -> str:
    """Keep a resolved config under its sha256, and return that as 64 hexadecimal digits."""
    data = wire.dumps(config).encode()
    sha = wire.sha256(data)
    if not store.exists(keys.config(sha)):
        store.put(keys.config(sha), data)
    return sha


def get_config(store: Store, sha: str) -> dict[str, Any] | None:
    """Return the config with this sha256, or None if it is missing or its bytes don't have that sha256."""
    data = store.get(keys.config(sha))
    if data is None or wire.sha256(data) != sha:
        return None
    config: dict[str, Any] = wire.loads(data)
    return config


def read_json(store: Store, key: str) -> dict[str, Any] | None:
    """Return a JSON object of the store; None if it is missing, torn or something else."""
    return parse_object(store.get(key))


def parse_object(data: str | bytes | None) -> dict[str, Any] | None:
    """Return a JSON object; None for what is missing, torn or something else."""
    if data is None:
        return None
    try:
        value = wire.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
