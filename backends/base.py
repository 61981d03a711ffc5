"""What every backend is: a class, its JSON arguments, and one of three roles.

A backend's parameters are the signature of its ``__init__``, with types and defaults. It stores what it needs and
does nothing else; ``BaseBackend`` checks the arguments before ``__init__`` sees them, and keeps them for
``to_config``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from backends import registry, wire
from backends.errors import ConfigError, InfraError, Problem
from backends.states import CANCELLED, FAILED, SKIPPED, SUCCEEDED, UNKNOWN
from backends.text import did_you_mean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, ClassVar, Self

    from backends.config.transport import Limits
    from backends.execution import Execution, Report
    from backends.names import Rule
    from backends.orchestrator.remote.job import Job
    from backends.platform import Document, Platform
    from backends.store.base import Store
    from backends.view import RunView


class BaseBackend(ABC):
    """A backend of any role, made from keyword arguments that are JSON values.

    Two backends are equal if they are of the same class and have the same arguments, defaults included.

    Raises:
        ConfigError: an argument is unknown, missing, not JSON or of another type than ``__init__`` declares.
    """

    BACKEND_TYPE: ClassVar[str]
    _args: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        code = getattr(cls.__init__, "__code__", None)
        if code is not None and code.co_flags & 0x0C:  # inspect.CO_VARARGS | CO_VARKEYWORDS
            raise TypeError(f"{cls.__qualname__}.__init__ must name its parameters: no *args, no **kwargs")

    def __new__(cls, **args: Any) -> Self:
        defaults, required = cls._parameters()
        problems = [
            Problem("", f"args.{name}", f"{_title(cls)} takes no such argument{_hint(name, [*required, *defaults])}")
            for name in args
            if name not in defaults and name not in required
        ]
        problems += [Problem("", f"args.{name}", f"{_title(cls)} needs this argument") for name in required if name not in args]
        problems += _wrong_types(cls, {name: args[name] for name in args if name in defaults or name in required})
        if problems:
            raise ConfigError(problems)
        self = super().__new__(cls)
        self._args = wire.dumps({**defaults, **args})
        return self

    @classmethod
    def _parameters(cls) -> tuple[dict[str, Any], list[str]]:
        """Return the defaults of ``__init__``'s parameters by name, and the names of those that have none."""
        function: Any = cls.__init__
        code = getattr(function, "__code__", None)
        if code is None:  # object's own, which takes none
            return {}, []
        known = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
        positional = code.co_varnames[: code.co_argcount]
        values = function.__defaults__ or ()
        defaults = dict(zip(positional[len(positional) - len(values) :], values, strict=True))
        defaults.update(function.__kwdefaults__ or {})
        return {name: defaults[name] for name in known if name in defaults}, [n for n in known if n not in defaults]

    @property
    def args(self) -> dict[str, Any]:
        """All arguments, defaults filled in; a fresh copy."""
        args: dict[str, Any] = wire.loads(self._args)
        return args

    def to_config(self) -> dict[str, Any]:
        """Return the block that makes an equal backend in any process: ``{"type", "source", "args"}``.

        Raises:
            ConfigError: the class is one that no other process could import.
        """
        return {"type": self.BACKEND_TYPE, "source": registry.source_of(type(self), self.BACKEND_TYPE), "args": self.args}

    @classmethod
    def from_config(cls, block: Mapping[str, Any]) -> Self:
        """Return the backend that a block describes, which must be of this class or one derived from it.

        Args:
            block: ``{"type", "source", "args"}``, as ``to_config`` returns it.

        Raises:
            ConfigError: the block is wrong, or describes a backend of another kind.
        """
        found = load(block, getattr(cls, "BACKEND_TYPE", None))
        if not isinstance(found, cls):
            raise ConfigError(f"{found!r} is no {cls.__qualname__}")
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BaseBackend):
            return NotImplemented
        return type(self) is type(other) and self._args == other._args

    def __hash__(self) -> int:
        return hash((type(self), self._args))

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in self.args.items())})"

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), self.args  # copy and pickle call __new__ with these


class OrchestratorBaseBackend(BaseBackend):
    """Where the pipeline's steps run and who orders them.

    ``run`` waits for the pipeline's end; ``submit`` returns once it is on its way, with a handle that any later
    process can use. A handle is a JSON object: store it, print it, hand it on.
    """

    BACKEND_TYPE = "orchestrator"

    @abstractmethod
    def render(self, config: Mapping[str, Any], run_id: str = "{run}") -> list[dict[str, Any]]:
        """Return the documents that this backend would hand to its platform; pure, offline and deterministic.

        Args:
            config: the resolved config.
            run_id: the run's id; by default something that stands for one.
        """

    ships: ClassVar[bool] = False
    """Whether the code travels: what is submitted is a shipped config, and the code's archive is in the store."""

    def mounts(self) -> list[str]:
        """Return the local directories that the containers see under the same paths."""
        return []

    def runs_here(self) -> bool:
        """Return whether steps are processes of this machine, started by the launcher that the entrypoint hands over."""
        return False

    @abstractmethod
    def run(self, execution: Execution) -> dict[str, Any]:
        """Run the pipeline to its end and return the summary that ``driver.drive`` describes.

        Raises:
            ConfigError: the run id belongs to a run of another config.
            InfraError: the store or the platform could not be reached.
        """

    @abstractmethod
    def submit(self, config: Mapping[str, Any], run_id: str, store: Store) -> dict[str, Any]:
        """Start the pipeline without waiting for it, and return its handle.

        Raises:
            DuplicateError: a live driver has this run already.
            InfraError: the store or the platform could not be reached.
        """

    def wait(
        self,
        handle: Mapping[str, Any],
        *,
        report: Report | None = None,
        stop_requested: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Wait for the end of a submitted run and return the summary that ``driver.drive`` describes.

        Args:
            handle: what ``submit`` returned.
            report: called with each event; None for silence.
            stop_requested: called often; True cancels the run.

        Raises:
            InfraError: how the run does could not be learned for ``BLIND`` seconds.
        """
        import time

        from backends.store import open_store, records

        told, sighted = False, time.monotonic()
        while (status := self.status(handle))["state"] not in (SUCCEEDED, FAILED, CANCELLED):
            if status["state"] != UNKNOWN:
                sighted = time.monotonic()
            elif time.monotonic() - sighted > BLIND:
                raise InfraError(f"run {handle['run']!r} can't be followed any more: {status['message']}")
            if not told and stop_requested is not None and stop_requested():
                self.cancel(handle)
                told = True
            time.sleep(0.2)
        store = open_store(handle["store"])
        skipped = {step: "an earlier step failed" for step, state in status["steps"].items() if state == SKIPPED}
        summary = {
            **(records.read_run(store, handle["run"]) or {}),
            **{key: status[key] for key in ("run", "class", "exit_code", "message")},
            "resumed": [],
            "steps": records.results(store, handle["run"]),
            "skipped": skipped,
        }
        if report is not None:
            report("run_finished", summary=summary)
        return summary

    @abstractmethod
    def view(self, handle: Mapping[str, Any]) -> RunView:
        """Return what looks at a submitted run.

        Raises:
            InfraError: the store could not be read, or does not have the run's config.
        """

    @abstractmethod
    def status(self, handle: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is known of a submitted run.

        Returns:
            ``{"run", "state", "class", "exit_code", "message", "steps": {name: state}}``; a state is one of
            ``states.STATES``. One that could not be read is ``unknown``, and ``message`` says why.
        """

    @abstractmethod
    def logs(self, handle: Mapping[str, Any], step: str | None = None, follow: bool = False) -> Iterator[bytes]:
        """Yield what a step printed, in order; what the driver printed where ``step`` is None.

        Args:
            handle: what ``submit`` returned.
            step: the step's name.
            follow: go on until the step has ended.
        """

    @abstractmethod
    def cancel(self, handle: Mapping[str, Any]) -> None:
        """Ask a submitted run to stop; a run that has ended, or was asked before, is left as it is.

        Raises:
            InfraError: the run could not be reached from here.
        """


BLIND = 600.0
"""Seconds for which a run's state may be unknown while somebody waits for its end."""


class ProcessingBaseBackend(BaseBackend):
    """Where the workers of a ``beam`` or ``spark`` step run.

    Attributes:
        FRAMEWORK: ``beam`` or ``spark``: the kind of step that this backend takes, beside ``run`` steps that start a program of
            that engine.
    """

    BACKEND_TYPE = "processing"
    FRAMEWORK: ClassVar[str] = "beam"

    def get_beam_args(self, pipeline_name: str, pipeline_root: str) -> list[str]:
        """Return the command-line options for Beam's pipeline; none means that Beam runs in the step's own process.

        Args:
            pipeline_name: the pipeline's name, for the platform's job name.
            pipeline_root: the URL under which temporary and staged files may be written.
        """
        return []


class TrainingBaseBackend(BaseBackend):
    """Where a step that trains runs: where it was started, or as a job of a platform.

    A backend of the second kind says so in ``runs_here`` and writes ``render_job`` and ``platform``. The job is an ordinary
    container: it claims the step and writes its record, and whoever started it only waits.

    Attributes:
        limits: what the platform holds of a config.
        rule: what the platform takes for a name.
        config_path: where a mounted config lies in the container.
        startup_timeout: seconds that the job may take until it runs; None for ever. A backend makes this an argument of its own.
    """

    BACKEND_TYPE = "training"
    limits: ClassVar[Limits]
    rule: ClassVar[Rule]
    config_path: ClassVar[str] = ""
    startup_timeout: float | None = 3600.0

    def runs_here(self) -> bool:
        """Return whether a step runs where it was started, and not as a job of a platform."""
        return True

    def mounts(self) -> list[str]:
        """Return the local directories that the container sees under the same paths."""
        return []

    def count_variables(self, env: Mapping[str, str]) -> int:
        """Return what a container's variables beside the config count towards ``limits``."""
        return 0

    def render_job(self, job: Job, config: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> list[Document]:
        """Return what the platform is asked to start, after the documents of what that refers to; offline.

        Args:
            job: the container.
            config: the shipped config.
            environ: that of whoever starts it; None leaves out all that depends on it.

        Raises:
            ConfigError: the platform can't run this.
            PlacementError: something is missing where it is started, such as a secret's variable.
        """
        raise TypeError(f"{type(self).__qualname__} runs a step where it was started, or must define render_job")

    def platform(self, store: Store) -> Platform:
        """Return the platform, for one job.

        Args:
            store: the run's.
        """
        raise TypeError(f"{type(self).__qualname__} runs a step where it was started, or must define platform")


def class_of(role: str, source: str) -> type[BaseBackend]:
    """Return the backend class that a role and a ``source`` name, importing its module.

    Args:
        role: ``orchestrator``, ``processing`` or ``training``.
        source: a short name or ``package.module:Class``.

    Raises:
        ConfigError: no such name, the module can't be imported, or what it names is no usable backend of this role.
    """
    target, cls = registry.target_of(role, source)
    role_base = _ROLE_BASES[role]
    if not (isinstance(cls, type) and issubclass(cls, role_base)):
        module_name, _, qualname = target.partition(":")
        what = f"module {module_name!r} has no {qualname!r}" if cls is None else f"{target} is no {role_base.__name__}"
        raise registry.wrong("source", f"{what}; a backend of type {role} is a subclass of backends.base.{role_base.__name__}")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise registry.wrong("source", f"{target} can't be used: it does not define {', '.join(missing)}")
    return cls


def load(block: Mapping[str, Any], role: str | None = None) -> BaseBackend:
    """Return the backend that a config's block describes.

    Args:
        block: ``{"type", "source", "args"}``; ``args`` may be left out, and ``type`` too where ``role`` is given.
        role: the only type that is right here, or None for any.

    Raises:
        ConfigError: the block, its source or its arguments are wrong; the problems' paths start inside the block.
    """
    if not isinstance(block, dict) or not all(isinstance(key, str) for key in block):
        raise ConfigError("a backend is a mapping of type, source and args")
    keys = ("type", "source", "args")
    if unknown := [key for key in block if key not in keys]:
        raise ConfigError([Problem("", key, f"unknown key{did_you_mean(key, keys)}") for key in unknown])
    kind, source, args = block.get("type", role), block.get("source"), block.get("args", {})
    for key, value, wanted in (("type", kind, str), ("source", source, str), ("args", args, dict)):
        if not isinstance(value, wanted):
            raise registry.wrong(key, f"expected a {'mapping' if wanted is dict else 'string'}, got {value!r}")
    if role is not None and kind != role:
        raise registry.wrong("type", f"a backend of type {role} is needed here, not {kind}")
    return class_of(kind, source)(**args)  # type: ignore[arg-type]


_ROLE_BASES: dict[str, type[BaseBackend]] = {
    "orchestrator": OrchestratorBaseBackend,
    "processing": ProcessingBaseBackend,
    "training": TrainingBaseBackend,
}


def _title(cls: type[BaseBackend]) -> str:
    return cls.__qualname__


def _hint(name: str, known: list[str]) -> str:
    return f"{did_you_mean(name, known)}; it takes {', '.join(known) or 'none'}"


def _wrong_types(cls: type[BaseBackend], args: dict[str, Any]) -> list[Problem]:
    annotations: dict[str, Any] = getattr(cls.__init__, "__annotations__", {})
    doubtful = {name: value for name, value in args.items() if not _is_plainly(value, annotations.get(name))}
    if not doubtful:
        return []  # the usual case, which then does without two imports that take longer than a start of Python
    from typing import Any, Literal, get_type_hints

    import msgspec

    hints = get_type_hints(cls.__init__, localns={"Any": Any, "Literal": Literal})
    problems = []
    for name, value in doubtful.items():
        try:
            if not _is_json(value):
                raise msgspec.ValidationError("Not a JSON value")
            msgspec.convert(value, hints.get(name, Any))
        except msgspec.ValidationError as error:
            problems.append(Problem("", f"args.{name}", f"{error}; {_title(cls)} declares {name}: {hints.get(name)}"))
    return problems


def _is_plainly(value: object, annotation: object) -> bool:
    """Return whether the value is a JSON scalar whose type the annotation's text names, such as 3 for ``int | None``."""
    if type(value) not in (str, int, bool, float, type(None)) or not _is_json(value):
        return False
    name = "None" if value is None else type(value).__name__
    return isinstance(annotation, str) and name in annotation.split(" | ")


def _is_json(value: object) -> bool:
    """Return whether the value comes back from JSON equal and of the same types."""
    if type(value) is float:
        return value - value == 0  # neither infinite nor NaN
    if type(value) is list:
        return all(map(_is_json, value))
    if type(value) is dict:
        return all(type(key) is str for key in value) and all(map(_is_json, value.values()))
    return value is None or type(value) in (str, int, bool)
