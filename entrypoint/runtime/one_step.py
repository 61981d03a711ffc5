"""Run one step as a container does."""

from __future__ import annotations

from time import monotonic

from backends import outcome
from backends.errors import ZenRunnerError
from backends.store import keys, open_store, records
from entrypoint.runtime.aside import LONG, aside
from entrypoint.runtime.attempt import Attempt
from entrypoint.runtime.blame import PREPARE, blame
from entrypoint.runtime.child import STDERR, STDOUT
from entrypoint.runtime.claimed import Task
from entrypoint.runtime.identity import identity, member, with_arguments
from entrypoint.runtime.run import Run
from entrypoint.runtime.supervise import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from backends.store.records import Record

    Config = dict[str, Any]


def run_step(config: Config, sha: str, step: str, run: str | None, environ: Mapping[str, str]) -> int:
    """Run one attempt of one step in this process and return the exit status; stdout and stderr pass through.

    Args:
        config: the resolved config.
        sha: its sha256.
        step: the step's name.
        run: the run's id; None takes it from the environment, or makes one.
        environ: this process's environment.
    """
    supervisor = Supervisor()
    last = {STDOUT: b"\n", STDERR: b"\n"}

    def output(stream: int, data: bytes) -> None:
        supervisor.write(stream, data)
        last[STDERR if supervisor.is_one_stream else stream] = data[-1:]

    name = run or identity(environ)[0]

    def prepare() -> Task:
        nonlocal name, step
        step = member(config, step, environ)
        name = keys.check_run_id(name) if name else keys.new_run_id(config["name"])
        store = open_store(config["store"])
        if not store.exists(keys.config(sha)):
            records.put_config(store, config)
        shared = Run(with_arguments(config, step, environ), sha, name, store, environ)
        shared.enter()
        return Task(shared, step, supervisor, output)

    record: Mapping[str, Any]
    try:
        record = _attempt(aside(prepare, supervisor))
    except ZenRunnerError as error:
        record = _refusal(name, step, error.outcome_class, str(error))
    except BaseException as error:  # noqa: BLE001 - the last words must be said
        record = _refusal(name, step, *blame(error, PREPARE, config, environ)[:2])
    from entrypoint.runtime.last_words import last_words

    line = last_words(record)
    if last[STDERR] != b"\n":
        line = "\n" + line
    supervisor.write(STDERR, line.encode())
    supervisor.deafen()
    return int(record["exit_code"])


def _refusal(run: str | None, step: str, kind: str, message: str) -> dict[str, Any]:
    """Return the record of a step that has no claim, and so no place in the store."""
    code = outcome.code_of(kind)
    return {
        "version": 1, "run": run, "step": step, "attempt": 0, "class": kind, "exit_code": code, "message": message
    }  # fmt: skip


def _attempt(task: Task) -> Record:
    """Take an attempt to its end."""
    attempt = Attempt(task)
    attempt.begin()
    while (record := attempt.record) is None:
        look = attempt.look()
        task.supervisor.poll(LONG if look is None else max(0.0, look - monotonic()))
    return record
