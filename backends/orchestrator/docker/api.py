"""A Docker Engine as a platform of containers.

Source: Docker Engine API v1.45.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from contextlib import suppress
from math import ceil
from time import sleep

from backends import outcome
from backends.errors import ZenRunnerError
from backends.orchestrator.docker.engine import connect, engine
from backends.orchestrator.docker.images import Images
from backends.orchestrator.docker.render import DIGEST, LABEL, complete
from backends.orchestrator.driven.container_platform import STDERR, STDOUT, ContainerPlatform, ContainerStatus, Labels
from backends.states import FAILED, PENDING, RUNNING, SUCCEEDED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any

    from backends.platform import Document


IDLE = 15  # seconds without a byte after which the engine is asked whether the container still runs
LOGGED = 1000  # lines of a container's output that are read after its end


class Engine(ContainerPlatform):
    """A Docker Engine.

    Args:
        pull: when an image is pulled: ``missing``, ``never`` or ``always``.
        user: who the containers run as; None for the caller.
        timeout: how long the engine may take for one answer, in seconds.
        connections: how many connections are kept open between questions.

    Raises:
        PlacementError: the docker package is not installed.
        InfraError: no engine answers.
    """

    def __init__(self, pull: str, user: str | None, timeout: float, connections: int) -> None:
        self.timeout = timeout
        self._idle = min(IDLE, ceil(timeout))
        self._client = connect(timeout, connections)
        self._images = Images(self._client, pull)
        self._user, self._groups = self._owner(user)
        self._steps: dict[str, str] = {}  # by container, for messages
        self._streams: dict[str, Any] = {}  # by container: the output of those that were started here, until it is read

    def check(self) -> None:
        with engine("ask the engine whether it lives"):
            self._client.ping()

    def fetch(self, image: str, place: str, say: Callable[[str], None], stopped: Callable[[], bool]) -> str | None:
        return self._images.get(image, place, say, stopped)[1]

    def start(self, document: Document, ids: Mapping[str, str]) -> str:
        import docker

        step, image = document["step"], document["container"]["Image"]
        body = complete(document["container"], self._images.ready(image), self._user, self._groups)
        with engine(f"steps.{step}: the engine could not start a container of {image}"):
            container, is_new = self._create(body, document["name"])
            self._steps[container] = step
            if not is_new:
                return container
            try:
                stream = self._client.attach_socket(container, {"stdout": 1, "stderr": 1, "stream": 1})
                try:
                    self._client.start(container)
                except Exception:
                    stream.close()
                    raise
            except docker.errors.APIError:  # refused, so there is nothing to lose; whatever else goes wrong, it may run
                with suppress(docker.errors.APIError):
                    self._client.remove_container(container, v=True, force=True)
                raise
        self._streams[container] = stream
        return container

    def _create(self, body: Mapping[str, Any], name: str) -> tuple[str, bool]:
        """Return the id of the container of a name, and whether it has yet to be started."""
        import docker

        try:
            return self._client.create_container_from_config(body, name)["Id"], True  # type: ignore[no-untyped-call]
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise
            try:  # the answer to an earlier call was lost
                container = self._client.inspect_container(name)
            except docker.errors.NotFound:
                raise error from None
            return container["Id"], container["State"]["Status"] == "created"

    def find(self, prefix: str) -> dict[str, str]:
        with engine("the engine could not list its containers"):
            containers = self._client.containers(all=True, filters={"name": f"^/?{prefix}"})
        return {item["Names"][0].lstrip("/"): item["Id"] for item in containers}

    def containers(self) -> dict[str, Labels]:
        with engine("the engine could not list its containers"):
            containers = self._client.containers(all=True, filters={"label": LABEL + "driver"})
        labels = {
            item["Id"]: Labels(*(item["Labels"].get(LABEL + name, "") for name in Labels._fields))
            for item in sorted(containers, key=lambda item: item["Created"])
            if item["State"] != "removing"
        }
        self._steps.update((container, label.step) for container, label in labels.items())
        return labels

    def status(self, container: str) -> ContainerStatus | None:
        import docker

        with engine(f"steps.{self._steps.get(container)}: the engine was lost while a container ran"):
            try:
                return _status(self._client.inspect_container(container))
            except docker.errors.NotFound:
                return None

    def wait(self, container: str) -> ContainerStatus | None:
        import requests

        while True:
            try:
                with engine("wait for a container", requests.RequestException):
                    self._client.wait(container, timeout=self._idle)
            except (requests.RequestException, ZenRunnerError):
                sleep(0.1)  # no end yet, no such container, or no engine: the next question tells
            status = self.status(container)
            if status is None or status.state != RUNNING:
                return status

    def output(self, container: str) -> Iterator[tuple[int, bytes]]:
        stream = self._streams.pop(container, None)
        return self._logged(container) if stream is None else self._frames(container, stream)

    def detach(self, container: str) -> None:
        """Give up listening to a container that was started here; the engine keeps its output all the same."""
        if (stream := self._streams.pop(container, None)) is not None:
            stream.close()

    def signal(self, container: str, name: str) -> None:
        """Send a signal, such as ``SIGTERM``, to a container; one that runs no more gets none."""
        with suppress(ZenRunnerError), engine("signal a container"):
            self._client.kill(container, signal=name)

    def log(self, job: str, member: int | None = None) -> Iterator[bytes]:
        with engine("read a container's log"):
            yield self._client.logs(job, stdout=True, stderr=True, tail=LOGGED)

    def stop(self, container: str, grace: int) -> None:
        with engine("stop a container"):
            self._client.stop(container, timeout=grace)

    def end(self, ids: Collection[str]) -> None:
        for container in ids:
            self.signal(container, "SIGKILL")

    def remove(self, container: str) -> None:
        with engine("remove a container"):
            self._client.remove_container(container, v=True, force=True)

    def close(self) -> None:
        self._client.close()

    def _owner(self, user: str | None) -> tuple[str, tuple[str, ...]]:
        """Return the user and the further groups that own what steps write."""
        if user is not None:
            return user, ("0",)
        uid, gid = os.geteuid(), os.getegid()
        if uid:
            with engine("ask the engine about itself"):
                options = self._client.info().get("SecurityOptions") or []
            if any("name=rootless" in option for option in options):
                return "0:0", ("0",)  # which is the caller, seen from outside
        return f"{uid}:{gid}", tuple(map(str, sorted({0, *os.getgroups()})))

    def _runs(self, container: str) -> bool:
        status = self.status(container)
        return status is not None and status.state == RUNNING

    def _frames(self, container: str, stream: Any) -> Iterator[tuple[int, bytes]]:
        """Yield what comes on the connection that was made before the container's start.

        Source: "Attach to a container", stream format: a byte that names the stream, three zeros, the size in four bytes
        (big-endian), the data.
        """
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLIN | select.POLLHUP)
        read = stream.recv if hasattr(stream, "recv") else stream.read
        buffer = bytearray()
        try:
            while True:
                if not poll.poll(self._idle * 1000):
                    if not self._runs(container):
                        return
                    continue
                try:
                    data = read(65536)
                except OSError:
                    return  # what has become of the container is asked next
                if not data:
                    return
                buffer += data
                while len(buffer) >= 8 and len(buffer) >= (end := 8 + int.from_bytes(buffer[4:8], "big")):
                    yield buffer[0], bytes(buffer[8:end])
                    del buffer[:end]
        finally:
            stream.close()

    def _logged(self, container: str) -> Iterator[tuple[int, bytes]]:
        """Yield what the engine has kept of the output, and goes on to keep."""
        chunks: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()

        def copy(stream: int) -> None:  # one call for each: the client tells not which is which
            try:
                with suppress(ZenRunnerError), engine("read the log"):
                    for data in self._client.logs(
                        container, stdout=stream == STDOUT, stderr=stream == STDERR, stream=True, follow=True
                    ):
                        chunks.put((stream, data))
            finally:
                chunks.put((stream, b""))

        streams = {STDOUT, STDERR}
        for number in sorted(streams):
            threading.Thread(target=copy, args=(number,), name="zen-runner log", daemon=True).start()
        while streams:
            try:
                stream, data = chunks.get(timeout=self._idle)
            except queue.Empty:
                if not self._runs(container):
                    return
                continue
            if data:
                yield stream, data
            else:
                streams.discard(stream)


def _status(container: Mapping[str, Any]) -> ContainerStatus:
    """Return what the engine's description of a container means."""
    state = container["State"]
    image = next((entry[len(DIGEST) :] for entry in container["Config"]["Env"] or [] if entry.startswith(DIGEST)), None)
    if state["Status"] == "created":
        return ContainerStatus(
            PENDING, f"the engine did not start the container: {state['Error'] or 'no reason given'}", image=image
        )
    if state["Running"]:
        return ContainerStatus(RUNNING, started=state["StartedAt"], image=image)
    killed = outcome.INFRA if state["ExitCode"] == outcome.code_of(outcome.OOM) else None  # the engine knows that it was not that
    return ContainerStatus(
        SUCCEEDED if state["ExitCode"] == 0 else FAILED,
        exit_code=state["ExitCode"],
        kind=outcome.OOM if state["OOMKilled"] else killed,
        started=state["StartedAt"],
        image=image,
    )
