"""The front door. One step of a config goes straight to the supervisor; everything else is the command line's."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``zen-runner`` and return its exit status.

    Args:
        argv: the arguments; None for this process's own.
    """
    try:
        code = _run(argv)
    except KeyboardInterrupt:  # before anybody listens
        return 143
    aside = sys.modules.get("entrypoint.runtime.aside")
    if aside is not None and aside.left_behind:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        os._exit(code)  # the interpreter would wait for threads that wait for a server
    return code


def _run(argv: Sequence[str] | None) -> int:
    if os.getegid() == 0:
        # A container runs as any UID with group 0, so what one writes another of the same group must be able to go on with.
        os.umask(os.umask(0o022) & ~0o070)
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A container that Spark or Beam starts as a worker: a role, or a flag of Beam's boot program.
    if arguments and arguments[0].partition("=")[0] in {
        *("driver", "executor", "master", "worker", "--worker_pool", "--id", "--semi_persist_dir"),
        *("--logging_endpoint", "--artifact_endpoint", "--provision_endpoint", "--control_endpoint"),
    }:
        return _worker(arguments)
    found = _one_step(arguments)
    if found is None:
        from entrypoint.cli import main as command_line

        return command_line(arguments)
    config, step = found
    gc.set_threshold(10_000)  # a start makes thousands of objects and no garbage; looking for it took up to 1 ms
    from backends.errors import ZenRunnerError
    from entrypoint.runtime.load import find, load

    try:
        resolved, sha = load(find(config, os.environ), environ=os.environ)
    except ZenRunnerError as error:
        from entrypoint.cli.last_words import refuse

        return refuse(error, step)
    from entrypoint.runtime.one_step import run_step

    return run_step(resolved, sha, step, None, os.environ)


def _worker(arguments: list[str]) -> int:
    from backends.errors import ZenRunnerError
    from entrypoint.runtime.workers import run

    try:
        run(arguments, os.environ)
    except ZenRunnerError as error:
        from entrypoint.cli.last_words import refuse

        return refuse(error, None)


def _one_step(arguments: list[str]) -> tuple[str | None, str] | None:
    """Return the config (None: where the environment says) and the step, if that is all that is asked for."""
    given: dict[str, str] = {}
    rest = arguments[1:] if arguments[:1] == ["run"] else list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name not in ("--config", "--step") or name in given:
            return None
        if not equals:
            if not rest:
                return None
            value = rest.pop(0)
        given[name] = value
    step = given.get("--step") or os.environ.get("ZEN_RUNNER_STEP")
    return (given.get("--config"), step) if step else None


if __name__ == "__main__":
    sys.exit(main())
