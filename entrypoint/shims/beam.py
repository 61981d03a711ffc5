"""Run one ``beam`` step inside the user's Python: the function builds a pipeline, and this runs it.

Like ``call.py``, which it loads for what they share, it gives the step nothing of zen-runner to import. Its document:

    {"kind": "beam", "target": "package.module:function", "options": [flag], "inputs": {name: url}, "outputs": {name: url},
     "args": {...}, "values": path, "error": path, "metrics": path}

The function gets ``(pipeline, inputs, outputs)`` and the args by name, and adds its transforms to the pipeline. It must not run
it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FIRST = ("pipeline", "inputs", "outputs")


def _load(name: str) -> Any:
    """Load a file next to this one, under a name that no module of the user's has."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec: Any = spec_from_file_location("_" + name, os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_options(shim: Any, spec: dict[str, Any]) -> Any:
    """Return the options, or end with the first that nothing reads: Beam itself only warns of such."""
    from apache_beam.options.pipeline_options import PipelineOptions

    try:
        options = PipelineOptions(spec["options"])
        options_read = options.get_all_options()
    except SystemExit:  # argparse's way; it has said why on stderr
        shim.fail(spec, "config", "beam: a pipeline option can't be read; see the line above")
    import difflib

    for flag in spec["options"]:
        name = flag[2:].partition("=")[0]
        if name in options_read or (name.startswith("no_") and name[3:] in options_read):
            continue
        near = difflib.get_close_matches(name, list(options_read), 1)
        hint = " (did you mean %r?)" % near[0] if near else ""
        message = "beam: no pipeline option %r%s; nothing in Beam or in %s reads it" % (name, hint, spec["target"])
        shim.fail(spec, "config", message)
    return options


def _own_frames(error: BaseException) -> list[str]:
    """Return the traceback of a pipeline's failure with the user's frames alone."""
    import apache_beam

    frames = _load("frames")
    text = str(error)
    # An error of a worker in another process has its traceback as text only.
    lines = frames.last_of(text) if frames.BEGIN in text else frames.of(error)
    # Compiled parts of Beam have paths that start at the package's own name.
    places = (os.path.dirname(os.path.abspath(apache_beam.__file__)) + os.sep, "apache_beam/")
    own: list[str] = frames.users([line for line in lines if line.strip()], lambda file: file.startswith(places))
    return own


def _message(error: BaseException, trace: list[str]) -> str:
    frames = _load("frames")
    last = next((line for line in trace[1:] if not line.startswith(" ")), "")
    said = last or "%s: %s" % (type(error).__name__, error)
    if "pickle" in said:
        said = said.partition(". User code must")[0]  # Beam's own advice, which is longer
        said += "; what a transform refers to has to reach workers: make it in setup(), or pass what it is made from"
    return said + str(frames.place(trace))


def _metrics(result: Any) -> dict[str, Any]:
    """Return what the pipeline counted: counters, distributions and gauges, each by step, namespace and name."""
    metrics: dict[str, list[dict[str, Any]]] = {}
    for kind, values in result.metrics().query().items():
        for value in values:
            # An attempted value is all that some runners have.
            count = value.committed if value.committed is not None else value.attempted
            if hasattr(count, "sum"):
                count = {name: getattr(count, name) for name in ("sum", "count", "min", "max", "mean")}
            elif hasattr(count, "value"):
                count = count.value
            if not isinstance(count, (int, float, dict)) or count != count:
                continue
            if isinstance(count, dict) and not count["count"]:
                continue  # nothing was counted, so there is no mean
            name = value.key.metric
            metrics.setdefault(kind, []).append(
                {"step": value.key.step, "namespace": name.namespace, "name": name.name, "value": count}
            )
    return metrics


def _write_metrics(spec: dict[str, Any], result: Any) -> None:
    import json

    try:
        text = json.dumps(_metrics(result), allow_nan=False)
    except Exception as error:  # no metrics are no reason to fail: some runners have none
        sys.stderr.write("zen-runner: the pipeline's metrics can't be had: %s: %s\n" % (type(error).__name__, error))
        return
    with open(spec["metrics"] + ".new", "w") as file:
        file.write(text)
    os.replace(spec["metrics"] + ".new", spec["metrics"])


def _end_with_its_workers(shim: Any, spec: dict[str, Any]) -> None:
    """End the step when a worker process dies: Beam's direct runner would wait for it for ever.

    Its thread that waits for the process raises then, which nothing else notices.
    """
    import threading

    usual = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        usual(args)
        if args.thread is not None and args.thread.name == "run_worker":
            message = "a worker process of the pipeline died (%s); what it printed last is in the log" % args.exc_value
            shim.write_error(spec, "user", message)
            os._exit(1)

    threading.excepthook = hook


def _fail(shim: Any, spec: dict[str, Any], error: BaseException) -> None:
    own = _own_frames(error)
    text = "\n".join(own)
    sys.stderr.write(text + "\n")
    shim.fail(spec, "user", _message(error, own), text)


def main() -> None:
    """Run the step."""
    shim = _load("call")
    spec = shim.read()
    try:
        import apache_beam as beam
    except ImportError as error:
        message = "steps of kind beam need Apache Beam, and %s can't import it (%s)" % (sys.executable, error)
        shim.fail(spec, "placement", message + "; use the image zen-runner:beam, or pip install apache-beam")
    function = shim.find(spec, spec["target"])
    shim.check(spec, function, dict(spec["args"]), FIRST)
    options = _check_options(shim, spec)
    try:
        pipeline = beam.Pipeline(options=options)
    except (ValueError, ImportError) as error:
        shim.fail(spec, "config", "beam: %s" % error)
    _end_with_its_workers(shim, spec)
    try:
        returned = shim.call(function, pipeline, spec["inputs"], spec["outputs"], **spec["args"])
        result = pipeline.run()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        _fail(shim, spec, error)
    try:
        state = result.wait_until_finish()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        _write_metrics(spec, result)
        _fail(shim, spec, error)
    _write_metrics(spec, result)
    if state not in ("DONE", None):
        shim.fail(spec, "user", "the pipeline ended in state %s" % state)
    shim.save_returned(spec, returned)


if __name__ == "__main__":
    main()
