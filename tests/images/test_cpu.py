"""The cpu image: what is in it, who it runs as, and what it keeps to itself."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import http.server
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import docker
import pytest

import backends
from tests.support.images import Ended, Layer, step
from tests.support.running import ROOT

# One worker of pytest-xdist, so that the image is built and read once.
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("image")]

LIB = "opt/zen-runner/lib"
Saved = tuple[dict[str, Any], list[Layer]]
Run = Callable[..., Ended]


# Who it runs as


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"user": "12345:0"},
        {"user": "12345:54321"},
        {"read_only": True, "tmpfs": {"/tmp": ""}},
        {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]},
        {
            "user": "12345:0",
            "read_only": True,
            "tmpfs": {"/tmp": ""},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
        },
    ],
    ids=["default", "any user", "any user and group", "read-only", "no capabilities", "all of it"],
)
def test_a_step_runs(run: Run, options: dict[str, Any]) -> None:
    ended = run(**step("id", "-u"), **options)
    assert (ended.code, ended.stdout.strip()) == (0, options.get("user", "1000").partition(":")[0]), ended.stderr


def test_the_default_user_is_not_root_and_of_group_0(run: Run, saved: Saved) -> None:
    # By number: Kubernetes can not see whether a name is root's.
    assert saved[0]["config"]["User"] == "1000:0"
    assert run("-c", "id -u; id -g", entrypoint="sh").stdout.split() == ["1000", "0"]


@pytest.mark.parametrize("user", ["1000:0", "12345:0"])
def test_the_working_directory_can_be_written(run: Run, user: str) -> None:
    ended = run("-c", "pwd && touch here && stat -c %u here", entrypoint="sh", user=user)
    assert ended.stdout.split() == ["/job", user.partition(":")[0]], ended.stderr


def test_a_user_without_a_name_has_a_home_and_a_name(run: Run) -> None:
    script = "import getpass, pathlib; (pathlib.Path.home() / 'x').touch(); print(getpass.getuser())"
    ended = run("-c", script, entrypoint="python3", user="12345:54321")
    assert ended.code == 0, ended.stderr


@pytest.mark.parametrize("init", [False, True], ids=["tini", "docker --init"])
def test_an_init_is_process_1_and_says_nothing(run: Run, init: bool) -> None:
    ended = run(**step("cat", "/proc/1/comm"), init=init)
    assert ended.stdout.strip() == ("docker-init" if init else "tini"), ended.stderr
    assert "tini" not in ended.stderr.lower()


def test_sigterm_reaches_the_step(engine: docker.DockerClient, cpu_image: str) -> None:
    container = engine.containers.run(cpu_image, detach=True, **step("sh", "-c", "echo up; exec sleep 60"))
    try:
        for line in container.logs(stream=True):
            if b"up" in line:
                break
        container.kill("SIGTERM")
        assert container.wait(timeout=30)["StatusCode"] == 143
    finally:
        container.remove(force=True)


# What is in it


def test_labels(saved: Saved) -> None:
    config = saved[0]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["config"]["Labels"].items()}
    assert labels["title"] == "zen-runner"
    assert labels["version"] == backends.__version__
    assert labels["licenses"] == "Apache-2.0"
    assert labels["base.name"]
    created = datetime.datetime.fromisoformat(labels["created"])
    assert created == datetime.datetime.fromisoformat(config["created"])
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert labels["revision"].removesuffix("-dirty") == head.stdout.strip()


def test_the_layers_hold_the_runner_and_tini_and_nothing_else(saved: Saved) -> None:
    # No pip, no compiler, no package lists, no pip.conf, no certificates, no caches: nothing that is not named here.
    allowed = (LIB, "usr/bin/tini", "usr/bin/zen-runner", "usr/share/doc/tini/copyright", "job")
    for layer in saved[1]:
        for name, member in layer.members.items():
            path = PurePosixPath(name)
            inside = any(path.is_relative_to(place) for place in allowed)
            above = member.isdir() and any(PurePosixPath(place).is_relative_to(path) for place in allowed)
            assert inside or above, name
    held = {path.split("/")[3] for layer in saved[1] for path in layer.files if path.startswith(LIB)}
    assert {"entrypoint", "backends", "yaml", "msgspec", "obstore", "rich", "shtab"} <= held
    assert not {name for name in held if re.match(r"pip|setuptools|wheel|tests?$|bin$", name)}


def test_nothing_in_the_layers_can_be_changed_by_the_user(saved: Saved) -> None:
    for layer in saved[1]:
        for name, member in layer.members.items():
            assert (member.uid, member.gid) == (0, 0), name
            assert member.isfile() or member.isdir(), name
            expected = 0o775 if name == "job" else 0o755
            assert member.mode in {expected, 0o644}, (name, oct(member.mode))


def test_only_temporary_directories_are_world_writable(run: Run) -> None:
    ended = run("/", "-xdev", "-perm", "-0002", "!", "-type", "l", "!", "-type", "c", entrypoint="find", user="0:0")
    assert ended.code == 0, ended.stderr
    assert set(ended.stdout.split()) <= {"/tmp", "/var/tmp", "/run/lock"}
    sticky = run("/tmp", "/var/tmp", "-maxdepth", "0", "-perm", "-1000", entrypoint="find").stdout.split()
    assert sticky == ["/tmp", "/var/tmp"]


def test_every_module_is_compiled(run: Run, saved: Saved) -> None:
    magic = bytes.fromhex(
        run("-c", "import importlib.util as u; print(u.MAGIC_NUMBER.hex())", entrypoint="python3").stdout.strip()
    )
    files = {name: data for layer in saved[1] for name, data in layer.files.items()}
    sources = {name for name in files if name.endswith(".py")}
    assert len(sources) > 100
    seen = set()
    for name, data in files.items():
        if not name.endswith(".pyc"):
            continue
        path = PurePosixPath(name)
        source = str(path.parent.parent / (path.name.split(".")[0] + ".py"))
        assert source in sources
        assert data[:4] == magic
        # The flags of PEP 552: made from a hash that is not checked, so that no copy's time makes it stale.
        assert int.from_bytes(data[4:8], "little") == 0b01, name
        assert data[8:16] == importlib.util.source_hash(files[source]), f"{name} is not of this source"
        seen.add(source)
    assert seen == sources


def test_the_launcher_uses_the_byte_code(run: Run) -> None:
    script = (
        "import sys; sys.path.append('/opt/zen-runner/lib'); import entrypoint.__main__ as m; "
        "print(m.__cached__, m.main.__code__.co_filename)"
    )
    cached, filename = run("-ISc", script, entrypoint="python3").stdout.split()
    assert cached.startswith("/opt/zen-runner/lib/entrypoint/__pycache__/__main__.cpython-")
    assert filename == "/opt/zen-runner/lib/entrypoint/__main__.py"


def test_the_users_python_sees_none_of_it(run: Run, saved: Saved) -> None:
    names = {PurePosixPath(path).relative_to(LIB).parts[0] for layer in saved[1] for path in layer.files if path.startswith(LIB)}
    modules = sorted(n.removesuffix(".py") for n in names if n.removesuffix(".py").isidentifier() and n != "__pycache__")
    assert {"entrypoint", "backends", "yaml", "msgspec", "obstore"} <= set(modules)
    script = (
        "import importlib.util as u, importlib.metadata as m; "
        f"print([n for n in {modules} if u.find_spec(n)], *m.packages_distributions())"
    )
    ended = run("-c", script, entrypoint="python3")
    found, _, distributions = ended.stdout.partition("]")
    assert found == "[", ended.stderr
    assert "zen" not in distributions
    # The same from where the runner starts it: its own path is not handed down.
    assert run(**step("python3", "-c", script)).stdout.startswith("[]")


def test_backends_are_found_by_their_entry_points(run: Run) -> None:
    script = (
        "import sys; sys.path.append('/opt/zen-runner/lib'); from importlib.metadata import entry_points, version; "
        "print(version('zen-runner'), *(p.name for p in entry_points(group='zen_runner.backends') if p.load()))"
    )
    ended = run("-ISc", script, entrypoint="python3")
    assert ended.stdout.split()[0] == backends.__version__, ended.stderr
    assert {"orchestrator.local", "orchestrator.docker"} <= set(ended.stdout.split()[1:])


def test_size_over_the_base(saved: Saved, record_property: Callable[[str, object], None]) -> None:
    size = sum(len(gzip.compress(layer.blob, 6)) for layer in saved[1])
    record_property("cpu_image_over_base_compressed_bytes", size)
    assert size <= 15_000_000


# What it keeps to itself


def test_nothing_of_the_build_stays(saved: Saved) -> None:
    config, layers = saved
    # No index, proxy or mirror in its environment, labels or history; no secret's name or path.
    text = json.dumps(config)
    assert "://" not in text
    assert "/run/secrets" not in text
    assert "PIP_" not in text
    for layer in layers:
        for name, data in layer.files.items():
            # A certificate, and not the marker alone, which the TLS library's own parser holds.
            assert b"-----BEGIN CERTIFICATE-----\nMII" not in data, name
            assert b"PRIVATE KEY-----\nMI" not in data, name


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("target", ["cpu", "beam", "spark", "cuda"])
def test_two_builds_give_the_same_layers(engine: docker.DockerClient, tmp_path: Path, target: str) -> None:
    tag = f"zen-runner-test:{uuid.uuid4().hex}"
    # The builder takes two files for the same if the names of their contexts, their times and their sizes are the same.
    one, two = tmp_path / f"one-{uuid.uuid4().hex}", tmp_path / f"two-{uuid.uuid4().hex}"
    for part in ("images", "entrypoint", "backends"):
        shutil.copytree(ROOT / part, one / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("docker-bake.hcl", ".dockerignore", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / file, one)
    # The same content, with other times and modes, as another checkout would have.
    shutil.copytree(one, two, copy_function=shutil.copy)
    for path in two.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (1, 1))
    bundles = (os.environ.get("SSL_CERT_FILE", ""), "/etc/ssl/certs/ca-certificates.crt")
    made = []
    try:
        for copy in (one, two):
            subprocess.run(
                [
                    "docker",
                    "buildx",
                    "bake",
                    "--load",
                    "--no-cache",
                    "--progress",
                    "quiet",
                    "--set",
                    f"{target}.tags={tag}",
                    target,
                ],
                cwd=copy,
                env={**os.environ, "BEAM_SDK": "", "CA_BUNDLE": next(filter(os.path.isfile, bundles), "")},
                check=True,
                timeout=450,
            )
            made.append(engine.images.get(tag))
        assert made[0].attrs["RootFS"] == made[1].attrs["RootFS"]
        assert made[0].id == made[1].id
    finally:
        for image in made:
            with contextlib.suppress(docker.errors.ImageNotFound):
                engine.images.remove(str(image.id), force=True)


# How it is used


def test_users_extend_it(engine: docker.DockerClient, run: Run, cpu_image: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mine-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("yaml/__init__.py", "mine = 'the user own yaml'")
        wheel.writestr("mine-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
        wheel.writestr("mine-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("mine-1.dist-info/RECORD", "")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {cpu_image}\nUSER 0\nCOPY *.whl /tmp/\nRUN pip install --no-index --no-cache-dir /tmp/*.whl\nUSER 1000:0\n"
    )
    image, _ = engine.images.build(path=str(tmp_path), rm=True, forcerm=True)
    try:
        ended = run(image=image.id, **step("python3", "-c", "import yaml; print(yaml.mine)"))
        assert (ended.code, ended.stdout.strip()) == (0, "the user own yaml"), ended.stderr
    finally:
        engine.images.remove(str(image.id), force=True)


@contextlib.contextmanager
def https(folder: Path) -> Iterator[tuple[str, Path]]:
    """Serve a file over TLS on the loopback, by a certificate that only its own bundle trusts."""
    key, certificate = folder / "key.pem", folder / "ca.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=private"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.send_header("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://127.0.0.1:{server.server_port}", certificate
    finally:
        server.shutdown()
        server.server_close()


def test_a_private_ca_is_trusted_at_run_time(run: Run, tmp_path: Path) -> None:
    with https(tmp_path) as (url, bundle):
        script = (
            "import sys; sys.path.append('/opt/zen-runner/lib'); from obstore.store import HTTPStore; "
            f"print(HTTPStore.from_url('{url}', retry_config={{'max_retries': 0}}).get('x').bytes().to_bytes())"
        )
        bundle.chmod(0o644)
        options = {"entrypoint": "python3", "network_mode": "host", "volumes": {str(bundle): {"bind": "/ca.pem", "mode": "ro"}}}
        refused = run("-ISc", script, **options)
        assert refused.code != 0
        assert "certificate" in refused.stderr.lower()
        trusted = run("-ISc", script, **options, environment={"SSL_CERT_FILE": "/ca.pem"})
        assert trusted.stdout.strip() == "b'hello'", trusted.stderr
