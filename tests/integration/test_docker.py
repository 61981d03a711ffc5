"""The docker orchestrator and the image's entrypoint on a real engine: how containers end, what they may, what they leave."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from backends.orchestrator.docker import OrchestratorDockerBackend
from backends.orchestrator.driven.container_platform import Labels
from tests.support import configs, running
from tests.support.s3 import Server
from tests.support.waiting import wait_until

# One worker of pytest-xdist, so that the image is built once and the engine is not flooded.
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("image"), pytest.mark.usefixtures("cpu_image")]

PYTHON = "python:3.11-slim-bookworm"  # the base of the image under test: there is no zen-runner in it
PROMPT = {"limit": 2, "on": ["infra", "oom", "terminated"], "backoff": 0.01}
WORKER = 12345  # a user who is not the tests' own


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def containers(engine: docker.DockerClient, tmp_path: Path) -> Iterator[Callable[[], list[Any]]]:
    """Return the containers of the runs whose store is ``tmp_path/store``; none of them may be left."""

    def found() -> list[Any]:
        return engine.containers.list(all=True, filters={"label": f"zen-runner.store={tmp_path / 'store'}"})

    yield found
    left = found()
    for container in left:
        container.remove(force=True)
    assert left == []


def config(folder: Path, steps: dict[str, Any], /, **document: Any) -> Path:
    return configs.config(folder, **{"code": None, "retry": {"limit": 0}, **document, "steps": steps})


def arguments(path: Path, **options: Any) -> list[str]:
    block = {"type": "orchestrator", "source": "docker", "args": {"network": "none", **options}}
    return ["run", "--config", str(path), "--run-id", "r", "--backend", json.dumps(block)]


def run(path: Path, options: dict[str, Any] | None = None, **env: str) -> running.Ended:
    return running.run(*arguments(path, **(options or {})), cwd=path.parent, env=env)


def has_logged(folder: Path, step: str, attempt: int = 1) -> Callable[[], bool]:
    """Return what tells whether a step has printed something."""
    return lambda: bool(list((folder / f"store/runs/r/{step}/{attempt}/log").glob("*.txt")))


def log(folder: Path, step: str, attempt: int = 1) -> str:
    return "".join(path.read_text() for path in sorted((folder / f"store/runs/r/{step}/{attempt}/log").glob("*.txt")))


def python(code: str) -> list[str]:
    return ["python3", "-c", code]


# -- what comes out -------------------------------------------------------------------------------------------------------


def test_penguins_makes_the_artifacts_of_the_laptop(tmp_path: Path) -> None:
    digests = []
    for place, *backend in (("here",), ("containers", "--backend", "docker")):
        example = tmp_path / place
        shutil.copytree(running.ROOT / "examples/penguins", example, ignore=shutil.ignore_patterns("runs", "__pycache__"))
        ended = running.run("run", "--config", str(example / "pipeline.yaml"), "--run-id", "r", *backend, cwd=tmp_path)
        assert ended.code == 0, ended.errors
        found = [json.loads(path.read_text()) for path in sorted(example.glob("runs/runs/r/*/1/result.json"))]
        digests.append({(r["step"], name): out["digest"] for r in found for name, out in r["outputs"].items()})
    assert len(digests[0]) == 4 and digests[0] == digests[1]


def test_a_user_of_choice_owns_what_the_steps_write(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        {"a": {"run": ["sh", "-c", "mkdir $ZEN_OUTPUT_D; id > $ZEN_OUTPUT_D/id; touch /job/x /tmp/x"], "outputs": ["d"]}},
    )
    store = tmp_path / "store"
    store.mkdir()
    os.chown(store, WORKER, WORKER)
    (store / "runs").mkdir()
    # What the client itself writes is the client's; it leaves the run's directory open to the other user here.
    (store / "runs/r/a").mkdir(parents=True)
    os.chown(store / "runs/r/a", WORKER, WORKER)
    ended = run(path, {"user": f"{WORKER}:{WORKER}", "read_only": False})
    assert ended.code == 0, ended.errors
    written = store / "runs/r/a/1/out/d/id"
    assert (written.stat().st_uid, written.stat().st_gid) == (WORKER, WORKER)
    assert written.read_text().startswith(f"uid={WORKER} gid={WORKER} groups={WORKER},0(root)")


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder that others may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_caller_owns_what_the_steps_write(everybodys: Path) -> None:
    (everybodys / "store").mkdir()
    os.chown(everybodys / "store", WORKER, WORKER)
    path = config(everybodys, {"a": {"run": ["sh", "-c", "id -u; echo x > $ZEN_OUTPUT_X"], "outputs": ["x"]}})
    resolved = running.run("resolve", "--config", str(path), "--output", "json", cwd=everybodys)
    # This interpreter may lie in root's home, so all that it needs is loaded, by a first run, before the user changes.
    code = f"""
import json, os, sys
from backends.execution import Execution
from backends.orchestrator.docker import OrchestratorDockerBackend
from backends.store import open_store
config = json.loads(sys.stdin.read())
def once(place):
    store = open_store({str(everybodys)!r} + "/" + place)
    return OrchestratorDockerBackend(network="none").run(Execution({{**config, "store": store.url}}, "r", store))["class"]
first = once("warm")
os.setgroups([os.stat("/var/run/docker.sock").st_gid])
os.setgid({WORKER})
os.setuid({WORKER})
print(first, once("store"))
"""
    done = subprocess.run([sys.executable, "-c", code], input=resolved.stdout, capture_output=True, cwd=running.ROOT, check=False)
    assert done.stdout.split() == [b"success", b"success"], done.stderr.decode()
    for written in (everybodys / "store").rglob("*"):
        assert (written.stat().st_uid, written.stat().st_gid) == (WORKER, WORKER), written
    assert log(everybodys, "a") == f"{WORKER}\n"


def test_output_comes_live_on_its_own_stream_without_the_last_words(tmp_path: Path, containers: Callable[[], list[Any]]) -> None:
    code = (
        "import os, time\nos.write(1, b'out\\n')\nwhile not os.path.exists(os.environ['GO']): time.sleep(0.01)\n"
        "os.write(2, b'{\"attempt\":\\nerr without an end')"
    )
    store = tmp_path / "store"
    path = config(tmp_path, {"a": {"run": python(code)}}, env={"GO": str(store / "go")})
    process = running.start(*arguments(path), cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == b"a | out\n"  # now, while the step waits
    assert [container.status for container in containers()] == ["running"]
    (store / "go").touch()
    ended = running.end(process)
    assert ended.code == 0, ended.errors
    lines = ended.errors.splitlines()
    assert [line for line in lines if line.startswith("a | ")] == ['a | {"attempt":', "a | err without an end"]
    assert log(tmp_path, "a") == 'out\n{"attempt":\nerr without an end'
    assert '"step":"a"' not in ended.errors


def test_steps_side_by_side_see_each_other(tmp_path: Path) -> None:
    code = (
        "import os, time; os.chdir(os.environ['DIR']); open('{me}', 'w')\nwhile not os.path.exists('{other}'): time.sleep(0.01)"
    )
    steps = {
        me: {"run": python(code.replace("{me}", me).replace("{other}", other)), "timeout": 20}
        for me, other in (("a", "b"), ("b", "a"))
    }
    ended = run(config(tmp_path, steps, env={"DIR": str(tmp_path / "store")}), {"max_parallel": 2})
    assert ended.code == 0, ended.errors


# -- how a container ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "code", "kind"),
    [
        ({"run": ["sh", "-c", "exit 3"]}, 3, "user"),
        ({"run": ["sh", "-c", "exit 78"]}, 1, "user"),
        ({"run": ["no-such-program"]}, 127, "user"),
        ({"run": ["sleep", "60"], "timeout": 0.2}, 124, "timeout"),
        ({"run": ["true"], "inputs": {"x": "/no/such/file"}}, 65, "input"),
        ({"run": ["true"], "backend": {"type": "training", "source": "local"}}, 0, "success"),
        ({"run": ["true"], "resources": {"gpu": 1}}, 76, "placement"),
        ({"run": ["true"], "resources": {"cpu": 4096}}, 76, "placement"),
        ({"run": ["true"], "resources": {"memory": "1Mi"}}, 78, "config"),
    ],
)
def test_exit_status(tmp_path: Path, step: dict[str, Any], code: int, kind: str) -> None:
    ended = run(config(tmp_path, {"a": step}))
    assert (ended.code, ended.record["class"]) == (code, kind), ended.errors
    assert "Traceback" not in ended.errors


GREEDY = python("import os; data = b'x' * (120 << 20); print(len(data))")


def test_a_step_that_needs_more_memory_is_oom(tmp_path: Path) -> None:
    ended = run(config(tmp_path, {"a": {"run": GREEDY, "resources": {"memory": "64Mi"}}}))
    assert (ended.code, ended.record["class"]) == (137, "oom"), ended.errors
    [record] = running.results(tmp_path, "r", "a")
    assert record["usage"]["memory_limit"] == 64 << 20 and record["usage"]["oom_kill"] >= 1


def test_a_retry_after_oom_gets_more_memory(tmp_path: Path) -> None:
    step = {"run": GREEDY, "resources": {"memory": "64Mi"}, "retry": {**PROMPT, "memory_factor": 4}}
    ended = run(config(tmp_path, {"a": step}))
    assert ended.code == 0, ended.errors
    records = running.results(tmp_path, "r", "a")
    assert [(record["class"], record["usage"]["memory_limit"] >> 20) for record in records] == [("oom", 64), ("success", 256)]


def test_an_oom_that_takes_the_supervisor_too_is_oom(tmp_path: Path) -> None:
    code = (
        "import os\nfor pid in (1, os.getppid()): open(f'/proc/{pid}/oom_score_adj', 'w').write('1000')\n"
        "print('up', flush=True); data = b'x' * (120 << 20)"
    )
    ended = run(config(tmp_path, {"a": {"run": python(code), "resources": {"memory": "64Mi"}}}))
    assert (ended.code, ended.record["class"]) == (137, "oom"), ended.errors
    [record] = running.results(tmp_path, "r", "a")
    assert record["message"] == "the out-of-memory killer took the container" and record["log_tail"] == "up\n"


def test_a_container_killed_from_outside_is_infra_and_retried_at_once(
    tmp_path: Path, containers: Callable[[], list[Any]]
) -> None:
    code = "import os, time; print('up', flush=True); os.environ['ZEN_ATTEMPT'] == '1' and time.sleep(60)"
    path = config(tmp_path, {"a": {"run": python(code), "retry": PROMPT}})
    process = running.start(*arguments(path), cwd=tmp_path)
    wait_until(has_logged(tmp_path, "a"))
    [container] = containers()
    begin = time.monotonic()
    container.kill()
    ended = running.end(process)
    assert time.monotonic() - begin < 15  # and not after the claim's 30 s of silence
    assert ended.code == 0, ended.errors
    first, second = running.results(tmp_path, "r", "a")
    assert (first["class"], second["class"]) == ("infra", "success")
    assert "ended with 137" in first["message"] and "killed it" in first["message"]
    assert "up" in first["log_tail"] and first["image"].startswith("sha256:")


def test_a_container_removed_from_outside_is_infra(tmp_path: Path, containers: Callable[[], list[Any]]) -> None:
    path = config(tmp_path, {"a": {"run": python("import time; print('up', flush=True); time.sleep(60)")}})
    process = running.start(*arguments(path), cwd=tmp_path)
    wait_until(has_logged(tmp_path, "a"))
    containers()[0].remove(force=True)
    ended = running.end(process)
    assert (ended.code, ended.record["class"]) == (69, "infra"), ended.errors


def test_an_image_without_zen_runner_is_a_config_error(tmp_path: Path) -> None:
    ended = run(config(tmp_path, {"a": {"run": ["true"], "image": PYTHON}}))
    assert (ended.code, ended.record["class"]) == (78, "config"), ended.errors
    assert "does not run zen-runner" in ended.record["message"]


@pytest.mark.parametrize(
    ("pull", "code", "words"),
    [("never", 78, "`pull` is never"), ("missing", 69, "no registry answers"), ("always", 69, "registry")],
)
def test_an_image_that_is_not_there(tmp_path: Path, pull: str, code: int, words: str) -> None:
    # Nothing listens on port 1, so no registry answers.
    ended = run(config(tmp_path, {"a": {"run": ["true"], "image": "localhost:1/zen-runner:none"}}), {"pull": pull})
    assert ended.code == code, ended.errors
    assert "localhost:1/zen-runner:none" in ended.record["message"] and words in ended.record["message"]


def test_the_runners_own_image_that_is_not_there_names_the_command_that_makes_it(tmp_path: Path) -> None:
    ended = run(config(tmp_path, {"a": {"run": ["true"], "image": "zen-runner:none"}}), {"pull": "never"})
    assert ended.code == 78 and "make images" in ended.record["message"]


@pytest.fixture
def registry() -> Iterator[str]:
    """A registry that has one image, ``here:1``, of one file and nothing to run; its address.

    Source: OCI Distribution Specification 1.1, "Pull", and OCI Image Specification 1.1.
    """

    def blob(data: bytes) -> str:
        blobs[f"sha256:{hashlib.sha256(data).hexdigest()}"] = data
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    def described(kind: str, digest: str) -> dict[str, Any]:
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(blobs[digest])}

    blobs: dict[str, bytes] = {}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    layer = blob(archive.getvalue())
    image = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", blob(json.dumps(image).encode())),
        "layers": [described("layer.v1.tar", layer)],
    }
    index = blob(json.dumps(manifest).encode())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            body = b"{}" if self.path == "/v2/" else blobs.get(index if name == "1" else name)
            self.send_response(404 if body is None else 200)
            is_manifest = body is not None and "/manifests/" in self.path
            self.send_header("Content-Type", str(manifest["mediaType"]) if is_manifest else "application/json")
            if is_manifest:
                self.send_header("Docker-Content-Digest", index)
            body = body or b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_image_that_is_only_in_its_registry_is_pulled(tmp_path: Path, engine: docker.DockerClient, registry: str) -> None:
    name = f"{registry}/here:1"
    path = config(tmp_path, {"a": {"run": ["true"], "image": name}})
    try:
        assert "`pull` is never" in run(path, {"pull": "never"}).errors
        ended = run(path)
        assert f"pulling {name}" in ended.errors
        assert engine.images.get(name)
        # It has nothing to run, which is the config's fault.
        assert ended.code == 78 and "ENTRYPOINT" in ended.record["message"]
        assert "pulling" not in run(path).errors
        assert f"pulling {name}" in run(path, {"pull": "always"}).errors
    finally:
        engine.images.remove(name)


def test_an_image_that_its_registry_does_not_have_is_a_config_error(tmp_path: Path, registry: str) -> None:
    ended = run(config(tmp_path, {"a": {"run": ["true"], "image": f"{registry}/here:none"}}))
    assert ended.code == 78 and "nor to be had from its registry" in ended.record["message"], ended.errors


def test_a_second_run_of_the_same_step_leaves_the_first_alone(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        {"a": {"run": ["sh", "-c", "echo up; while [ ! -e $GO ]; do sleep 0.05; done"]}},
        env={"GO": str(tmp_path / "store/go")},
    )
    first = running.start(*arguments(path), cwd=tmp_path)
    wait_until(has_logged(tmp_path, "a"))
    second = run(path)
    assert (second.code, second.record["class"]) == (73, "duplicate"), second.errors
    (tmp_path / "store/go").touch()
    assert running.end(first).code == 0


# -- stopping, and clients that die ---------------------------------------------------------------------------------------------

WAITS = ["sh", "-c", "echo up; while [ ! -e $GO ]; do sleep 0.05; done; echo went"]


def waiting(folder: Path, **step: Any) -> Path:
    return config(folder, {"a": {"run": WAITS, **step}}, env={"GO": str(folder / "store/go")})


def test_sigterm_stops_all_containers_together(tmp_path: Path) -> None:
    # Each takes its grace period of two seconds, which in turn would be six.
    stubborn = {"run": ["sh", "-c", "trap '' TERM; echo up; while true; do sleep 0.1; done"], "grace_period": 2}
    path = config(tmp_path, dict.fromkeys(("a", "b", "c"), stubborn))
    process = running.start(*arguments(path, max_parallel=3), cwd=tmp_path)
    wait_until(lambda: all(has_logged(tmp_path, step)() for step in "abc"))
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    ended = running.end(process)
    assert (ended.code, ended.record["class"]) == (143, "terminated"), ended.errors
    assert time.monotonic() - begin < 5.5
    assert [running.results(tmp_path, "r", step)[0]["class"] for step in "abc"] == ["terminated"] * 3


def test_a_restarted_client_takes_over_what_runs(tmp_path: Path, containers: Callable[[], list[Any]]) -> None:
    path = waiting(tmp_path)
    first = running.start(*arguments(path), cwd=tmp_path)
    wait_until(has_logged(tmp_path, "a"))
    first.kill()
    running.end(first)
    [before] = containers()
    second = running.start(*arguments(path), cwd=tmp_path)
    assert second.stdout is not None
    assert second.stdout.readline() == b"a | up\n"  # from the beginning
    assert [container.id for container in containers()] == [before.id]
    (tmp_path / "store/go").touch()
    ended = running.end(second)
    assert ended.code == 0, ended.errors
    assert b"a | went" in ended.stdout
    [record] = running.results(tmp_path, "r", "a")
    assert record["class"] == "success"
    assert log(tmp_path, "a") == "up\nwent\n"


def test_a_restarted_client_that_is_stopped_stops_what_it_took_over(tmp_path: Path, containers: Callable[[], list[Any]]) -> None:
    path = waiting(tmp_path)
    for sign in (signal.SIGKILL, signal.SIGTERM):
        client = running.start(*arguments(path), cwd=tmp_path)
        assert client.stdout is not None
        assert client.stdout.readline() == b"a | up\n"
        client.send_signal(sign)
        ended = running.end(client)
    assert ended.code == 143, ended.errors
    [record] = running.results(tmp_path, "r", "a")
    assert record["class"] == "terminated"


def test_a_restarted_client_reads_what_ended_meanwhile(tmp_path: Path, containers: Callable[[], list[Any]]) -> None:
    path = waiting(tmp_path, retry=PROMPT)
    first = running.start(*arguments(path), cwd=tmp_path)
    wait_until(has_logged(tmp_path, "a"))
    first.kill()
    running.end(first)
    [container] = containers()
    container.kill()  # no record, and a claim that would bar the step for 30 s
    (tmp_path / "store/go").touch()
    begin = time.monotonic()
    ended = run(path)
    assert ended.code == 0, ended.errors
    assert time.monotonic() - begin < 20
    assert [record["class"] for record in running.results(tmp_path, "r", "a")] == ["infra", "success"]


def test_a_client_of_another_run_removes_what_a_dead_one_left(tmp_path: Path, containers: Callable[[], list[Any]]) -> None:
    path = waiting(tmp_path)
    first = running.start(*arguments(path), cwd=tmp_path)
    wait_until(has_logged(tmp_path, "a"))
    first.kill()
    running.end(first)
    other = tmp_path / "other"
    other.mkdir()
    quick = config(other, {"b": {"run": ["true"]}})
    assert run(quick).code == 0
    [container] = containers()  # it runs, so somebody may still take it over
    (tmp_path / "store/go").touch()
    container.wait(timeout=30)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(other / "store")
    assert run(quick).code == 0
    assert containers() == []
    [record] = running.results(tmp_path, "r", "a")
    assert record["class"] == "success"


class Wire:
    """A socket before the engine's own, which can be cut or go silent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.silent = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._ends: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect("/var/run/docker.sock")
                self._ends += [here, there]
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if self.silent.is_set():
                    return
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        self.path.unlink(missing_ok=True)
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.mark.parametrize("how", ["cut", "silent"])
def test_an_engine_that_goes_away_is_infra_and_the_step_is_taken_over(
    tmp_path: Path, how: str, containers: Callable[[], list[Any]]
) -> None:
    line = Wire(tmp_path / "docker.sock")
    try:
        path = waiting(tmp_path, retry={**PROMPT, "limit": int(how == "cut")})
        options = {"engine_timeout": 3} if how == "silent" else {}
        process = running.start(*arguments(path, **options), cwd=tmp_path, DOCKER_HOST=f"unix://{line.path}")
        wait_until(has_logged(tmp_path, "a"))
        begin = time.monotonic()
        line.cut() if how == "cut" else line.silent.set()
        ended = running.end(process)
    finally:
        line.cut()
    assert (ended.code, ended.record["class"]) == (69, "infra"), ended.errors
    assert "engine" in ended.record["message"] and "Traceback" not in ended.errors
    assert time.monotonic() - begin < 40
    assert [container.status for container in containers()] == ["running"]
    (tmp_path / "store/go").touch()
    assert run(path).code == 0
    [record] = running.results(tmp_path, "r", "a")
    assert record["class"] == "success"


def test_a_container_whose_start_had_no_answer_is_found_and_not_started_twice(
    tmp_path: Path, containers: Callable[[], list[Any]]
) -> None:
    path = config(tmp_path, {"a": {"run": ["sh", "-c", "echo out; echo err >&2"]}})
    resolved = json.loads(running.run("resolve", "--config", str(path), "--output", "json", cwd=tmp_path).stdout)
    (tmp_path / "store").mkdir()
    backend = OrchestratorDockerBackend(network="none")
    renderer, platform = backend.renderer(resolved), backend.platform()
    labels = Labels("r", "a", "1", "config", renderer.sha, resolved["store"], "zen-runner:cpu", "{}")
    document = renderer.render(labels, None, {})
    platform.fetch("zen-runner:cpu", "steps.a.image", print, lambda: False)
    try:
        first, second = platform.start(document, {}), platform.start(document, {})
        assert first == second == platform.find(labels.name)[labels.name]
        assert platform.containers()[first] == labels
        assert (1, b"out\n") in platform.output(first)  # as it comes
        ended = platform.wait(first)
        assert ended is not None and (ended.state, ended.exit_code) == ("succeeded", 0)
        assert {stream for stream, _ in platform.output(first)} == {1, 2}  # as the engine has kept it
    finally:
        for container in containers():
            platform.remove(container.id)
        platform.close()
    assert platform.status(first) is None


def test_no_engine_says_what_to_do(tmp_path: Path) -> None:
    ended = run(config(tmp_path, {"a": {"run": ["true"]}}), DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert (ended.code, ended.record["class"]) == (69, "infra")
    assert "No such file" in ended.record["message"] and "DOCKER_HOST" in ended.record["message"]


# -- what a container is given --------------------------------------------------------------------------------------------------


def test_a_container_carries_its_labels_and_few_rights(tmp_path: Path, containers: Callable[[], list[Any]]) -> None:
    resources = {"cpu": 0.5, "memory": "128Mi"}
    process = running.start(*arguments(waiting(tmp_path, resources=resources, grace_period=7)), cwd=tmp_path)
    wait_until(has_logged(tmp_path, "a"))
    [container] = containers()
    (tmp_path / "store/go").touch()
    assert running.end(process).code == 0
    labels = {
        name.removeprefix("zen-runner."): value for name, value in container.labels.items() if name.startswith("zen-runner.")
    }
    assert (labels["run"], labels["step"], labels["pipeline"], labels["image"]) == ("r", "a", "config", "zen-runner:cpu")
    assert json.loads(labels["driver"])["pid"] == process.pid
    assert container.name == f"zen-runner-r-a-{labels['attempt']}"
    [record] = running.results(tmp_path, "r", "a")
    assert labels["config"] == record["config"] and record["platform"]["attempt"] == labels["attempt"]
    host = container.attrs["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 128 << 20, 128 << 20)
    assert (host["CapDrop"], host["SecurityOpt"], host["ReadonlyRootfs"]) == (["ALL"], ["no-new-privileges"], True)
    assert container.attrs["Config"]["StopTimeout"] == 12
    assert container.attrs["Config"]["Cmd"] is None and container.attrs["Path"] == "/usr/bin/tini"


def test_a_step_may_write_to_tmp_and_its_outputs_and_nowhere_else(tmp_path: Path) -> None:
    code = """
import os
def may(path):
    try:
        open(path, "w").close()
        return True
    except OSError:
        return False
print([may(path) for path in ("/tmp/x", os.environ["ZEN_OUTPUT_X"], "x", "module.py", "/job/x", "/etc/x", os.environ["DATA"])])
status = open("/proc/self/status").read()
print(*(status.split(name)[1].split()[0] for name in ("CapEff:", "NoNewPrivs:")))
"""
    source = configs.write(tmp_path / "source", module_py="X = 1")
    data = tmp_path / "data.txt"
    data.write_text("data")
    step = {"run": python(code), "outputs": ["x"], "inputs": {"data": str(data)}, "env": {"DATA": str(data)}}
    ended = run(config(tmp_path, {"a": step}, code=str(source)))
    assert ended.code == 0, ended.errors
    assert log(tmp_path, "a") == "[True, True, False, False, False, False, False]\n0000000000000000 1\n"


def test_code_store_and_inputs_are_where_they_are_outside(tmp_path: Path) -> None:
    configs.write(tmp_path, job_py="def run(data, linked, out):\n    out.write_text(data.read_text() + linked.read_text())")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "data.txt").write_text("one ")
    (outside / "linked.txt").write_text("two")
    (tmp_path / "linked.txt").symlink_to(outside / "linked.txt")  # in the code, but it leads out of it
    step = {"call": "job:run", "inputs": {"data": str(outside / "data.txt"), "linked": "./linked.txt"}, "outputs": ["out"]}
    ended = run(config(tmp_path, {"a": step}, code="."))  # the store lies inside the code
    assert ended.code == 0, ended.errors
    assert (tmp_path / "store/runs/r/a/1/out/out").read_text() == "one two"


@pytest.mark.parametrize("megabytes", [0.15, 5])
def test_a_large_config_arrives(tmp_path: Path, megabytes: float, containers: Callable[[], list[Any]]) -> None:
    # What can't be packed small, so that 5 MB fits into no environment variable.
    text = os.urandom(int(megabytes * 5e5)).hex()
    configs.write(tmp_path, job_py="import hashlib\ndef run(text):\n    print(hashlib.sha256(text.encode()).hexdigest())")
    ended = run(config(tmp_path, {"a": {"call": "job:run", "args": {"text": text}}}, code="."))
    assert ended.code == 0, ended.errors
    assert log(tmp_path, "a") == hashlib.sha256(text.encode()).hexdigest() + "\n"


def test_secrets_reach_the_step_and_no_label_record_or_log(tmp_path: Path, containers: Callable[[], list[Any]]) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    path = config(
        tmp_path,
        {
            "a": {
                "run": [
                    "sh",
                    "-c",
                    "echo up; while [ ! -e $GO ]; do sleep 0.05; done; [ $(echo $KEY $TOKEN | sha256sum | cut -c-8) = $SUM ]",
                ]
            }
        },
        env={"GO": str(tmp_path / "store/go"), "SUM": hashlib.sha256(b"from-env from-a-file\n").hexdigest()[:8]},
        secrets={"KEY": {"env": "MY_KEY"}, "TOKEN": {"file": str(tmp_path / "token")}},
    )
    process = running.start(*arguments(path), cwd=tmp_path, MY_KEY="from-env", UNRELATED="not-passed")
    wait_until(has_logged(tmp_path, "a"))
    [container] = containers()
    (tmp_path / "store/go").touch()
    ended = running.end(process)
    assert ended.code == 0, ended.errors
    assert "from-env" not in json.dumps(container.labels) and "not-passed" not in json.dumps(container.attrs)
    said = b"".join(file.read_bytes() for file in (tmp_path / "store").rglob("*") if file.is_file()) + ended.stdout + ended.stderr
    assert b"from-env" not in said and b"from-a-file" not in said


def test_a_secret_that_is_not_set_is_named(tmp_path: Path) -> None:
    ended = run(config(tmp_path, {"a": {"run": ["true"]}}, secrets={"KEY": {"env": "MY_KEY"}}))
    assert (ended.code, ended.record["class"]) == (76, "placement")
    assert "secrets.KEY" in ended.record["message"] and "$MY_KEY" in ended.record["message"]


def test_a_bucket_is_the_store_with_the_clients_credentials(tmp_path: Path, engine: docker.DockerClient) -> None:
    import boto3

    server = Server()
    try:
        client = boto3.client(
            "s3", endpoint_url=server.url, region_name="us-east-1", aws_access_key_id="me", aws_secret_access_key="mine"
        )
        client.create_bucket(Bucket="containers")
        steps = {
            "a": {"run": ["sh", "-c", "echo data > $ZEN_OUTPUT_X"], "outputs": ["x"]},
            "b": {"run": ["sh", "-c", "cat $ZEN_INPUT_X; exit 3"], "inputs": {"x": "a.x"}},
        }
        path = config(tmp_path, steps, store="s3://containers/here")
        keys = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "mine", "AWS_REGION": "us-east-1"}
        ended = run(path, {"network": "host"}, **keys, AWS_ENDPOINT_URL=server.url, AWS_ALLOW_HTTP="true")
        assert (ended.code, ended.record["class"]) == (3, "user"), ended.errors
        assert b"b | data\n" in ended.stdout
        body = client.get_object(Bucket="containers", Key="here/runs/r/b/1/result.json")["Body"].read()
        assert json.loads(body)["exit_code"] == 3
        assert engine.containers.list(all=True, filters={"label": "zen-runner.store=s3://containers/here"}) == []
    finally:
        server.close()


# -- process 1 ------------------------------------------------------------------------------------------------------------------

PID_1: dict[str, dict[str, Any]] = {
    "tini": {},
    "zen-runner": {"entrypoint": ["/usr/bin/zen-runner"]},
    "docker --init": {"init": True},
    "docker --init and zen-runner": {"init": True, "entrypoint": ["/usr/bin/zen-runner"]},
}


@pytest.fixture(params=PID_1)
def begin(request: pytest.FixtureRequest, engine: docker.DockerClient, cpu_image: str) -> Iterator[Callable[..., Any]]:
    """Start a container of one step, under each kind of process 1."""
    begun = []

    def start(*argv: str, **step: Any) -> Any:
        document = {"version": 1, "store": "/tmp/store", "code": None, "steps": {"only": {"run": list(argv), **step}}}
        env = {"ZEN_RUNNER_CONFIG": json.dumps(document), "ZEN_RUNNER_STEP": "only", "ZEN_RUNNER_RUN_ID": "r"}
        container = engine.containers.create(cpu_image, environment=env, network_mode="none", **PID_1[request.param])
        begun.append(container)
        container.start()
        return container

    yield start
    for container in begun:
        container.remove(force=True)


def test_orphans_are_reaped(begin: Callable[..., Any]) -> None:
    code = """
import glob, os, time
for _ in range(5):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.1)  # by then an orphan, which process 1 inherits
        os._exit(0)
    os.wait()
def states():
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            found.append(open(path).read().rpartition(")")[2].split()[0])
        except OSError:
            pass
    return found
time.sleep(0.2)
for _ in range(100):
    if "Z" not in states():
        break
    time.sleep(0.02)
print(states().count("Z"), "zombies", len(states()) <= 4)
"""
    container = begin("python3", "-c", code)
    assert container.wait(timeout=30)["StatusCode"] == 0
    assert container.logs(stdout=True, stderr=False) == b"0 zombies True\n"


def test_docker_stop_ends_the_step_with_last_words(begin: Callable[..., Any]) -> None:
    container = begin("sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.05; done")
    wait_until(lambda: b"up" in container.logs())
    container.stop(timeout=20)
    assert container.wait(timeout=30)["StatusCode"] == 143
    assert container.logs(stdout=True, stderr=False) == b"up\nbye\n"
    words = json.loads(container.logs(stdout=False, stderr=True).splitlines()[-1])
    assert (words["class"], words["exit_code"], words["run"], words["step"]) == ("terminated", 143, "r", "only")


def test_a_stop_kills_what_does_not_listen(begin: Callable[..., Any]) -> None:
    container = begin("sh", "-c", "trap '' TERM; echo up; while true; do sleep 0.05; done", grace_period=0.3)
    wait_until(lambda: b"up" in container.logs())
    container.stop(timeout=20)
    assert container.wait(timeout=30)["StatusCode"] == 143


def test_the_steps_status_is_the_containers(begin: Callable[..., Any]) -> None:
    assert begin("sh", "-c", "exit 3").wait(timeout=30)["StatusCode"] == 3
