"""How a step on Beam or Spark is started: its shim, and the document that the shim is given.

Everything here runs in the runner's own Python, and imports neither engine: both are the user's. What an ordinary step needs
of this is nothing, so it is loaded only for a step that has a processing backend or is of one of these kinds.
"""

from __future__ import annotations

import os

from backends import base, wire
from backends.errors import ConfigError
from backends.store import claims

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from backends.base import ProcessingBaseBackend
    from backends.store.base import Store

_SHIMS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "shims")
METRICS = 1 << 18  # bytes of metrics that a record may hold
CODE = "code.zip"
EVENTS = "spark-events"
_DEFAULT = {"beam": "direct", "spark": "spark"}


def engine_of(step: Mapping[str, Any]) -> str | None:
    """Return the engine that a resolved step runs on: ``beam``, ``spark``, or None for an ordinary step."""
    backend = _backend(step)
    return None if backend is None else backend.ENGINE


def _backend(step: Mapping[str, Any]) -> ProcessingBaseBackend | None:
    """Return a step's processing backend, the default of its kind where it names none.

    Raises:
        ConfigError: it is of no use for this kind of step, or can't be loaded.
    """
    from backends.base import ProcessingBaseBackend

    kind = next((kind for kind in _DEFAULT if kind in step), None)
    block = step.get("backend")
    if block is None or block["type"] != "processing":
        if kind is None:
            return None
        block = {"type": "processing", "source": _DEFAULT[kind], "args": {}}
    backend = base.load(block, "processing")
    assert isinstance(backend, ProcessingBaseBackend)
    if kind not in (backend.ENGINE, None) or "call" in step:
        what = kind or "call"
        raise ConfigError(f"the backend {block['source']!r} runs {backend.ENGINE} and run steps, and this is a {what} step")
    return backend


def command(
    step: Mapping[str, Any],
    *,
    python: str,
    scratch: str,
    name: str,
    root: str,
    code: str | None,
    exclude: Sequence[str],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, str],
    args: Mapping[str, Any],
    program: Sequence[str],
    memory: int | None,
) -> list[str]:
    """Return the command line of a step on Beam or Spark.

    Args:
        step: the resolved step.
        python: the user's Python.
        scratch: the attempt's own directory; documents, metrics and event logs go there.
        name: what the engine calls the job.
        root: a path or URL of the store under which the engine may keep temporary files.
        code: the directory with the user's code, None if it is in the image.
        exclude: what in it is not code.
        inputs: URLs by name.
        outputs: URLs by name.
        args: the step's arguments, filled in.
        program: of a ``run`` step, filled in.
        memory: what the container has in bytes, if that is limited.

    Raises:
        ConfigError: the backend is of no use for this kind of step.
    """
    backend = _backend(step)
    assert backend is not None
    if backend.ENGINE == "beam":
        flags = backend.get_beam_args(name, root)
        if program:
            return [*program, *flags]
        spec: dict[str, Any] = {"kind": "beam", "target": step["beam"], "options": flags}
    else:
        spec = _spark(backend, step, name, scratch, code, exclude, memory)
        spec["program"] = list(program)
    spec.update(
        inputs=inputs,
        outputs=outputs,
        args=args,
        values=os.path.join(scratch, "values.json"),
        error=os.path.join(scratch, "error.json"),
        metrics=os.path.join(scratch, "metrics.json"),
    )
    path = os.path.join(scratch, "call.json")
    with open(path, "w") as file:
        file.write(wire.dumps(spec))
    return [python, os.path.join(_SHIMS, f"{backend.ENGINE}.py"), "@" + path]


def _spark(
    backend: Any,
    step: Mapping[str, Any],
    name: str,
    scratch: str,
    code: str | None,
    exclude: Sequence[str],
    memory: int | None,
) -> dict[str, Any]:
    from backends.processing.spark import masters

    conf = backend.get_spark_conf(name, step["image"], memory)
    if backend.is_local:  # /tmp may be in memory, where what is spilled to would count against the step
        conf.setdefault("spark.local.dir", os.path.join(scratch, "spark-local"))
    if backend.event_log:
        events = os.path.join(scratch, EVENTS)
        os.makedirs(events, exist_ok=True)
        conf.update({"spark.eventLog.enabled": "true", "spark.eventLog.dir": f"file://{events}"})
    files = []
    for file in backend.py_files:
        path = os.path.join(code or os.getcwd(), file)
        if not os.path.exists(path):
            raise ConfigError(f"py_files: {path} does not exist; paths start from the code's directory")
        files.append(path)
    if not backend.is_local and code is not None:
        files.append(_zip(code, exclude, os.path.join(scratch, CODE)))
    return {
        "kind": "spark",
        "target": step.get("spark", "spark-submit"),
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


def metrics(scratch: str) -> dict[str, Any] | None:
    """Return what the engine counted, as its shim wrote it; None if it wrote nothing of use."""
    try:
        with open(os.path.join(scratch, "metrics.json"), "rb") as file:
            found = wire.loads(file.read(METRICS))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


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
