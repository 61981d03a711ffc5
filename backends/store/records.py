"""Who runs a step, since when, and how it ended: claims, heartbeats, results, the cache and the logs, in the store.

    runs/<run>/run.json
    runs/<run>/<step>/<attempt>/claim.json  heartbeat.json  log/000001.txt …  result.json  out/<name>…

A claim is a conditional create of ``claim.json``. ``result.json`` is written once, by conditional create too,
and decides everything else: whoever writes it, the attempt's owner or the successor that found the owner dead, the
other one knows that it has lost.
"""

from __future__ import annotations

from backends import outcome, wire
from backends.store import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from backends.store.base import Store


def read_handle(store: Store, run_id: str) -> dict[str, Any] | None:
    """Return the handle that ``submit`` left in the store, or None if this run was not submitted."""
    return read_json(store, keys.handle(keys.check_run_id(run_id)))


DEAD_AFTER = 30.0  # seconds of silence after which an attempt's owner counts as dead
HEARTBEAT_EVERY = 5.0  # seconds; five may be lost before anybody takes over


def attempts(store: Store, run: str, step: str) -> list[int]:
    """Return the numbers of a step's attempts, ascending."""
    return sorted(int(name) for name in store.names(keys.step(run, step)) if name.isdecimal())


def result(store: Store, run: str, step: str, number: int) -> dict[str, Any] | None:
    """Return one attempt's result record; None while there is none, or if what is there is torn."""
    record = read_json(store, keys.result(run, step, number))
    return record if record is not None and "class" in record else None


def good_result(store: Store, run: str, step: str) -> dict[str, Any] | None:
    """Return the record of the step's success in this run, or None."""
    return good_of(store, run, step, attempts(store, run, step))


def good_of(store: Store, run: str, step: str, numbers: list[int]) -> dict[str, Any] | None:
    for number in reversed(numbers):
        record = result(store, run, step, number)
        if record is not None and record["class"] == outcome.SUCCESS:
            return record
    return None


def good_results(store: Store, run: str, steps: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the records of the successes of many steps, by step; a step without one is left out."""
    if store.root is not None or len(steps) < 2:
        found = [good_result(store, run, step) for step in steps]
    else:  # in a bucket every look costs a round trip
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda step: good_result(store, run, step), steps))
    return {step: record for step, record in zip(steps, found, strict=True) if record is not None}


def results(store: Store, run: str) -> dict[str, dict[str, Any]]:
    """Return the last record of each step that has one, by step."""
    keys.check_run_id(run)
    found: dict[str, dict[str, Any]] = {}
    if store.root is not None:
        for step in store.names(keys.run(run)):
            if keys.is_step(step):
                for number in reversed(attempts(store, run, step)):
                    if (record := result(store, run, step, number)) is not None:
                        found[step] = record
                        break
        return found
    # In a bucket every look costs a round trip: list once, then read side by side.
    from concurrent.futures import ThreadPoolExecutor

    wanted = []
    for key, _ in store.walk(keys.run(run)):
        parts = key.split("/")
        if len(parts) == 5 and parts[4] == "result.json" and parts[3].isdecimal():
            wanted.append((parts[2], int(parts[3])))
    wanted.sort()
    with ThreadPoolExecutor(16) as pool:
        for (step, _number), record in zip(wanted, pool.map(lambda at: result(store, run, *at), wanted), strict=True):
            if record is not None:
                found[step] = record
    return found


def runs(store: Store) -> list[str]:
    """Return the ids of all runs in the store, sorted."""
    return store.names(keys.RUNS)


def read_run(store: Store, run: str) -> dict[str, Any] | None:
    """Return a run's own record, or None if there is no such run."""
    return read_json(store, keys.run_record(keys.check_run_id(run)))


def write_run(store: Store, run: str, record: Mapping[str, Any]) -> None:
    """Write a run's own record, replacing the one before.

    Args:
        store: where the run lives.
        run: the run id.
        record: ``name``, ``config`` (the resolved config's sha256), ``started`` (RFC 3339), ``state`` (``running`` or a
            class), …
    """
    store.put(keys.run_record(keys.check_run_id(run)), wire.dumps({**record, "version": 1, "run": run}).encode())


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
    data = store.get(key)
    if data is None:
        return None
    try:
        value = wire.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
