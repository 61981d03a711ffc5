"""The way to a Docker Engine: a client of it, and its errors as ours."""

from __future__ import annotations

from contextlib import contextmanager

from backends.errors import ConfigError, InfraError, PlacementError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    import docker


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
        if _is_lacking(why):
            raise PlacementError(f"{what}: {why}") from error
        if _is_refusal(error):
            raise ConfigError(f"{what}: {why}{_hint(why)}") from error
        raise InfraError(f"{what}: {why}") from error
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise InfraError(f"{what}: {_reason(error)}") from error


def _is_refusal(error: Exception) -> bool:
    """Tell whether the engine understood, and said no: the same question would get the same answer."""
    status = getattr(error, "status_code", None)
    return status is not None and 400 <= status < 500 and status not in (408, 409, 429)


def _is_lacking(why: str) -> bool:
    # The engine has no code for these: "Range of CPUs is from …", and "could not select device driver" where no GPU is.
    return "CPUs available" in why or "could not select device driver" in why


def _hint(why: str) -> str:
    if "source path does not exist" in why:
        return "; a path of the config must be on the machine where the engine runs"
    if any(sign in why.lower() for sign in ("exec:", "entrypoint", "no command specified")):
        return "; is the image made from zen-runner, with its ENTRYPOINT kept?"
    return ""


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
