"""Run attempts as containers of a platform.

Every container has a thread here that sees it from its start to its removal. The record of an attempt is the one that the
container's own supervisor left in the store; only where there is none do the platform's words count. Containers carry labels
that say whose they are, so that a client that comes after one that died takes over what still runs, reads what ended meanwhile,
and removes the rest.
"""

from __future__ import annotations

import os
import queue
import traceback
from contextlib import suppress
from time import monotonic

from backends import wire
from backends.errors import InfraError, Terminated, ZenRunnerError
from backends.orchestrator.driven import post_mortem
from backends.orchestrator.driven.container import Container, Phase
from backends.orchestrator.driven.container_platform import STDERR, Labels, stop_timeout
from backends.orchestrator.driven.driver import record_of
from backends.orchestrator.driven.follower import Follower
from backends.orchestrator.driven.threads import Threads
from backends.process import is_alive, whoami
from backends.states import PENDING
from backends.store import open_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.execution import Execution
    from backends.orchestrator.driven.container_platform import ContainerPlatform, ContainerRenderer
    from backends.store.records import Record


class PlatformLauncher:
    """Runs attempts as containers.

    Args:
        platform: where they run; it is closed with the launcher.
        renderer: what it is asked for.
        execution: the run.

    Raises:
        InfraError: the platform could not be asked.
    """

    def __init__(self, platform: ContainerPlatform, renderer: ContainerRenderer, execution: Execution) -> None:
        self._platform = platform
        self._renderer = renderer
        self._config = execution.config
        self._run = execution.run_id
        self._store = execution.store
        self._output = execution.output
        self._driver = wire.dumps(whoami())
        self._follower = Follower(platform)
        self._threads = Threads()
        self._running: dict[str, Container] = {}  # by step
        self._left: dict[str, Container] = {}  # by step: containers whose end nobody waits for yet
        self._strays: list[Container] = []
        self._ended: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self._closed = False
        self._take_stock()

    # -- what the driver calls -----------------------------------------------------------------------------------------

    def start(self, step: str, memory: int | None) -> None:
        """Begin one attempt, or take over the container of one that was begun before."""
        container = self._left.pop(step, None)
        if container is None:
            config = self._config
            attempt, image = os.urandom(4).hex(), config["steps"][step]["image"]
            labels = (self._run, step, attempt, config["name"], self._renderer.sha, config["store"], image, self._driver)
            container = Container(self._store, Labels(*labels))
        self._running[step] = container
        self._threads.spawn(self._attend, container, memory)

    def wait(self, timeout: float | None) -> list[Record]:
        """Return the records of attempts that ended, an empty list when time is up."""
        ended = []
        with suppress(queue.Empty):
            ended.append(self._ended.get(timeout=timeout))
            while True:
                ended.append(self._ended.get_nowait())
        return ended

    def stop(self, step: str | None = None) -> None:
        """Ask one container, or all, to end."""
        for container in list(self._running.values()):
            if step in (None, container.labels.step) and container.ask_to_stop():
                self._threads.spawn(self._stop, container)

    def close(self) -> None:
        """Kill what still runs, and remove every container of this run."""
        if self._closed:
            return
        self._closed = True
        begun = monotonic()
        for container in list(self._running.values()):
            container.ask_to_stop()
            if container.phase is not Phase.CREATED:
                self._threads.spawn(self._kill, container)
        left = [*self._left.values(), *self._strays]
        if left and self._answers():
            for container in left:
                self._threads.spawn(self._wind_up, container)
        self._threads.join(begun + max(map(stop_timeout, self._config["steps"].values())) + self._platform.timeout)
        self._platform.close()

    # -- one container, in a thread of its own ---------------------------------------------------------------------------

    def _attend(self, container: Container, memory: int | None) -> None:
        """See one attempt from its beginning to its container's removal; its record, or what went wrong, goes to ``wait``."""
        try:
            try:
                if not container.id:
                    self._launch(container, memory)
                record = self._follower.follow(container, self._output)
            except ZenRunnerError as error:
                # What is not the platform's fault is no open question: it has not begun.
                if container.phase is Phase.CREATED and not isinstance(error, InfraError):
                    container.settle()
                record = post_mortem.make_record(container, error.outcome_class, str(error))
        except BaseException as error:  # noqa: BLE001 - a fault of ours, or a library's panic, must end the attempt, which somebody waits for
            reason = InfraError(f"zen-runner failed while it followed the container: {type(error).__name__}: {error}")
            record = {**record_of(self._run, container.labels.step, 0, reason), "log_tail": traceback.format_exc()}
        if container.phase is not Phase.SETTLED:
            self._left[container.labels.step] = container  # the platform or the store was away: a retry takes it over
        self._running.pop(container.labels.step, None)
        self._ended.put(record)
        self._follower.remove(container)

    def _launch(self, container: Container, memory: int | None) -> None:
        """Start a container; one whose earlier start had no answer is found by its name."""
        labels = container.labels
        document = self._renderer.render(labels, memory, os.environ)

        def say(text: str) -> None:
            if self._output is not None:
                self._output(labels.step, STDERR, f"zen-runner: {text}\n".encode())

        container.image = self._platform.fetch(labels.image, f"steps.{labels.step}.image", say, container.is_stopping)
        if container.is_stopping():
            raise Terminated("stopped before the step began")
        if container.begin(self._platform.start(document, {})):
            self._threads.spawn(self._stop, container)

    def _stop(self, container: Container) -> None:
        with suppress(ZenRunnerError):
            self._platform.stop(container.id, stop_timeout(self._config["steps"][container.labels.step]))

    def _kill(self, container: Container) -> None:
        with suppress(ZenRunnerError):
            self._platform.end([container.id])

    def _answers(self) -> bool:
        try:
            self._platform.check()
        except ZenRunnerError:
            return False
        return True

    def _wind_up(self, container: Container) -> None:
        """End a container that nobody waits for, with its grace period: what it did is in the store then, and it is gone."""
        with suppress(ZenRunnerError):
            if not container.id:
                name = container.labels.name
                container_id = self._platform.find(name).get(name)
                if container_id is None:
                    return
                container.begin(container_id)
            if container.ask_to_stop():
                self._threads.spawn(self._stop, container)
            self._bury(container)

    def _bury(self, container: Container) -> None:
        self._follower.follow(container, None)
        self._follower.remove(container)

    # -- what clients that died have left ------------------------------------------------------------------------------

    def _take_stock(self) -> None:
        """Look for containers of clients that died: this run's are taken over, and the ended ones of other runs removed."""
        others = []
        for container_id, labels in self._platform.containers().items():
            lives = _lives(labels.driver)
            ours = (labels.run, labels.store, labels.config) == (self._run, self._config["store"], self._renderer.sha)
            if lives or (lives is None and not ours):
                continue
            status = self._platform.status(container_id)
            if status is None:
                continue
            if status.state == PENDING:  # it did nothing yet
                self._threads.spawn(self._remove_unused, container_id)
                continue
            container = Container(self._store, labels, container_id)
            container.note(status)
            if ours:
                self._take_over(container)
            elif container.phase is Phase.ENDED:
                others.append(container)
        if others:
            self._threads.spawn(self._bury_others, others)

    def _take_over(self, container: Container) -> None:
        """Keep the oldest running container of a step, which holds the claim, else the newest that ended."""
        step = container.labels.step
        before = self._left.get(step)
        if before is not None and before.phase is Phase.RUNNING:
            self._strays.append(container)
            return
        self._left[step] = container
        if before is not None:
            self._strays.append(before)

    def _bury_others(self, containers: list[Container]) -> None:
        """Remove ended containers of other runs, whose clients died; their ends go into their stores."""
        for container in containers:
            with suppress(ZenRunnerError):  # a bucket that can't be opened from here is somebody else's to look into
                container.store = open_store(container.labels.store)
                if container.store.root is not None and not os.path.isdir(container.store.root):
                    container.settle()  # deleted, and all records with it
                    self._follower.remove(container)
                else:
                    self._bury(container)

    def _remove_unused(self, container_id: str) -> None:
        with suppress(ZenRunnerError):
            self._platform.remove(container_id)


def _lives(driver: str) -> bool | None:
    """Return whether the client that made a container lives; None if that can't be seen from here."""
    try:
        return is_alive(wire.loads(driver))
    except (KeyError, TypeError, ValueError):
        return None
