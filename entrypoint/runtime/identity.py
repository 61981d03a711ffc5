"""Which run, step and attempt this is, from the contract's variables and the platform's own."""

from __future__ import annotations

from backends import wire
from backends.config import placeholders
from backends.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Config = dict[str, Any]


ARG = "ZEN_RUNNER_ARG_"
# Where the run's and the attempt's name come from, first one found: ours, then the platform's own.
# Source: AWS Batch "job environment variables"; Cloud Run "container runtime contract" for jobs.
IDENTITY = (
    ("zen-runner", "ZEN_RUNNER_RUN_ID", "ZEN_RUNNER_ATTEMPT"),
    ("aws-batch", "AWS_BATCH_JOB_ID", "AWS_BATCH_JOB_ATTEMPT"),
    ("cloud-run", "CLOUD_RUN_EXECUTION", "CLOUD_RUN_TASK_ATTEMPT"),
)
# Where the item of a foreach step comes from, first one found: ours, then the platform's own.
# Source: AWS Batch "array jobs"; Kubernetes "indexed completion mode".
INDEX = ("ZEN_RUNNER_ITEM_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX", "JOB_COMPLETION_INDEX")


def identity(environ: Mapping[str, str]) -> tuple[str | None, dict[str, str]]:
    """Return the run id that the environment gives, if any, and what the platform calls this attempt."""
    for platform, run_name, attempt_name in IDENTITY:
        run = environ.get(run_name)
        if run:
            found = {"name": platform, "run": run}
            if environ.get(attempt_name):
                found["attempt"] = environ[attempt_name]
            if platform == "aws-batch":
                run = run.partition(":")[0]  # an array job's children are id:index, and belong to one run
            return run, found
    return None, {}


def member(config: Config, step: str, environ: Mapping[str, str]) -> str:
    """Return the step that is meant: itself, or the member of a ``foreach`` step that the environment's index says.

    Args:
        config: the resolved config.
        step: the name that was asked for.
        environ: this process's environment.

    Raises:
        ConfigError: there is no such step, or no item with such an index.
    """
    if step in config["steps"]:
        return step
    from backends import graph

    names = graph.members(config["steps"], step)
    if not names:
        raise ConfigError(f"no step {step!r} (the steps are: {', '.join(graph.named(config['steps']))})")
    last = len(names) - 1
    variable = next((name for name in INDEX if environ.get(name)), None)
    if variable is None:
        raise ConfigError(
            f"step {step!r} has an item for each index from 0 to {last}: name one, such as {names[0]}, or set one of "
            + ", ".join(f"${name}" for name in INDEX)
        )
    index = environ[variable]
    if not (index.isascii() and index.isdigit() and int(index) <= last):
        raise ConfigError(f"${variable} is {index!r}, and the items of step {step!r} go from 0 to {last}")
    return names[int(index)]


def with_arguments(config: Config, step: str, environ: Mapping[str, str]) -> Config:
    """Return the config with the arguments of one step that ``$ZEN_RUNNER_ARG_<NAME>`` sets, each in its own one's type.

    Args:
        config: the resolved config.
        step: the step's name.
        environ: this process's environment.

    Raises:
        ConfigError: the step has no such argument, or one of another type.
    """
    given = {name: text for name, text in environ.items() if name.startswith(ARG)}
    if not given:
        return config
    spec = config["steps"][step]
    args = dict(spec["args"])
    for variable, text in given.items():
        name = variable[len(ARG) :]
        if name not in args:
            raise ConfigError(f"${variable}: step {step!r} has no argument {name!r}; it has {', '.join(args) or 'none'}")
        # Whatever is in a value is no placeholder.
        args[name] = placeholders.escaped(_read_argument(variable, text, args[name]))
    return {**config, "steps": {**config["steps"], step: {**spec, "args": args}}}


def _read_argument(variable: str, text: str, default: Any) -> Any:
    """Return what a variable says: text for an argument that is text, else JSON of the argument's type."""
    if isinstance(default, str):
        return text
    try:
        value = wire.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"${variable} is {text!r}, which is not JSON; the config has {wire.dumps(default)} there") from error
    if type(value) in (int, float) and type(default) in (int, float) and value == type(default)(value):
        return type(default)(value)  # JSON has one kind of number
    if default is not None and type(value) is not type(default):
        raise ConfigError(f"${variable} is {text!r}, which is of another type than the config's {wire.dumps(default)}")
    return value
