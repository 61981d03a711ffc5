"""Run attempts as containers of a Docker Engine."""

from __future__ import annotations

import os
import queue
import select
import threading
from contextlib import suppress
from datetime import datetime
from math import ceil
from time import monotonic, sleep, time

from backends import outcome, wire
from backends.errors import ConfigError, DuplicateError, InfraError, PlacementError, Terminated, ZenRunnerError
from backends.orchestrator.docker.engine import connect, engine
from backends.orchestrator.docker.render import LABEL, LABELS, Renderer, container_name, local_path
from backends.process import is_alive, utc, whoami
from backends.store import claims, keys, open_store, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from backends.execution import Execution, Output
    from backends.orchestrator.docker import OrchestratorDockerBackend
    from backends.store.base import Store
    from backends.store.records import Record


STDOUT, STDERR = 1, 2
IDLE = 15  # seconds without a byte after which the engine is asked whether the container still runs
TAIL = 2048  # bytes of output kept for a record that has to be made here
LAST_WORDS = 8192  # bytes that a line may have to be held back as the possible last words; they have 4096 at most
_WORDS_BEGIN = b'{"attempt":'  # canonical JSON: the first key in order


class _Container:
    """One container and what is known of it.

    Args:
        store: where its run lives.
        run: the run's id.
        step: the step.
        attempt: what its launcher calls it; the store's claim repeats it.
        image: the image's name.
        container_id: the engine's id; empty until it is created.
    """

    def __init__(self, store: Store, run: str, step: str, attempt: str, image: str, container_id: str = "") -> None:
        self.store = store
        self.run = run
        self.step = step
        self.attempt = attempt
        self.image = image
        self.digest: str | None = None
        self.id = container_id
        self.lock = threading.Lock()
        self.started = bool(container_id)
        self.stopping = threading.Event()
        self.ended = False  # it had ended when it was found
        self.over = False  # nothing in it is still wanted: it may be removed
        self.tail = b""
        self.held = b""  # the last line on stderr while it may be the last words
        self.began = utc()


class DockerLauncher:
    """Runs attempts as containers.

    Args:
        backend: the options.
        execution: the run.

    Raises:
        ConfigError: a directory of the config can't be mounted.
        PlacementError: the docker package is not installed.
        InfraError: no engine answers.
    """

    def __init__(self, backend: OrchestratorDockerBackend, execution: Execution) -> None:
        self._backend = backend
        self._config = execution.config
        self._run = execution.run_id
        self._store = execution.store
        self._output = execution.output
        self._recipe = Renderer(backend, execution.config)
        self._driver = wire.dumps(whoami())
        self._running: dict[str, _Container] = {}
        self._left: dict[str, _Container] = {}  # by step: containers whose end nobody waits for yet
        self._strays: list[_Container] = []
        self._over: queue.SimpleQueue[Record | Exception] = queue.SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._threads_lock = threading.Lock()
        self._images: dict[str, tuple[str, str]] = {}
        self._images_lock = threading.Lock()
        self._idle = min(IDLE, ceil(backend.engine_timeout))
        self._closed = False
        self._client = connect(backend.engine_timeout, max(64, 4 * (backend.max_parallel or 0)))
        self._user, self._groups = self._whose()
        self._find_left()

    # -- what the driver calls --------------------------------------------------------------------------------------

    def start(self, step: str, memory: int | None) -> None:
        """Begin one attempt, or take over the container of one that an earlier client began."""
        container = self._left.pop(step, None)
        if container is None:
            image = self._config["steps"][step]["image"]
            container = _Container(self._store, self._run, step, os.urandom(4).hex(), image)
        self._running[step] = container
        self._spawn(self._take_through, container, memory)

    def wait(self, timeout: float | None) -> list[Record]:
        """Return the records of attempts that ended, an empty list when time is up."""
        over = []
        with suppress(queue.Empty):
            over.append(self._over.get(timeout=timeout))
            while True:
                over.append(self._over.get_nowait())
        found = []
        for item in over:
            if isinstance(item, Exception):
                raise item
            found.append(item)
        return found

    def stop(self, step: str | None = None) -> None:
        """Ask one container, or all, to end."""
        for container in list(self._running.values()):
            if step is None or container.step == step:
                self._stop(container)

    def close(self) -> None:
        """Kill what still runs, and remove every container of this run."""
        if self._closed:
            return
        self._closed = True
        begun = monotonic()
        for container in list(self._running.values()):
            container.stopping.set()
            if container.started:
                self._spawn(self._kill, container)
        left = [*self._left.values(), *self._strays]
        if left and self._engine_answers():
            for container in left:
                self._stop(container)  # nobody has waited for it, so it gets its grace period
                self._spawn(self._settle_and_remove, container)
        grace = max(map(self._recipe.stop_timeout, self._config["steps"]))
        with self._threads_lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, begun + grace + self._backend.engine_timeout - monotonic()))
        self._client.close()

    # -- one container, in a thread of its own ----------------------------------------------------------------------

    def _take_through(self, container: _Container, memory: int | None) -> None:
        """See one attempt from its beginning to its container's removal; its record, or what went wrong, goes to ``wait``."""
        result: Record | Exception
        try:
            try:
                if container.id:
                    self._read_logs(container, self._output)
                else:
                    self._launch(container, memory)
                result = self._settle(container, self._output)
            except ZenRunnerError as error:
                result = self._record(container, error.outcome_class, str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours, to be raised where people see it
            result = error
        if container.id and not container.over:
            self._left[container.step] = container  # the engine or the store was away: a retry takes it over
        self._running.pop(container.step, None)
        self._over.put(result)
        self._remove(container)

    def _launch(self, container: _Container, memory: int | None) -> None:
        """Create, start and follow a container until its output ends."""
        import docker

        step = container.step
        self._check_secrets()
        image = self._image(container)
        container.digest = image[1]
        body = self._recipe.body(
            step,
            memory,
            run=self._run,
            attempt=container.attempt,
            driver=self._driver,
            user=self._user,
            groups=self._groups,
            image=image,
            environ=os.environ,
        )
        what = f"steps.{step}: the engine could not start a container of {container.image}"
        with engine(what):
            created = self._client.create_container_from_config(body, container_name(self._run, step, container.attempt))  # type: ignore[no-untyped-call]
            container.id = created["Id"]
            container.over = True  # until it is started there is nothing to lose
            stream = self._client.attach_socket(container.id, {"stdout": 1, "stderr": 1, "stream": 1})
        try:
            if container.stopping.is_set():
                raise Terminated("stopped before the step began")
            with engine(what):
                container.over = False
                try:
                    self._client.start(container.id)
                except docker.errors.APIError:
                    container.over = True  # whatever else goes wrong, it may run
                    raise
            with container.lock:
                container.started = True
                if container.stopping.is_set():
                    self._spawn(self._ask_to_stop, container)
            self._follow(container, stream)
        finally:
            stream.close()

    def _follow(self, container: _Container, stream: Any) -> None:
        """Pass on what a container prints until it ends or can't be heard any more.

        Source: Docker Engine API, "Attach to a container", stream format: a byte that names the stream, three zeros, the size in
        four bytes (big-endian), the data.
        """
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLIN | select.POLLHUP)
        read = stream.recv if hasattr(stream, "recv") else stream.read
        buffer = bytearray()
        while True:
            if not poll.poll(self._idle * 1000):
                state = self._inspect(container)
                if state is None or not state["Running"]:
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
                self._print(container, buffer[0], bytes(buffer[8:end]), self._output)
                del buffer[:end]

    def _read_logs(self, container: _Container, output: Output | None) -> None:
        """Pass on all that a container of an earlier client has printed and prints until it ends."""

        def copy(stream: int) -> None:
            with suppress(ZenRunnerError), engine("read the log"):
                for data in self._client.logs(
                    container.id, stdout=stream == STDOUT, stderr=stream == STDERR, stream=True, follow=True
                ):
                    self._print(container, stream, data, output)

        pumps = [self._spawn(copy, stream) for stream in (STDOUT, STDERR)]
        self._end(container)
        for pump in pumps:
            pump.join(self._backend.engine_timeout)

    def _print(self, container: _Container, stream: int, data: bytes, output: Output | None) -> None:
        """Pass output on, but hold back a last line on stderr that may be the supervisor's record."""
        container.tail = (container.tail + data)[-TAIL:]
        if stream == STDERR:
            data = container.held + data
            begin = data.rfind(b"\n", 0, -1) + 1
            line = data[begin:]
            holds = line[: len(_WORDS_BEGIN)] == _WORDS_BEGIN[: len(line)] and len(line) <= LAST_WORDS
            container.held = line if holds else b""
            data = data[:begin] if holds else data
        if data and output is not None:
            output(container.step, stream, data)

    # -- how it ended -----------------------------------------------------------------------------------------------

    def _settle(self, container: _Container, output: Output | None) -> Record:
        """Return the attempt's record: the store's, else one made of the last words or of what the engine says, and stored.

        Raises:
            InfraError: the engine or the store could not be asked, so that the attempt's end is still open.
        """
        claim, record = _find_claim(container)
        state = None
        if record is None:  # a container that left its record may take a moment to go; any other must be gone first
            state = self._end(container)
            claim, record = _find_claim(container)
        words = _parse_words(container)
        if words is None and container.held and output is not None:
            output(container.step, STDERR, container.held)
        if record is None:
            record = self._reconstruct(container, claim, state, words)
        container.over = True
        return record

    def _end(self, container: _Container) -> dict[str, Any] | None:
        """Wait for a container's end and return the engine's ``State`` of it; None if it is gone altogether."""
        import requests

        while True:
            try:
                with engine("wait for a container", requests.RequestException):
                    self._client.wait(container.id, timeout=self._idle)
            except (requests.RequestException, ZenRunnerError):
                sleep(0.1)  # no end yet, no such container, or no engine: the next question tells
            state = self._inspect(container)
            if state is None or not state["Running"]:
                return state

    def _inspect(self, container: _Container) -> dict[str, Any] | None:
        import docker

        with engine(f"steps.{container.step}: the engine was lost while a container ran"):
            try:
                found = self._client.inspect_container(container.id)
            except docker.errors.NotFound:
                return None
        if container.digest is None:  # of an earlier client
            container.digest = _variable(found, "ZEN_RUNNER_IMAGE_DIGEST")
        state: dict[str, Any] = found["State"]
        if state["Status"] != "created":
            container.began = state["StartedAt"]
        return state

    def _reconstruct(
        self,
        container: _Container,
        claim: claims.Attempt | None,
        state: dict[str, Any] | None,
        words: Record | None,
    ) -> Record:
        """Return the record of an attempt whose supervisor left none in the store."""
        record = None
        if words is not None and (state is None or words["exit_code"] == state["ExitCode"]):
            if words["class"] != outcome.SUCCESS:
                record = self._record(container, words["class"], str(words["message"]), words["exit_code"])
            elif good := records.good_result(container.store, container.run, container.step):
                return good  # the step had been done before, so its supervisor did nothing
        if record is None:
            record = self._record(container, *_post_mortem(container, state, claim is not None))
            record["log_tail"] = container.tail.decode("utf-8", "replace")
        if claim is not None:
            record["attempt"] = claim.number
            try:  # the owner is dead for certain, so nobody has to wait until its silence proves it
                claim.finish(record)
            except DuplicateError:
                return records.result(claim.store, claim.run, claim.step, claim.number) or record
        return record

    def _record(self, container: _Container, kind: str, message: str, code: int | None = None) -> Record:
        now = time()
        seconds = round(max(0.0, now - datetime.fromisoformat(container.began).timestamp()), 3)
        record = records.make_record(
            container.run,
            container.step,
            0,
            kind,
            message,
            code=code,
            started=container.began,
            ended=utc(now),
            seconds=seconds,
            config=self._recipe.sha,
        )
        record["image"] = container.digest
        record["platform"] = {"name": "zen-runner", "run": container.run, "attempt": container.attempt}
        return record

    # -- the end of a container -------------------------------------------------------------------------------------

    def _stop(self, container: _Container) -> None:
        with container.lock:
            if container.stopping.is_set():
                return
            container.stopping.set()
            if not container.started:
                return  # its own thread looks before and after the start
        self._spawn(self._ask_to_stop, container)

    def _ask_to_stop(self, container: _Container) -> None:
        with suppress(ZenRunnerError), engine("stop a container"):
            self._client.stop(container.id, timeout=self._recipe.stop_timeout(container.step))

    def _kill(self, container: _Container) -> None:
        with suppress(ZenRunnerError), engine("kill a container"):
            self._client.kill(container.id)

    def _remove(self, container: _Container) -> None:
        """Remove a container whose end is recorded; one that can't be removed now is left to the next client."""
        if container.id and container.over:
            with suppress(ZenRunnerError):
                if container.started:
                    self._end(container)
                with engine("remove a container"):
                    self._client.remove_container(container.id, v=True, force=True)

    def _engine_answers(self) -> bool:
        try:
            with engine("ask the engine whether it lives"):
                return bool(self._client.ping())
        except ZenRunnerError:
            return False

    def _settle_and_remove(self, container: _Container) -> None:
        """Take a container that nobody waits for to its end: what it did is in the store then, and it is gone."""
        with suppress(ZenRunnerError):
            self._read_logs(container, None)
            self._settle(container, None)
            self._remove(container)

    def _find_left(self) -> None:
        """Look for containers of clients that died: this run's are taken over, and the ended ones of other runs removed."""
        with engine("the engine could not list its containers"):
            found = self._client.containers(all=True, filters={"label": LABEL + "driver"})
        others = []
        for item in sorted(found, key=lambda item: item["Created"]):
            label = {name: item["Labels"].get(LABEL + name, "") for name in LABELS}
            lives = is_alive(records.parse_object(label["driver"]) or {})
            ours = (label["run"], label["store"], label["config"]) == (self._run, self._config["store"], self._recipe.sha)
            if lives or item["State"] == "removing" or (lives is None and not ours):
                continue
            container = _Container(self._store, label["run"], label["step"], label["attempt"], label["image"], item["Id"])
            container.ended = item["State"] in ("exited", "dead")
            if item["State"] == "created":
                container.over, container.started = True, False
                self._spawn(self._remove, container)
            elif ours:
                self._take_over(container)
            elif container.ended:
                others.append((container, label["store"]))
        if others:
            self._spawn(self._bury, others)

    def _take_over(self, container: _Container) -> None:
        """Keep the oldest running container of a step, which holds the claim, else the newest that ended."""
        before = self._left.get(container.step)
        if before is not None and not before.ended:
            self._strays.append(container)
            return
        self._left[container.step] = container
        if before is not None:
            self._strays.append(before)

    def _bury(self, others: list[tuple[_Container, str]]) -> None:
        """Remove what ended containers of other runs, whose clients died, have left; their ends go into their stores."""
        for container, store in others:
            path = local_path(store)
            if path is not None and not os.path.isdir(path):  # deleted, and all records with it
                container.over = True
                self._remove(container)
                continue
            with suppress(ZenRunnerError):  # a bucket that can't be opened from here is somebody else's to look into
                container.store = open_store(store, create=False)
                self._settle_and_remove(container)

    # -- what a container is made of --------------------------------------------------------------------------------

    def _whose(self) -> tuple[str, tuple[str, ...]]:
        """Return the user and the further groups that own what steps write."""
        if self._backend.user is not None:
            return self._backend.user, ("0",)
        uid, gid = os.geteuid(), os.getegid()
        if uid:
            with engine("ask the engine about itself"):
                options = self._client.info().get("SecurityOptions") or []
            if any("name=rootless" in option for option in options):
                return "0:0", ("0",)  # which is the caller, seen from outside
        return f"{uid}:{gid}", tuple(map(str, sorted({0, *os.getgroups()})))

    def _check_secrets(self) -> None:
        for name, source in self._config["secrets"].items():
            if "env" in source and source["env"] not in os.environ:
                raise PlacementError(f"secrets.{name}: ${source['env']} is not set where the docker orchestrator runs")

    def _image(self, container: _Container) -> tuple[str, str]:
        """Return an image's id and digest, pulled if the options say so; the same all through the run."""
        import docker

        name, step = container.image, container.step
        with self._images_lock:
            if name not in self._images:
                found = None
                with engine(f"steps.{step}.image: look for {name}"), suppress(docker.errors.ImageNotFound):
                    if self._backend.pull != "always":
                        found = self._client.inspect_image(name)  # type: ignore[no-untyped-call]
                if found is None:
                    if self._backend.pull == "never":
                        raise ConfigError(f"steps.{step}.image: {name} is not on this engine, and `pull` is never; {_get(name)}")
                    self._pull(container)
                    with engine(f"steps.{step}.image: look for {name}"):
                        found = self._client.inspect_image(name)  # type: ignore[no-untyped-call]
                digests = found.get("RepoDigests") or []
                self._images[name] = found["Id"], str(digests[0] if digests else found["Id"])
            return self._images[name]

    def _pull(self, container: _Container) -> None:
        import docker

        name = container.image
        where = f"steps.{container.step}.image"
        if self._output is not None:
            self._output(container.step, STDERR, f"zen-runner: pulling {name}\n".encode())
        why = ""
        try:
            with engine(f"{where}: pull {name}", docker.errors.APIError):
                for line in self._client.pull(name, stream=True, decode=True):
                    if container.stopping.is_set():
                        raise Terminated("stopped before the step began")
                    why = line.get("error") or why
        except docker.errors.APIError as error:
            why = str(error.explanation or error)
        # The engine passes on the registry's words, and with them no code to rely on.
        if any(word in why for word in ("manifest unknown", "not found", "denied", "unauthorized", "invalid reference")):
            raise ConfigError(f"{where}: {name} is not on this engine, nor to be had from its registry ({why}); {_get(name)}")
        if why:
            raise InfraError(f"{where}: {name} is not on this engine, and no registry answers ({why}); {_get(name)}")

    def _spawn(self, work: Callable[..., None], *args: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*args)
            finally:
                with self._threads_lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name=f"zen-runner {work.__name__}", daemon=True)
        with self._threads_lock:
            thread.start()
            self._threads.add(thread)
        return thread


def _get(name: str) -> str:
    if name.startswith("zen-runner:"):
        return "build it with `make images`"
    return "build it, pull it, or correct its name"


def _find_claim(container: _Container) -> tuple[claims.Attempt | None, Record | None]:
    """Return the attempt that the container's supervisor claimed, and its record; None for what isn't there."""
    store, run, step = container.store, container.run, container.step
    for number in reversed(records.attempts(store, run, step)):
        claim = records.read_json(store, keys.claim(run, step, number)) or {}
        if (claim.get("platform") or {}).get("attempt") == container.attempt:
            attempt = claims.Attempt(store, run, step, number, str(claim.get("token")))
            return attempt, records.result(store, run, step, number)
    return None, None


def _parse_words(container: _Container) -> Record | None:
    """Return the supervisor's record from the last line on stderr, if that is one of this container's."""
    try:
        words = wire.loads(container.held)
        if (words["run"], words["step"]) != (container.run, container.step) or type(words["exit_code"]) is not int:
            return None
        outcome.code_of(words["class"])
        str(words["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    record: Record = words
    return record


def _post_mortem(container: _Container, state: Mapping[str, Any] | None, claimed: bool) -> tuple[str, str]:
    """Return the class and the message of a container that left no record.

    Args:
        container: the container.
        state: what the engine says of it; None if it is gone.
        claimed: whether its supervisor got as far as to claim the step.
    """
    if state is None:
        kind = outcome.TERMINATED if container.stopping.is_set() else outcome.INFRA
        return kind, "the container was removed before it left a record"
    code = state["ExitCode"]
    if state["Status"] == "created":
        return outcome.INFRA, f"the engine did not start the container: {state['Error'] or 'no reason given'}"
    if state["OOMKilled"]:
        return outcome.OOM, "the out-of-memory killer took the container"
    if container.stopping.is_set() or code == outcome.code_of(outcome.TERMINATED):
        return outcome.TERMINATED, f"the container was stopped, and ended with {code} without a record"
    if not claimed and code in (0, 126, 127):
        return outcome.CONFIG, (
            f"the container ended with {code} without a record: {container.image} does not run zen-runner; "
            "build it from a zen-runner image and keep its ENTRYPOINT"
        )
    hint = ": something outside it killed it" if code == 137 else ""
    return outcome.INFRA, f"the container ended with {code} without a record{hint}"


def _variable(found: Mapping[str, Any], name: str) -> str | None:
    for entry in found["Config"]["Env"] or []:
        if entry.startswith(name + "="):
            return str(entry[len(name) + 1 :])
    return None
