"""Start a driver as a process of its own."""

from __future__ import annotations

import os

from backends.errors import InfraError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.store.base import Store


# A driver takes its config and run from its arguments; the caller's own contract variables are not for it.
_NOT_PASSED = frozenset(f"ZEN_RUNNER_{name}" for name in ("CONFIG", "CONFIG_FILE", "STEP", "RUN_ID", "ATTEMPT", "INPUTS_RUN"))


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def driver_environment() -> dict[str, str]:
    """Return this process's environment without what the contract says to this process alone."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_PASSED}


def spawn(argv: list[str], log: str) -> int:
    """Start a program in a session of its own, its output in the file ``log``, and return its process id."""
    create = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, create, 0o666),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    try:
        return os.posix_spawn(argv[0], argv, driver_environment(), file_actions=actions, setsid=True)
    except OSError as error:
        raise InfraError(f"could not start the driver {argv[0]}: {error.strerror}") from error


def log_path(store: Store, run_id: str) -> str:
    """Return where the driver's own output goes: beside the run's records if they are on this machine."""
    if store.root is None:
        from tempfile import mkstemp

        fd, path = mkstemp(prefix=f"zen-runner-{run_id}-", suffix=".log")
        os.close(fd)
        return path
    folder = os.path.join(store.root, "runs", run_id)
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, "driver.log")
