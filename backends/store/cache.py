"""Find the result of earlier work by what went into it."""

from __future__ import annotations

from backends import outcome, wire
from backends.errors import UsageError
from backends.files import go_on
from backends.store import keys
from backends.store.records import read_json, result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from backends.store.base import Store
    from backends.store.records import Record


def cache_key(name: str, step: Mapping[str, Any], inputs: Mapping[str, str], code: str | None, image: str | None) -> str:
    """Return what identifies a step's work, as 64 hexadecimal digits: with the same key, the same outputs are expected.

    Args:
        name: the step's name.
        step: the step of the resolved config with all placeholders filled in.
        inputs: the digest of every input by name.
        code: the digest of the code that ships with the step.
        image: the digest of the image; without one, whatever tells one interpreter's packages from another's.
    """
    what = {key: step.get(key) for key in ("call", "run", "beam", "spark", "args", "outputs", "as", "env")}
    if step.get("foreach") is not None:
        what["item"] = step["foreach"]["item"]
    text = wire.dumps({"version": 1, "name": name, "step": what, "inputs": inputs, "code": code, "image": image})
    return wire.sha256(text.encode())


def cache_get(store: Store, key: str, *, check: Callable[[], None] = go_on) -> Record | None:
    """Return the record of an earlier success with this cache key; None without one, or if its artifacts are gone or changed.

    Args:
        store: where the cache is.
        key: as `cache_key` made it.
        check: called for each file and block; what it raises ends the work.
    """
    entry = read_json(store, keys.cache(key))
    if entry is None:
        return None
    try:
        record = result(store, keys.check_run_id(entry["run"]), entry["step"], int(entry["attempt"]))
        if record is None or record["class"] != outcome.SUCCESS:
            return None
        from backends.store import artifacts

        whole = all(artifacts.is_whole(store, artifact, check=check) for artifact in record["outputs"].values())
    except (KeyError, TypeError, ValueError, AttributeError, UsageError):
        return None
    return record if whole else None


def cache_put(store: Store, key: str, record: Mapping[str, Any]) -> None:
    """Let the cache key point at the attempt that ``record`` is the result of."""
    entry = {"version": 1, "run": record["run"], "step": record["step"], "attempt": record["attempt"]}
    store.put(keys.cache(key), wire.dumps(entry).encode())
