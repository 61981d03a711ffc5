"""How a step on Beam or Spark is started: its shim, and the document that the shim is given.

Everything here runs in the runner's own Python, and imports neither framework: both are the user's. What an ordinary step needs
of this is nothing, so it is loaded only for a step that has a processing backend or is of one of these kinds.
"""

from __future__ import annotations

import os

from backends import base, wire
from backends.errors import ConfigError, ZenRunnerError
from backends.store import claims, keys
from entrypoint.runtime.run import has_framework, kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from backends.base import ProcessingBaseBackend
    from backends.store.base import Store
    from backends.store.records import Record
    from entrypoint.runtime.claimed import Claimed
    from entrypoint.runtime.inputs import Inputs

_SHIMS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "shims")
METRICS = 1 << 18  # bytes of metrics that a record may hold
CODE = "code.zip"
EVENTS = "spark-events"
_DEFAULT = {"beam": "direct", "spark": "spark"}


def framework_of(step: Mapping[str, Any]) -> str | None:
    """Return what a resolved step runs on: ``beam``, ``spark``, or None for an ordinary step.

    Raises:
        ConfigError: its backend is of no use for this kind of step, or can't be loaded.
    """
    return _backend(step).FRAMEWORK if has_framework(step) else None


def command(claimed: Claimed, inputs: Inputs) -> list[str]:
    """Return the command line of a step on Beam or Spark, and note which of them it is.

    Args:
        claimed: the attempt; documents, metrics and event logs go to its scratch directory.
        inputs: what it is given.

    Raises:
        ConfigError: the backend is of no use for this kind of step.
    """
    task, run = claimed.task, claimed.task.run
    backend = _backend(task.step)
    claimed.framework = backend.FRAMEWORK
    args = inputs.values(task.step["args"])
    program = inputs.render(task.step["run"]) if task.kind == "run" else []
    name = f"{run.config['name']}-{task.name}-{run.run}"
    if backend.FRAMEWORK == "beam":
        flags = backend.get_beam_args(name, run.store.url_of(keys.scratch(*claimed.attempt.place)))
        if program:
            return [*program, *flags]
        spec: dict[str, Any] = {"kind": "beam", "target": task.step["beam"], "options": flags}
    else:
        spec = {**_spark(backend, claimed, name), "program": program}
    spec.update(
        inputs=inputs.paths,
        outputs=inputs.outputs,
        args=args,
        values=claimed.file("values.json"),
        error=claimed.file("error.json"),
        metrics=claimed.file("metrics.json"),
    )
    path = claimed.file("call.json")
    with open(path, "w") as file:
        file.write(wire.dumps(spec))
    return [run.python, os.path.join(_SHIMS, f"{backend.FRAMEWORK}.py"), "@" + path]


def _backend(step: Mapping[str, Any]) -> ProcessingBaseBackend:
    """Return a step's processing backend, the default of its kind where it names none."""
    from backends.base import ProcessingBaseBackend

    kind, block = kind_of(step), step.get("backend")
    if block is None or block["type"] != "processing":
        block = {"type": "processing", "source": _DEFAULT[kind], "args": {}}
    backend = base.load(block, "processing")
    assert isinstance(backend, ProcessingBaseBackend)
    if kind not in (backend.FRAMEWORK, "run"):
        raise ConfigError(f"the backend {block['source']!r} runs {backend.FRAMEWORK} and run steps, and this is a {kind} step")
    return backend


def _spark(backend: Any, claimed: Claimed, name: str) -> dict[str, Any]:
    from backends.processing.spark import masters

    task, run = claimed.task, claimed.task.run
    code = run.cwd if run.config["code"] else None
    memory = task.memory or task.step["resources"]["memory"]
    if not memory and run.group is not None and task.alone:
        memory = run.group.limit()
    conf = backend.get_spark_conf(name, task.step["image"], memory)
    if backend.is_local:  # /tmp may be in memory, where what is spilled to would count against the step
        conf.setdefault("spark.local.dir", claimed.file("spark-local"))
    if backend.event_log:
        events = claimed.file(EVENTS)
        os.makedirs(events, exist_ok=True)
        conf.update({"spark.eventLog.enabled": "true", "spark.eventLog.dir": f"file://{events}"})
    files = []
    for file in backend.py_files:
        path = os.path.join(code or os.getcwd(), file)
        if not os.path.exists(path):
            raise ConfigError(f"py_files: {path} does not exist; paths start from the code's directory")
        files.append(path)
    if not backend.is_local and code is not None:
        files.append(_zip(code, [run.store.root] if run.store.root else [], claimed.file(CODE)))
    return {
        "kind": "spark",
        "target": task.step.get("spark", "spark-submit"),
        "master": backend.master,
        "addresses": masters(backend.master),
        "local": backend.is_local,
        "conf": conf,
        "files": files,
        "startup_timeout": backend.startup_timeout,
        "idle_timeout": backend.idle_timeout,
    }


def _zip(code: str, exclude: Sequence[str], path: str) -> str:
    """Write what ships of the code's directory as an archive that Python imports from, and return its path."""
    import zipfile

    from backends.shipping import listing

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in listing.listing(code, exclude=exclude):
            archive.write(os.path.join(code, entry.path), entry.path)
    return path


def add_counts(claimed: Claimed, framework: str, record: Record) -> None:
    """Add to a record what the framework counted, and keep Spark's event log."""
    record["engine"] = framework
    record["metrics"] = read_metrics(claimed.file("metrics.json"))
    if framework == "spark":
        try:
            record["event_log"] = keep_events(claimed.task.run.store, claimed.attempt, claimed.scratch)
        except (ZenRunnerError, OSError) as error:  # the result doesn't hang on it
            record["event_log_lost"] = str(error)


def read_metrics(path: str) -> dict[str, Any]:
    """Return what the framework counted, as its shim wrote it; nothing if that is of no use."""
    try:
        with open(path, "rb") as file:
            counts = wire.loads(file.read(METRICS))
    except (OSError, ValueError):
        return {}
    return counts if isinstance(counts, dict) else {}


def keep_events(store: Store, attempt: claims.Attempt, scratch: str) -> list[str]:
    """Bring Spark's event logs into the store, and return their keys.

    Raises:
        InfraError: the store could not be written.
    """
    folder = os.path.join(scratch, EVENTS)
    kept = []
    for above, _, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(above, name)
            if name.endswith(".crc") or os.path.islink(path) or not os.path.isfile(path):
                continue  # the step can write here, too: a pipe would be read for ever
            key = f"{attempt.prefix}/{EVENTS}/{os.path.relpath(path, folder)}"
            store.upload(key, path)
            kept.append(key)
    return sorted(kept)
