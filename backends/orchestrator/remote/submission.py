"""Submit a run exactly once, even if several processes try or one of them is killed.

runs/<run>/handle.json      what was submitted, and what the platform calls it: a conditional create
runs/<run>/submit.<n>.json  who took over the submission as the n-th, from the second on: a conditional create
runs/<run>/cancel.json      the run was asked to stop
"""

from __future__ import annotations

import time
from itertools import count

from backends import outcome, wire
from backends.backoff import backoff
from backends.errors import ConfigError, DuplicateError, Terminated, ZenRunnerError
from backends.process import is_alive, utc, whoami
from backends.states import CANCELLED, FAILED, RUNNING
from backends.store import keys, records
from backends.store.records import read_handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    from backends.shipping.shipment import Shipment
    from backends.store.base import Store

    Handle = dict[str, Any]
else:
    Protocol = object

SUBMITTING, INTERRUPTED, SUBMITTED = "submitting", "interrupted", "submitted"
SILENT = 180.0
"""Seconds after its last sign of life that a submitter on another machine counts as dead; more than one call may take."""

sleep = time.sleep


class Round(Protocol):
    """What a submission needs of its backend, for one run."""

    def block(self) -> dict[str, Any]:
        """Return the backend's block, for the handle."""
        return {}

    def send(self, state: dict[str, Any], done: frozenset[str], save: Callable[[], None], check: Callable[[], None]) -> None:
        """Hand the run to the platform, and complete what an earlier call with this state has begun."""

    def state_of(self, handle: Handle) -> str:
        """Return the state of a run that is with the platform."""
        return ""

    def end(self, state: Mapping[str, Any]) -> None:
        """Ask the platform to end what was begun."""


class Submission:
    """The way of one run to its platform, by one process at a time.

    Args:
        backend: hands it over.
        shipment: the code and the config.
        unshipped: the sha256 of the config before it was shipped.
        run_id: the run's id.
        store: the opened artifact store.
        stop_requested: called often; True ends the submission.
    """

    def __init__(
        self,
        backend: Round,
        shipment: Shipment,
        unshipped: str,
        run_id: str,
        store: Store,
        stop_requested: Callable[[], bool],
    ) -> None:
        self._backend = backend
        self._shipment = shipment
        self._unshipped = unshipped
        self._run = run_id
        self._store = store
        self._stop_requested = stop_requested
        self._number = 1
        self._before: Handle | None = None
        self._run_before: Mapping[str, Any] | None = None

    def submit(self) -> Handle:
        """Return the run's handle, once all of it is with the platform."""
        handle, is_there = self._acquire()
        if is_there:
            return handle
        state, done = handle["state"], frozenset(handle["resumed"])
        try:
            if state.keys() == {"round"}:  # else it has been written, and who runs in it may have written it anew
                self._write_run()
            if not done.issuperset(self._shipment.config["steps"]):
                self._backend.send(state, done, lambda: self._save(handle), self._check_stop)
            handle["phase"] = SUBMITTED
            self._save(handle)
        except DuplicateError:
            raise
        except Terminated:
            self._store.put(keys.cancel(self._run), wire.dumps({"version": 1, "at": utc()}).encode())
            handle["phase"] = SUBMITTED
            self._put(handle)
            self._backend.end(state)
            raise
        except BaseException as error:
            if state.keys() == {"round"}:
                self._undo()
                raise
            handle["phase"] = INTERRUPTED
            try:
                self._put(handle)
            except ZenRunnerError:
                pass  # the first error is the one to tell; a submitter that is gone is noticed without this
            if isinstance(error, ZenRunnerError):
                raise type(error)(
                    f"{error}\nA part of run {self._run} is submitted: submit it again with --run-id {self._run} to complete it, "
                    "or cancel it."
                ) from error
            raise
        return handle

    def _acquire(self) -> tuple[Handle, bool]:
        """Return the handle, and whether the run is with the platform already; if not, this process is to bring it there."""
        store, run = self._store, self._run
        until = time.monotonic() + SILENT
        for turn in count():
            handle = read_handle(store, run)
            if handle is None:
                handle = self._new_handle()
                if store.create(keys.handle(run), wire.dumps(handle).encode()):
                    return handle, False
                continue
            self._check(handle)
            number, holder = holder_of(store, handle)
            if handle["phase"] == SUBMITTING or number > handle["number"]:
                if is_at_work(store, run, number, holder):
                    if time.monotonic() > until:
                        raise DuplicateError(
                            f"run {run!r} is being submitted by process {holder.get('pid')} on {holder.get('host')}; wait for it"
                        )
                    sleep(min(1.0, backoff(0.1, turn)))
                    continue
            elif handle["phase"] == SUBMITTED and self._backend.state_of(handle) not in (FAILED, CANCELLED):
                return handle, True
            self._number = number + 1
            if store.create(keys.lease(run, self._number), wire.dumps({**whoami(), "at": utc()}).encode()):
                return self._take_over(read_handle(store, run) or handle), False
        raise AssertionError  # the count has no end

    def _new_handle(self) -> Handle:
        # A run that began elsewhere, on this machine perhaps, goes on with what it has.
        earlier = records.read_run(self._store, self._run)
        if earlier is not None and earlier.get("config") not in (self._shipment.sha, self._unshipped):
            raise self._another()
        handle = {
            "version": 1,
            "run": self._run,
            "store": self._store.url,
            "config": self._shipment.sha,
            "backend": self._backend.block(),
            "name": self._shipment.config["name"],
            "submitted": utc(),
            "began": round(time.time(), 3),
            "phase": SUBMITTING,
            **whoami(),
            "number": self._number,
            "code": self._shipment.receipt,
            "state": {"round": 1},
        }
        return {**handle, **(self._resumption() if earlier else {"resumed": [], "before": {}})}

    def _take_over(self, handle: Handle) -> Handle:
        self._before = handle
        handle = {**handle, **whoami(), "number": self._number, "backend": self._backend.block()}
        cancelled = self._store.exists(keys.cancel(self._run))
        if handle["phase"] == SUBMITTED or cancelled:
            if cancelled:
                self._store.delete(keys.cancel(self._run))
            handle.update(submitted=utc(), began=round(time.time(), 3), code=self._shipment.receipt)
            handle["state"] = {"round": handle["state"]["round"] + 1}
            handle.update(self._resumption())
        else:
            handle["state"] = dict(handle["state"])
        handle["phase"] = SUBMITTING
        self._put(handle)
        return handle

    def _resumption(self) -> dict[str, Any]:
        found = records.results(self._store, self._run)
        steps = self._shipment.config["steps"]
        return {
            "resumed": [step for step in steps if step in found and found[step]["class"] == outcome.SUCCESS],
            "before": {step: record["attempt"] for step, record in found.items()},
        }

    def _check(self, handle: Handle) -> None:
        if handle["config"] != self._shipment.sha or "phase" not in handle:  # without one, it is a client-driven backend's
            raise self._another()

    def _another(self) -> ConfigError:
        return ConfigError(
            f"run {self._run!r} was started with another config, or other code; use a new run id, or what that run was "
            "started with"
        )

    def _write_run(self) -> None:
        earlier = self._run_before = records.read_run(self._store, self._run) or {}
        record = {
            "name": self._shipment.config["name"],
            "config": self._shipment.sha,
            "started": earlier.get("started") or utc(),
            "state": RUNNING,
        }
        records.write_run(self._store, self._run, record)

    def _save(self, handle: Handle) -> None:
        if self._store.exists(keys.lease(self._run, self._number + 1)):
            raise DuplicateError(f"run {self._run!r}: another process has taken over its submission")
        if self._stop_requested() or self._store.exists(keys.cancel(self._run)):
            raise self._terminated()
        self._put(handle)

    def _check_stop(self) -> None:
        if self._stop_requested():
            raise self._terminated()

    def _terminated(self) -> Terminated:
        return Terminated(f"run {self._run!r} was cancelled while it was submitted")

    def _put(self, handle: Handle) -> None:
        self._store.put(keys.handle(self._run), wire.dumps(handle).encode())

    def _undo(self) -> None:
        """Leave the run as it was before: nothing of it was started."""
        has_results = self._run_before and records.results(self._store, self._run)
        if self._run_before and has_results:
            records.write_run(self._store, self._run, self._run_before)
        if self._before is not None and self._before["state"].keys() != {"round"}:
            self._put({**self._before, "number": self._number})
            return
        for number in range(2, self._number + 1):
            self._store.delete(keys.lease(self._run, number))
        if not has_results:
            self._store.delete(keys.run_record(self._run))
        self._store.delete(keys.handle(self._run))


def holder_of(store: Store, handle: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
    """Return the number of the last process that took on the submission, and who it is."""
    run, number, holder = handle["run"], handle["number"], handle
    while (body := records.read_json(store, keys.lease(run, number + 1))) is not None:
        number, holder = number + 1, body
    return number, holder


def is_at_work(store: Store, run: str, number: int, holder: Mapping[str, Any]) -> bool:
    """Return whether the process that took on a submission lives."""
    lives = is_alive(holder)
    if lives is not None:
        return lives
    ages = [store.age(keys.handle(run)), store.age(keys.lease(run, number))]
    return min((age for age in ages if age is not None), default=SILENT) < SILENT
