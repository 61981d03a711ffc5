"""Judge how a step's process ended, and publish what it left if it ended well."""

from __future__ import annotations

import os

from backends import outcome, wire
from backends.errors import UserError, ZenRunnerError
from backends.files import go_on
from backends.store import artifacts, keys
from entrypoint.runtime import command, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any

    from backends.store.digests import Artifact
    from backends.store.records import Record
    from entrypoint.runtime.child import Process
    from entrypoint.runtime.claimed import Claimed
    from entrypoint.runtime.inputs import Inputs
else:
    import _signal as signal


ERROR = 1 << 20  # bytes of what a shim says of a failure


def judge(claimed: Claimed, inputs: Inputs, process: Process, *, check: Callable[[], None] = go_on) -> Record:
    """Return the attempt's record, with its outputs published if its process ended well.

    Args:
        claimed: the attempt.
        inputs: what it was given.
        process: which has ended.
        check: called for each file and block that is published; what it raises ends the work.

    Raises:
        UserError: it ended well, but what it left can't be published.
        InfraError: the store could not be written.
    """
    task = claimed.task
    if process.reason == "terminated":
        number = task.supervisor.stopped_by or signal.SIGTERM
        return claimed.record(outcome.TERMINATED, f"stopped by {_signal_name(number)}")
    if process.reason == "timeout":
        return claimed.record(outcome.TIMEOUT, f"ran past its timeout of {task.step['timeout']:g} s")
    if process.reason == "fenced":
        return claimed.record(outcome.DUPLICATE, "this attempt was taken for dead, and another has taken over")
    if process.status != 0:
        return _failure(claimed, inputs, process)
    return _success(claimed, _publish(claimed, inputs, check))


def _success(claimed: Claimed, outputs: dict[str, Artifact]) -> Record:
    """Return the record of a step whose outputs are published; a value that can't be kept fails it all the same."""
    kept: dict[str, Any] = {}
    try:
        kept, note = values.read(claimed.file("values.json"), required=claimed.task.kind == "call")
        word = _shim_word(claimed)
        if word is not None and word[0] != "note":
            raise UserError(word[1])
        record = claimed.record(outcome.SUCCESS, "; ".join(filter(None, (note, word[1] if word else ""))))
    except UserError as error:
        store = claimed.task.run.store
        places = ", ".join(f"{name} at {store.url_of(artifact['key'])}" for name, artifact in outputs.items())
        record = claimed.record(outcome.USER, f"{error}; its outputs are published: {places}" if places else str(error))
    record["outputs"] = outputs
    record["values"] = kept
    return record


def _failure(claimed: Claimed, inputs: Inputs, process: Process) -> Record:
    """Return the record of a process that ended by itself, and not well."""
    error = _shim_word(claimed)
    meter = claimed.meter
    lost = meter.gpus.lost(process) if meter.gpus is not None else None
    if lost is not None:  # another machine may have a GPU that lasts, so this is no fault of the step's
        ending = error[1] if error is not None else f"exited with status {process.status}"
        return claimed.record(outcome.INFRA, f"the step lost {lost}; it ended with: {ending}")
    if _was_oom(claimed, process):
        limit = meter.group.limit() if meter.group is not None else None
        return claimed.record(
            outcome.OOM, "the out-of-memory killer took the step" + (f"; the limit is {limit} bytes" if limit else "")
        )
    if error is not None:
        kind, message, traceback = error
        kind = outcome.USER if kind == "note" else kind
        own = kind == outcome.USER and process.signal is None
        record = claimed.record(kind, message, outcome.own_status(process.status or 1) if own else None)
        if traceback:
            record["traceback"] = traceback
        return record
    if process.signal is not None:
        message = f"ended by {_signal_name(process.signal)}"
        if process.signal == signal.SIGKILL:
            message += ", and not by the out-of-memory killer"
        elif process.signal == signal.SIGBUS:
            message += _shared_memory()
    else:
        message = f"exited with status {process.status}"
        if process.status in (126, 127) and claimed.task.kind == "run":
            message += command.why_not(inputs.render(claimed.task.step["run"])[0], claimed.task.run.environ.get("PATH", ""))
    return claimed.record(outcome.USER, message, outcome.own_status(process.status or 1))


def _shared_memory() -> str:
    """Return how much /dev/shm takes: whoever maps a file there that outgrows it ends by SIGBUS."""
    try:
        room = os.statvfs("/dev/shm")
    except OSError:
        return ""
    size = room.f_blocks * room.f_frsize >> 20
    return f"; shared memory that outgrows /dev/shm ends so, and it has {size} MiB here: use less, or give the container more"


def _was_oom(claimed: Claimed, process: Process) -> bool:
    if claimed.meter.oom_kills() <= 0:
        return False
    # In a group shared with other steps the counter alone can't say whom it took.
    task = claimed.task
    return task.alone or claimed.meter.group is not task.run.group or process.signal == signal.SIGKILL


def _shim_word(claimed: Claimed) -> tuple[str, str, str] | None:
    """Return the class, the message and the traceback that a shim left."""
    if claimed.task.kind == "run" and claimed.framework != "spark":
        return None  # no shim was there
    try:
        data = values.left(claimed.file("error.json"), ERROR)
        if not data:
            return None  # the usual case, which does without an exception and what it brings
        error = wire.loads(data)
        # A step can write this file, too; so it says no more than a step may.
        kinds = (outcome.CONFIG, outcome.PLACEMENT, outcome.INFRA) if claimed.framework else (outcome.CONFIG,)
        kind = error["class"] if error["class"] in (*kinds, "note") else outcome.USER
        return kind, str(error["message"]), str(error.get("traceback", ""))
    except (ZenRunnerError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _publish(claimed: Claimed, inputs: Inputs, check: Callable[[], None]) -> dict[str, Artifact]:
    store, step, place = claimed.task.run.store, claimed.task.step, claimed.attempt.place
    if step["as"] == "url":
        return {name: artifacts.adopt(store, keys.out(*place, name), check=check) for name in step["outputs"]}
    missing = [name for name in step["outputs"] if not os.path.lexists(inputs.outputs[name])]
    if missing:
        try:
            names = os.listdir(claimed.file("out"))
        except OSError:
            names = []  # the step removed that, too
        raise UserError(
            "the step ended well but did not write "
            + ", ".join(f"output {name!r} (expected at {inputs.outputs[name]})" for name in missing)
            + "".join(artifacts.beside(name, names, f"{{outputs.{name}}}/part") for name in missing)
        )
    return {name: artifacts.publish(store, keys.out(*place, name), inputs.outputs[name], check=check) for name in step["outputs"]}


def _signal_name(number: int) -> str:
    for name in dir(signal):
        if name.startswith("SIG") and not name.startswith("SIG_") and getattr(signal, name) == number:
            return name
    return f"signal {number}"
