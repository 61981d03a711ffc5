"""Who runs a step, since when, and how it ended: claims, heartbeats, results, the cache and the logs, in the store.

    runs/<run>/run.json
    runs/<run>/<step>/<attempt>/claim.json  heartbeat.json  log/000001.txt …  result.json  out/<name>…

A claim is a conditional create of ``claim.json``. ``result.json`` is written once, by conditional create too,
and decides everything else: whoever writes it, the attempt's owner or the successor that found the owner dead, the
other one knows that it has lost.
"""

from __future__ import annotations

import os
import time

from backends import outcome, wire
from backends.errors import DuplicateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from backends.store import Store

DEAD_AFTER = 30.0  # seconds of silence after which an attempt's owner counts as dead
HEARTBEAT_EVERY = 5.0  # seconds; five may be lost before anybody takes over
_ROUNDS = 8
_RUN_ID_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class AlreadyDone(Exception):
    """The step has a good result in this run, so it isn't run again; ``record`` is that result."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        super().__init__(f"step {record.get('step')!r} of run {record.get('run')!r} is finished")


class Attempt:
    """One attempt at a step that this process owns; `claim` makes it.

    Attributes:
        number: counts from 1 within the run and step.
        prefix: the key under which everything of the attempt lies, ``runs/<run>/<step>/<number>``.
        token: what no other claim has, of any store; the step's processes carry it in their environment as ``ZEN_CLAIM``.
    """

    __slots__ = ("number", "prefix", "run", "step", "store", "token")

    def __init__(self, store: Store, run: str, step: str, number: int, token: str) -> None:
        self.store = store
        self.run = run
        self.step = step
        self.number = number
        self.prefix = f"runs/{run}/{step}/{number}"
        self.token = token

    def heartbeat(self, body: Mapping[str, Any]) -> bool:
        """Tell the store that the owner lives.

        Args:
            body: what a successor should know if this is the last word: ``usage`` above all.

        Returns:
            False if the attempt has been declared dead: its result can no longer count, so the step should stop.

        Raises:
            InfraError: the store could not be written.
        """
        self.store.put(f"{self.prefix}/heartbeat.json", wire.dumps({"at": utc(), **body}).encode())
        return not self.store.exists(f"{self.prefix}/result.json")

    def finish(self, record: Mapping[str, Any]) -> None:
        """Publish how the attempt ended; call it last, with the outputs in place.

        Args:
            record: the result record; ``version``, ``run``, ``step`` and ``attempt`` are filled in.

        Raises:
            DuplicateError: the attempt was declared dead before, so this result does not count.
            InfraError: the store could not be written.
        """
        full = {**record, "version": 1, "run": self.run, "step": self.step, "attempt": self.number}
        if not self.store.create(f"{self.prefix}/result.json", wire.dumps(full).encode()):
            raise DuplicateError(
                f"step {self.step!r}, run {self.run!r}: attempt {self.number} was silent for {DEAD_AFTER:.0f} s, was "
                "declared dead, and its result does not count; if this machine did not sleep, check its link to the store"
            )


def claim(store: Store, run: str, step: str, owner: Mapping[str, Any]) -> Attempt:
    """Make this process the only owner of a step's next attempt.

    A predecessor that died is first given its last words: its remaining log, its counters and a result of class
    ``infra`` or ``oom``; what it left running on this machine is killed.

    Args:
        store: where the run lives.
        run: the run id.
        step: the step's name.
        owner: what else the claim should say. Known keys: ``config``, the config's sha256; ``scratch``, a directory
            whose ``log/`` holds the log's segments on their way to a bucket; ``cgroup``, the directory with the memory
            cgroup's counters, and ``oom_kill``, their count now.

    Returns:
        The attempt; its number is one more than the last one's.

    Raises:
        AlreadyDone: an earlier attempt has a good result.
        DuplicateError: another live attempt holds the step.
        InfraError: the store could not be reached.
    """
    check_run_id(run)
    for _ in range(_ROUNDS):  # each further round means that somebody else changed the step's state meanwhile
        numbers = attempts(store, run, step)
        number = 1
        if numbers:
            number = numbers[-1]
            last = result(store, run, step, number)
            if last is not None:
                if "declared_by" in last:
                    from backends import autopsy

                    autopsy.clean_up(store, run, step, number)
                number += 1
            elif (held := store.get(f"runs/{run}/{step}/{number}/claim.json")) is not None:
                from backends import autopsy

                autopsy.perform(store, run, step, number, held)
                continue  # now it has a result, perhaps its own and a good one
            if good := _good(store, run, step, numbers):
                raise AlreadyDone(good)
        # It also makes no two claims the same bytes, so that a store can tell its own repeated write.
        attempt = Attempt(store, run, step, number, os.urandom(8).hex())
        body = {"version": 1, "run": run, "step": step, "attempt": number, "at": utc(), **whoami(), **owner}
        body["token"] = attempt.token
        if store.create(f"{attempt.prefix}/claim.json", wire.dumps(body).encode()):
            return attempt
    from backends import autopsy

    raise autopsy.duplicate(run, step, number, store.get(f"runs/{run}/{step}/{number}/claim.json") or b"")


def attempts(store: Store, run: str, step: str) -> list[int]:
    """Return the numbers of a step's attempts, ascending."""
    return sorted(int(name) for name in store.names(f"runs/{run}/{step}") if name.isdecimal())


def result(store: Store, run: str, step: str, number: int) -> dict[str, Any] | None:
    """Return one attempt's result record; None while there is none, or if what is there is torn."""
    record = read_json(store, f"runs/{run}/{step}/{number}/result.json")
    return record if record is not None and "class" in record else None


def good_result(store: Store, run: str, step: str) -> dict[str, Any] | None:
    """Return the record of the step's success in this run, or None."""
    return _good(store, run, step, attempts(store, run, step))


def _good(store: Store, run: str, step: str, numbers: list[int]) -> dict[str, Any] | None:
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


def is_step(name: str) -> bool:
    """Tell whether an entry of ``runs/<run>/`` is a step's: one without a dot, or a ``foreach`` step's member, ``train.0``."""
    return "." not in name or name.rpartition(".")[2].isdecimal()


def results(store: Store, run: str) -> dict[str, dict[str, Any]]:
    """Return the last record of each step that has one, by step."""
    check_run_id(run)
    found: dict[str, dict[str, Any]] = {}
    if store.root is not None:
        for step in store.names(f"runs/{run}"):
            if is_step(step):
                for number in reversed(attempts(store, run, step)):
                    if (record := result(store, run, step, number)) is not None:
                        found[step] = record
                        break
        return found
    # In a bucket every look costs a round trip: list once, then read side by side.
    from concurrent.futures import ThreadPoolExecutor

    wanted = []
    for key, _ in store.walk(f"runs/{run}"):
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
    return store.names("runs")


def read_run(store: Store, run: str) -> dict[str, Any] | None:
    """Return a run's own record, or None if there is no such run."""
    return read_json(store, f"runs/{check_run_id(run)}/run.json")


def write_run(store: Store, run: str, record: Mapping[str, Any]) -> None:
    """Write a run's own record, replacing the one before.

    Args:
        store: where the run lives.
        run: the run id.
        record: ``name``, ``config`` (the resolved config's sha256), ``started`` (RFC 3339), ``state`` (``running`` or a
            class), …
    """
    store.put(f"runs/{check_run_id(run)}/run.json", wire.dumps({**record, "version": 1, "run": run}).encode())


def put_config(store: Store, config: Mapping[str, Any]) -> str:
    """Keep a resolved config under its sha256, and return that as 64 hexadecimal digits."""
    data = wire.dumps(config).encode()
    sha = wire.sha256(data)
    if not store.exists(f"configs/{sha}.json"):
        store.put(f"configs/{sha}.json", data)
    return sha


def get_config(store: Store, sha: str) -> dict[str, Any] | None:
    """Return the config with this sha256, or None if it is missing or its bytes don't have that sha256."""
    data = store.get(f"configs/{sha}.json")
    if data is None or wire.sha256(data) != sha:
        return None
    config: dict[str, Any] = wire.loads(data)
    return config


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


def cache_get(store: Store, key: str) -> dict[str, Any] | None:
    """Return the record of an earlier success with this cache key; None without one, or if its artifacts are gone."""
    entry = read_json(store, f"cache/{key}.json")
    if entry is None:
        return None
    try:
        record = result(store, check_run_id(entry["run"]), entry["step"], int(entry["attempt"]))
        if record is None or record["class"] != outcome.SUCCESS:
            return None
        from backends import artifacts

        whole = all(artifacts.exists(store, artifact) for artifact in record["outputs"].values())
    except (KeyError, TypeError, ValueError, AttributeError, UsageError):
        return None
    return record if whole else None


def cache_put(store: Store, key: str, record: Mapping[str, Any]) -> None:
    """Let the cache key point at the attempt that ``record`` is the result of."""
    entry = {"version": 1, "run": record["run"], "step": record["step"], "attempt": record["attempt"]}
    store.put(f"cache/{key}.json", wire.dumps(entry).encode())


def log_chunks(
    store: Store,
    run: str,
    step: str,
    attempt: int | None = None,
    follow: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Iterator[bytes]:
    """Yield a step's log from its beginning.

    Args:
        store: where the run lives.
        run: the run id.
        step: the step's name.
        attempt: its number; None for the last one and, when following, those that come after it while it is being read.
        follow: wait for the step to begin, and for more until the attempt has its result and all is read.
        stop: asked between looks, at most 1 s apart; True ends it.

    Returns:
        An iterator over the log's bytes in pieces of any size.
    """
    check_run_id(run)
    read: dict[str, int] = {}
    number = attempt
    pause = 0.1
    while True:
        if number is None:
            known = attempts(store, run, step)
            number = known[-1] if known else None
        news = ended = False
        if number is not None:
            prefix = f"runs/{run}/{step}/{number}"
            ended = store.exists(f"{prefix}/result.json")  # looked for first: whatever is logged by then is read below
            for key, size in sorted(store.walk(f"{prefix}/log")):
                done = read.get(key, 0)
                if size > done and (data := store.get(key, done)):
                    read[key] = done + len(data)
                    news = True
                    yield data
        if ended and attempt is None and number and store.exists(f"runs/{run}/{step}/{number + 1}/claim.json"):
            number += 1
            continue
        if ended or not follow or (stop is not None and stop()):
            return
        pause = 0.1 if news else min(1.0, pause * 1.5)
        time.sleep(pause)


def new_run_id(name: str) -> str:
    """Return a fresh run id, ``<name>-YYYYmmdd-HHMMSS-<6 hex>`` in UTC: a file name, a label and a DNS label too."""
    slug = "".join(c if c in "abcdefghijklmnopqrstuvwxyz0123456789" else "-" for c in name.lower())[:40].strip("-")
    return f"{slug or 'run'}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(3).hex()}"


def check_run_id(run: str) -> str:
    """Return ``run`` if it can be a run id.

    Raises:
        UsageError: it is not 1 to 63 letters, digits, ``.``, ``_`` or ``-`` with a letter or digit first.
    """
    if not (0 < len(run) <= 63 and run[0] not in "._-" and _RUN_ID_CHARS.issuperset(run)):
        raise UsageError(f"run id {run!r}: use 1 to 63 letters, digits, '.', '_' and '-', beginning with a letter or a digit")
    return run


def utc(seconds: float | None = None) -> str:
    """Return a time, by default now, as RFC 3339 in UTC with milliseconds.

    Args:
        seconds: since the epoch.
    """
    if seconds is None:
        seconds = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1000):03d}Z"


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


def process_start(pid: int | str) -> str | None:
    """Return when a process began, in the kernel's own count; None if it is gone, or a zombie, or can't be known here.

    Source: field 22 and field 3 of ``/proc/<pid>/stat``, proc(5).
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, 4096)
        finally:
            os.close(fd)
    except OSError:
        return None
    fields = text[text.rfind(b")") + 2 :].split()  # the name before it may hold anything
    return None if len(fields) < 20 or fields[0] in (b"Z", b"X") else fields[19].decode()


_whoami: dict[int, dict[str, Any]] = {}


def whoami() -> dict[str, Any]:
    """Return what tells this process from all others: host, boot, pid namespace, pid and its start."""
    pid = os.getpid()
    known = _whoami.get(pid)
    if known is None:
        boot = namespace = ""
        try:
            fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
            try:
                boot = os.read(fd, 64).decode().strip()
            finally:
                os.close(fd)
            namespace = os.readlink("/proc/self/ns/pid")
        except OSError:
            pass  # not Linux, or a sandbox without /proc: heartbeats alone tell
        known = {
            "host": os.uname().nodename,
            "boot": boot,
            "pid_ns": namespace,
            "pid": pid,
            "pid_start": process_start("self"),
        }
        _whoami.clear()  # a fork's child doesn't need its parent's
        _whoami[pid] = known
    return known
