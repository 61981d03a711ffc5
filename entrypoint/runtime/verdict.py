"""Judge how a step's process ended, and publish what it left if it ended well."""

from __future__ import annotations

import os

from backends import outcome, wire
from backends.errors import UserError
from backends.files import read_regular
from backends.store import artifacts, keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any

    from backends.store.digests import Artifact
    from backends.store.records import Record
    from entrypoint.runtime.child import Process
    from entrypoint.runtime.claimed import Claimed
    from entrypoint.runtime.inputs import Inputs
else:
    import _signal as signal


VALUES = 1 << 20  # bytes of values that a step may return


def judge(claimed: Claimed, inputs: Inputs, process: Process) -> Record:
    """Return the attempt's record, with its outputs published if its process ended well.

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
        return _failure(claimed, process)
    values = _read_values(claimed.file("values.json"))
    outputs = _publish(claimed, inputs)
    record = claimed.record(outcome.SUCCESS, "")
    record["outputs"] = outputs
    record["values"] = values
    return record


def _failure(claimed: Claimed, process: Process) -> Record:
    """Return the record of a process that ended by itself, and not well."""
    error = _shim_error(claimed)
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
        record = claimed.record(kind, message)
        if traceback:
            record["traceback"] = traceback
        return record
    if process.signal is not None:
        message = f"ended by {_signal_name(process.signal)}"
        if process.signal == signal.SIGKILL:
            message += ", and not by the out-of-memory killer"
    else:
        message = f"exited with status {process.status}"
    return claimed.record(outcome.USER, message, outcome.own_status(process.status or 1))


def _was_oom(claimed: Claimed, process: Process) -> bool:
    if claimed.meter.oom_kills() <= 0:
        return False
    # In a group shared with other steps the counter alone can't say whom it took.
    task = claimed.task
    return task.alone or claimed.meter.group is not task.run.group or process.signal == signal.SIGKILL


def _shim_error(claimed: Claimed) -> tuple[str, str, str] | None:
    """Return the class, the message and the traceback that a shim left."""
    if claimed.task.kind == "run" and claimed.framework != "spark":
        return None  # no shim was there
    try:
        error = wire.loads(read_regular(claimed.file("error.json"), VALUES))
        # A step can write this file, too; so it says no more than a step may.
        kinds = (outcome.CONFIG, outcome.PLACEMENT, outcome.INFRA) if claimed.framework else (outcome.CONFIG,)
        kind = error["class"] if error["class"] in kinds else outcome.USER
        return kind, str(error["message"]), str(error.get("traceback", ""))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read_values(path: str) -> dict[str, Any]:
    try:
        data = read_regular(path, VALUES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"the step's values can't be read: {error}; $ZEN_VALUES is to be an ordinary file") from error
    if len(data) > VALUES:
        raise UserError(f"the step's values are larger than {VALUES} bytes; write an output instead")
    try:
        values = wire.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the step wrote values that are not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"the step's values must be a JSON mapping, not a {type(values).__name__}")
    return values


def _publish(claimed: Claimed, inputs: Inputs) -> dict[str, Artifact]:
    store, step, place = claimed.task.run.store, claimed.task.step, claimed.attempt.place
    if step["as"] == "url":
        return {name: artifacts.adopt(store, keys.out(*place, name)) for name in step["outputs"]}
    missing = [name for name in step["outputs"] if not os.path.lexists(inputs.outputs[name])]
    if missing:
        names = os.listdir(claimed.file("out"))
        raise UserError(
            "the step ended well but did not write "
            + ", ".join(f"output {name!r} (expected at {inputs.outputs[name]})" for name in missing)
            + "".join(artifacts.beside(name, names, f"{{outputs.{name}}}/part") for name in missing)
        )
    return {name: artifacts.publish(store, keys.out(*place, name), inputs.outputs[name]) for name in step["outputs"]}


def _signal_name(number: int) -> str:
    for name in dir(signal):
        if name.startswith("SIG") and not name.startswith("SIG_") and getattr(signal, name) == number:
            return name
    return f"signal {number}"
