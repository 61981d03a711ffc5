"""The way to a Docker Engine: a client of it, and its errors as ours."""

from __future__ import annotations

from contextlib import contextmanager

from backends.errors import ConfigError, InfraError, PlacementError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    import docker


# The engine has no code for these: "Range of CPUs is from …", and "could not select device driver" where no GPU is.
_LACKING = ("CPUs available", "could not select device driver")
_ENTRYPOINT = "; is the image made from zen-runner, with its ENTRYPOINT kept?"
# What to do about a refusal, by what it says in lower case; the first sign counts.
_HINTS = (
    ("source path does not exist", "; a path of the config must be on the machine where the engine runs"),
    ("exec:", _ENTRYPOINT),
    ("entrypoint", _ENTRYPOINT),
    ("no command specified", _ENTRYPOINT),
)


def connect(timeout: float, connections: int) -> docker.APIClient:
    """Return a client of the engine that ``$DOCKER_HOST``, else Docker's current context, names.

    Args:
        timeout: the longest that the engine may take for one answer, in seconds.
        connections: how many connections are kept open between questions.

    Raises:
        PlacementError: the docker package is not installed.
        InfraError: no engine answers.
    """
    try:
        import docker
    except ImportError as error:
        raise PlacementError("the docker orchestrator needs the docker package: pip install 'zen-runner[docker]'") from error
    with engine("no Docker Engine answers"):
        return docker.from_env(timeout=timeout, max_pool_size=connections).api  # type: ignore[arg-type]


@contextmanager
def engine(what: str, let_through: type[Exception] | tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what the docker package raises into our errors.

    Args:
        what: what was being done, for the message.
        let_through: errors that the caller handles.

    Raises:
        ConfigError: the engine refused what the config asks for.
        PlacementError: the engine's machine doesn't have it.
        InfraError: the engine failed, or did not answer.
    """
    import docker
    import requests
    import urllib3

    try:
        yield
    except let_through:
        raise
    except docker.errors.APIError as error:
        why = str(error.explanation or error)
        if any(sign in why for sign in _LACKING):
            raise PlacementError(f"{what}: {why}") from error
        # A refusal: the engine understood and said no, so that the same question would get the same answer.
        if error.status_code is not None and 400 <= error.status_code < 500 and error.status_code not in (408, 409, 429):
            hint = next((hint for sign, hint in _HINTS if sign in why.lower()), "")
            raise ConfigError(f"{what}: {why}{hint}") from error
        raise InfraError(f"{what}: {why}") from error
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise InfraError(f"{what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the operating system's word on why a connection failed, and what to do."""
    seen: list[BaseException] = [error]
    for item in seen:  # grows while it is walked: requests and urllib3 wrap each other's errors as arguments
        if isinstance(item, PermissionError):
            return f"{item.strerror}; join the group that owns the engine's socket"
        if isinstance(item, OSError) and item.strerror and item.errno:
            return f"{item.strerror}; start the engine, or point DOCKER_HOST at one"
        within = (*item.args, item.__cause__, item.__context__)
        seen += [other for other in within if isinstance(other, BaseException) and other not in seen]
    return f"{error}; see whether `docker version` answers"
