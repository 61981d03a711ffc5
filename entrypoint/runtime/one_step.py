"""Run one step as a container does."""

from __future__ import annotations

import os

from backends import outcome, wire
from backends.errors import ConfigError, ZenRunnerError
from backends.store import keys, open_store, records
from entrypoint.runtime.attempt import start
from entrypoint.runtime.claimed import Task
from entrypoint.runtime.identity import identity, member, with_arguments
from entrypoint.runtime.last_words import last_words
from entrypoint.runtime.run import Run
from entrypoint.runtime.supervise import STDERR, STDOUT, Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

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
    same = _same_file(STDOUT, STDERR)

    def output(stream: int, data: bytes) -> None:
        supervisor.write(stream, data)
        last[STDERR if same else stream] = data[-1:]

    store = None
    name = run or identity(environ)[0]
    try:
        step = member(config, step, environ)
        name = keys.check_run_id(name) if name else keys.new_run_id(config["name"])
        store = open_store(config["store"])
        if not store.exists(keys.config(sha)):
            records.put_config(store, config)
        shared = Run(with_arguments(config, step, environ), sha, name, store, environ)
        shared.enter()
        begun = start(Task(shared, step, supervisor, output))
        if not isinstance(begun, dict):
            while begun.process not in supervisor.poll(None):
                pass
            begun = begun.finish()
        record: Mapping[str, Any] = begun
    except ZenRunnerError as error:
        record = _refusal(name, step, error.outcome_class, str(error))
    except Exception as error:
        if environ.get("ZEN_RUNNER_DEBUG"):
            raise
        supervisor.kill()
        record = _surprise(config, error, name, step)
    line = last_words(record)
    if last[STDERR] != b"\n":
        line = "\n" + line
    supervisor.write(STDERR, line.encode())
    return int(record["exit_code"])


def _refusal(run: str | None, step: str, kind: str, message: str) -> dict[str, Any]:
    """Return the record of a step that has no claim, and so no place in the store."""
    code = outcome.code_of(kind)
    return {
        "version": 1, "run": run, "step": step, "attempt": 0, "class": kind, "exit_code": code, "message": message
    }  # fmt: skip


def _surprise(config: Config, error: Exception, run: str | None, step: str) -> dict[str, Any]:
    """Return the record of a failure that nobody foresaw: most likely a config that says it is resolved, and is not."""
    from backends.config import document, resolve

    try:
        doc = document.parse(wire.dumps(config).encode(), "the resolved config")
        resolve.load(doc, base=os.getcwd(), name_default="pipeline", environ={})
    except ConfigError as why:
        return _refusal(run, step, outcome.CONFIG, str(why))
    message = f"zen-runner itself failed, {type(error).__name__}: {error}; ZEN_RUNNER_DEBUG=1 shows where"
    return _refusal(run, step, outcome.USER, message)


def _same_file(one: int, other: int) -> bool:
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
