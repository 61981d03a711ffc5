"""Orchestrators whose driver is a process on the client's machine.

``run`` drives in this process. ``submit`` starts ``zen-runner run`` as a program of its own and writes down who
that is, so that any later process can ask the store, and on the same machine the kernel, how it goes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from abc import abstractmethod

from backends import wire
from backends.base import OrchestratorBaseBackend, TrainingBaseBackend
from backends.errors import DuplicateError, InfraError, UsageError, ZenRunnerError
from backends.orchestrator.driven.driver import drive
from backends.orchestrator.driven.life import WHO, DriverLife
from backends.orchestrator.driven.spawn import available_cpus, log_path, spawn
from backends.process import is_alive, process_start, utc, whoami
from backends.states import RUNNING
from backends.store import keys, open_store, records
from backends.store.logs import log_chunks
from backends.store.records import read_handle
from backends.view import RunView, config_of, unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from backends.execution import Execution, Launcher
    from backends.store.base import Store


class ClientDrivenBackend(OrchestratorBaseBackend):
    """An orchestrator that is there once it can make a launcher and render; ``cleanup`` is for what a dead driver left.

    A subclass's ``__init__`` sets ``max_parallel`` (None: one attempt per CPU) and ``keep_going``.
    """

    max_parallel: int | None
    keep_going: bool

    @abstractmethod
    def make_launcher(self, execution: Execution) -> Launcher:
        """Return what runs the attempts of a run."""

    def cleanup(self, handle: Mapping[str, Any]) -> None:
        """Remove what a driver that no longer lives left running; nothing, unless a subclass knows better."""

    def run(self, execution: Execution) -> dict[str, Any]:
        launcher = self.make_launcher(execution)
        return drive(execution, launcher, max_parallel=self.max_parallel or available_cpus(), keep_going=self.keep_going)

    def submit(self, config: Mapping[str, Any], run_id: str, store: Store) -> dict[str, Any]:
        earlier = read_handle(store, run_id)
        if earlier is not None and is_alive(earlier):
            raise DuplicateError(f"run {run_id!r} has a driver already: process {earlier['pid']} on {earlier['host']}")
        digest = records.put_config(store, config)
        key = keys.config(digest)
        argv = [sys.executable, "-P", "-m", "entrypoint", "run", "--config", store.url_of(key), "--run-id", run_id]
        # The whole block, since a short name alone would drop its arguments.
        argv += ["--backend", wire.dumps(self.to_config()), "--output", "json"]
        log = log_path(store, run_id)
        pid = spawn(argv, log)
        handle = {
            "version": 1,
            "run": run_id,
            "store": store.url,
            "config": digest,
            "backend": self.to_config(),
            "name": config["name"],
            "submitted": utc(),
            "log": log,
            **whoami(),
            "pid": pid,
            "pid_start": process_start(pid),
        }
        try:
            store.put(keys.handle(run_id), wire.dumps(handle).encode())
        except InfraError:
            os.kill(pid, signal.SIGTERM)  # a driver that nobody can find again must not run
            raise
        return handle

    def view(self, handle: Mapping[str, Any]) -> RunView:
        store = open_store(handle["store"])
        life = DriverLife(store, handle["run"], handle)
        return RunView(store, handle["run"], config_of(store, handle), life)

    def status(self, handle: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self.view(handle).look().answer()
        except ZenRunnerError as error:
            return unknown(handle, str(error))

    def logs(self, handle: Mapping[str, Any], step: str | None = None, follow: bool = False) -> Iterator[bytes]:
        store = open_store(handle["store"])
        seen = False

        def over() -> bool:
            nonlocal seen
            before, seen = seen, _is_over(store, handle)
            return before  # once more after the end, for what was written between the last look and the end

        if step is None:
            return _tail(handle, follow, over)
        config = records.get_config(store, handle["config"])
        if config is not None and step not in config["steps"]:
            raise UsageError(f"run {handle['run']!r} has no step {step!r}; its steps are {', '.join(config['steps'])}")
        return log_chunks(store, handle["run"], step, follow=follow, stop=over)

    def cancel(self, handle: Mapping[str, Any]) -> None:
        store = open_store(handle["store"])
        told = False
        elsewhere = ""
        for driver in _drivers(store, handle):
            lives = is_alive(driver)
            if lives is None:
                elsewhere = driver["host"]
                continue
            # A driver that has not taken over its signals yet can't write that it was cancelled, and a dead one neither.
            who = {name: driver[name] for name in WHO}
            store.put(keys.cancel(handle["run"]), wire.dumps({"at": utc(), **who}).encode())
            if lives:
                told = True
                try:
                    os.kill(driver["pid"], signal.SIGTERM)
                except ProcessLookupError:
                    pass  # it ended just now
                except PermissionError as error:
                    raise InfraError(f"the driver of run {handle['run']!r} belongs to another user") from error
        if elsewhere and not told:
            raise InfraError(f"the driver of run {handle['run']!r} is on {elsewhere}: cancel it there")
        if not told:  # a driver that lives cleans up after itself
            self.cleanup(handle)
            end_jobs(store, handle["run"])


def end_orphans(handle: Mapping[str, Any]) -> None:
    """End the steps that a killed driver left behind on this machine, and give their attempts a result.

    Args:
        handle: the run's handle.
    """
    from backends.store import watch

    store, run = open_store(handle["store"]), handle["run"]
    for step in store.names(keys.run(run)):
        for number in records.attempts(store, run, step)[-1:] if keys.is_step(step) else []:
            claim = store.get(keys.claim(run, step, number))
            if claim is not None and records.result(store, run, step, number) is None:
                watch.settle(store, (run, step, number), claim)  # unless its owner lives: then it isn't this driver's


def end_jobs(store: Store, run: str) -> None:
    """End the jobs of single steps that a killed driver left with a platform; each writes its own record.

    Args:
        store: where the run lives.
        run: its id.

    Raises:
        InfraError: a platform could not be reached.
    """
    for step in filter(keys.is_step, store.names(keys.run(run))):
        _, note = records.last_job(store, run, step)
        if note is not None:
            platform = TrainingBaseBackend.from_config(note["backend"]).platform(store)
            job = note.get("job") or platform.find(note["name"]).get(note["name"])
            platform.end([job] if job is not None else [])


def _drivers(store: Store, handle: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return who may drive the run now: the submitted driver, and one that resumed the run since."""
    run = records.read_run(store, handle["run"])
    drivers = [handle]
    if run is not None and run["state"] == RUNNING:
        drivers.append(run)
    elif run is not None and is_alive(handle) is None:
        return []
    return drivers


def _is_over(store: Store, handle: Mapping[str, Any]) -> bool:
    """Return whether nobody works on the run; a driver that can't be seen counts as working until its run ended."""
    return all(is_alive(driver) is False for driver in _drivers(store, handle))


def _tail(handle: Mapping[str, Any], follow: bool, over: Callable[[], bool]) -> Iterator[bytes]:
    try:
        with open(handle["log"], "rb") as file:
            while True:
                while data := file.read(1 << 16):
                    yield data
                if not follow or over():
                    return
                time.sleep(0.2)
    except OSError as error:
        why = f"{handle['log']} on {handle['host']} can't be read here: {error.strerror}"
        raise InfraError(f"the driver's log {why}") from error
