"""Start a step's process: its command line, its environment, and what is needed to run it again."""

from __future__ import annotations

import errno
import os

from backends import wire
from backends.config import placeholders
from backends.errors import ConfigError, InfraError, PlacementError, UserError, ZenRunnerError
from backends.store import keys
from entrypoint.runtime.identity import ARG
from entrypoint.runtime.proc import find_program
from entrypoint.runtime.run import has_framework

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from entrypoint.runtime.child import Process
    from entrypoint.runtime.claimed import Claimed, Task
    from entrypoint.runtime.inputs import Inputs


_SECRET = 131_072  # characters: no variable can be longer
_MACHINES = {3: "i386", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64le", 22: "s390x"}
ARGUMENT = 131_000  # bytes a single argument may have on Linux (MAX_ARG_STRLEN is 131,072), less a little
SHIM = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "shims", "call.py")


def launch(claimed: Claimed, inputs: Inputs) -> Process:
    """Start the step's process.

    Raises:
        ZenRunnerError: it can't be started.
    """
    task = claimed.task
    env = _environment(claimed, inputs)
    argv = _argv(claimed, inputs)
    for where, text in [*((f"run[{number}]", text) for number, text in enumerate(argv)), *env.items()]:
        _check_text(f"steps.{task.name}: {where}", text)
    _write_replay(claimed)
    group = task.run.group
    if task.memory is not None and group is not None:
        child = group.child(f"zen-runner-{os.getpid()}-{task.name}-{claimed.attempt.number}", task.memory)
        if child is not None:
            group = claimed.meter.group = child
            # The shell moves itself in and becomes the program, so that not one page is charged elsewhere.
            find_program(argv[0], env.get("PATH", os.defpath))
            argv = ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', child.procs, *argv]
    claimed.meter.enter(group)
    task.stop.check()
    timeout, grace = task.step["timeout"], task.step["grace_period"]
    try:
        process = task.supervisor.spawn(argv, env, output=claimed.print, timeout=timeout, grace=grace)
    except OSError as error:
        raise _unstartable(task, argv, env, error) from error
    claimed.meter.process = process
    if claimed.meter.gpus is not None:
        claimed.meter.gpus.watch(process)
    return process


def _check_text(where: str, text: str) -> None:
    if "\0" in text:
        raise ConfigError(f"{where} holds a NUL character, which no program can be given")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        char = ascii(text[error.start])
        raise ConfigError(f"{where} holds {char}, which is no text that a program can be given here ({error.encoding})") from None


def _argv(claimed: Claimed, inputs: Inputs) -> list[str]:
    task = claimed.task
    if has_framework(task.step):
        from entrypoint.runtime import processing

        return processing.command(claimed, inputs)
    if task.kind == "run":
        return inputs.render(task.step["run"])
    spec = wire.dumps(
        {
            "kind": "call",
            "target": task.step["call"],
            "as": task.step["as"],
            "paths": {**inputs.paths, **inputs.outputs},
            "args": inputs.values(task.step["args"]),
            "values": claimed.file("values.json"),
            "error": claimed.file("error.json"),
        }
    )
    if len(spec) > ARGUMENT:
        path = claimed.file("call.json")
        with open(path, "w") as file:
            file.write(spec)
        spec = "@" + path
    return [task.run.python, SHIM, spec]


def _environment(claimed: Claimed, inputs: Inputs) -> dict[str, str]:
    task, run, gpus = claimed.task, claimed.task.run, claimed.meter.gpus
    env = {name: value for name, value in run.environ.items() if not name.startswith(("ZEN_RUNNER_", "ZEN_ITEM"))}
    env.setdefault("PYTHONUNBUFFERED", "1")
    env.update({"CUDA_VISIBLE_DEVICES": ""} if gpus is None else gpus.variables())  # none asked for: none seen
    for name, value in {**run.config["env"], **task.step["env"]}.items():
        env[name] = placeholders.render(inputs.values(value))
    for name, reference in run.config["secrets"].items():
        env[name] = _secret(name, reference, run.environ)
    env["ZEN_RUN_ID"] = run.run
    env["ZEN_STEP"] = task.name
    env["ZEN_ATTEMPT"] = str(claimed.attempt.number)
    if task.step["foreach"] is not None:
        env["ZEN_ITEM"] = wire.dumps(task.step["foreach"]["item"])
        env["ZEN_ITEM_INDEX"] = str(task.step["foreach"]["index"])
    env["ZEN_CLAIM"] = claimed.attempt.token
    env["ZEN_VALUES"] = claimed.file("values.json")
    for name, path in inputs.paths.items():
        text = placeholders.render(path)
        if len(text) < ARGUMENT or task.kind != "call":  # a function has the list itself, however many URLs there are
            env["ZEN_INPUT_" + name.upper()] = text
    for name, path in inputs.outputs.items():
        env["ZEN_OUTPUT_" + name.upper()] = path
    env["TRACEPARENT"] = _traceparent(run.environ.get("TRACEPARENT", ""), run.run)
    return env


def _secret(name: str, reference: dict[str, Any], environ: Mapping[str, str]) -> str:
    """Return a secret without the line end that an editor or ``echo`` leaves; from whichever place, it is the same text."""
    if "file" in reference:
        try:
            with open(reference["file"], encoding="utf-8", newline="") as file:
                text = file.read(_SECRET + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise PlacementError(f"secrets.{name}: the file {reference['file']} can't be read: {error}") from error
        if len(text) > _SECRET:
            raise PlacementError(f"secrets.{name}: the file {reference['file']} is larger than a variable can be")
        return text.rstrip("\r\n")
    # Kubernetes, AWS and Google hand a secret over as an environment variable of the secret's own name.
    variable = reference.get("env", name)
    if variable not in environ:
        kind = next(iter(reference))
        raise PlacementError(
            f"secrets.{name}: ${variable} is not set here"
            + ("" if kind == "env" else f", and a {kind} reference can only be read by its platform")
        )
    return environ[variable].rstrip("\r\n")


def _traceparent(parent: str, run: str) -> str:
    """Return the step's W3C trace context: the caller's trace, or one made of the run's id, with a span of its own.

    Source: W3C Trace Context, section 3.2.
    """
    parts = parent.split("-")
    span = os.urandom(8).hex()
    if len(parts) >= 4 and len(parts[1]) == 32 and len(parts[2]) == 16 and parts[1].strip("0"):
        return f"{parts[0]}-{parts[1]}-{span}-{parts[3]}"
    return f"00-{wire.sha256(run.encode())[:32]}-{span}-01"


def _write_replay(claimed: Claimed) -> None:
    """Leave what is needed to run this attempt again: references only, no secret's value."""
    task, run = claimed.task, claimed.task.run
    replay = {
        "version": 1,
        "run": run.run,
        "step": task.name,
        "attempt": claimed.attempt.number,
        "config": run.sha,
        "store": run.store.url,
        "image": task.step["image"],
        "image_digest": run.image_digest,
        "code": run.config["code"],
        "files": sorted(source["url"] for source in task.step["inputs"].values() if source.get("url", "").startswith("/")),
        "secrets": sorted(run.config["secrets"]),
        "arguments": {name: text for name, text in run.environ.items() if name.startswith(ARG)},
        "resources": task.step["resources"],
    }
    run.store.put(keys.replay(*claimed.attempt.place), wire.dumps(replay).encode())


def _unstartable(task: Task, argv: list[str], env: Mapping[str, str], error: OSError) -> ZenRunnerError:
    program = argv[0]
    why = why_not(program, env.get("PATH", os.defpath))
    if isinstance(error, FileNotFoundError):
        if task.kind != "run":
            return PlacementError(
                f"no Python for the step: {program!r} is not on PATH{why}; install one or set ZEN_RUNNER_PYTHON"
            )
        return _Unstartable(127, f"{program!r} can't start{why}" if why else f"{program!r} was not found on the step's PATH")
    if isinstance(error, PermissionError) or error.errno == errno.ENOEXEC:
        return _Unstartable(126, f"{program!r} can't start{why}" if why else f"{error.filename or program!r} is not executable")
    if error.errno == errno.E2BIG:
        sizes = [(len(os.fsencode(text)), f"argument {number}") for number, text in enumerate(argv)]
        sizes += [(len(os.fsencode(text)), f"${name}") for name, text in env.items()]
        size, largest = max(sizes)
        return ConfigError(
            f"steps.{task.name}: the command line and environment are larger than this system takes "
            f"(the largest: {largest}, {size} bytes); pass large values through an input file"
        )
    return InfraError(f"could not start {program!r}: {error.strerror}")


def why_not(program: str, path: str) -> str:
    """Return why a file that is there and executable can't start, as ``: …``; nothing where it has no such fault.

    Args:
        program: as the step's command line has it.
        path: the PATH that it is looked up on.

    Source: execve(2), "Interpreter scripts"; elf(5), ``e_machine``.
    """
    try:
        from backends.store import trees

        fd, _ = trees.open_file(os.path.realpath(find_program(program, path)))
    except (OSError, ZenRunnerError):
        return ""
    try:
        head = os.read(fd, 256)
    except OSError:
        return ""
    finally:
        os.close(fd)
    if head.startswith(b"\x7fELF"):
        machine = _MACHINES.get(int.from_bytes(head[18:20], "big" if head[5:6] == b"\2" else "little"), "another machine")
        own = os.uname().machine
        if machine != own:
            return f": it is a program in the format of {machine}, and this machine is {own}; build it for this one"
        return ": its loader or a library of its own format is not here; link it statically, or build it in this image"
    if not head.startswith(b"#!"):
        return ": its first line names no interpreter; begin it with one such as #!/bin/sh"
    line = head[2:].partition(b"\n")[0]
    if line.endswith(b"\r"):
        return ": its first line ends in a carriage return, as Windows writes lines (CRLF); convert it: sed -i 's/\\r$//' FILE"
    interpreter = os.fsdecode(line.split()[0]) if line.split() else ""
    if not os.path.exists(interpreter):
        return f": its first line names the interpreter {interpreter!r}, which is not here; install it, or name another"
    return "" if os.access(interpreter, os.X_OK) else f": its interpreter {interpreter!r} is not executable"


class _Unstartable(UserError):
    """The step's program could not be executed; the shell's own two codes."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def exit_code(self) -> int:
        return self.code
