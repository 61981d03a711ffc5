"""What the four images have in common, and what beam, spark and cuda add to cpu."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import docker
import pytest

import backends
from tests.support.images import Ended, build, step
from tests.support.running import ROOT

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("image")]

Run = Callable[..., Ended]
# What each adds may replace these of the base's files, and no other.
REPLACED = {"beam": set[str](), "spark": {"etc/nsswitch.conf"}, "cuda": {"etc/ld.so.cache"}}
COMPILERS = {"cc", "c++", "gcc", "g++", "clang", "cpp", "ld", "as", "make", "nvcc", "ptxas", "javac", "rustc", "go"}
# What these packages bring are the public certificates that they trust.
TRUSTED = re.compile(r"(certifi/cacert\.pem|httplib2/cacerts\.txt|_credentials/roots\.pem|pyarrow/libarrow_flight\.so\.\d+)$")
# A certificate or key, and not the marker alone, which their parsers hold.
SECRETS = (b"-----BEGIN CERTIFICATE-----\nMII", b"PRIVATE KEY-----\nMI", b"/run/secrets/ca", b"/run/secrets/pip")
RESTRICTED: dict[str, Any] = {
    "user": "12345:54321",
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}


@dataclass
class Variant:
    """One of the images, by the last part of its name.

    Args:
        name: ``cpu``, ``beam``, ``spark`` or ``cuda``.
        tag: what it is run by.
        image: its description.
    """

    name: str
    tag: str
    image: Any

    @property
    def layers(self) -> list[str]:
        return list(self.image.attrs["RootFS"]["Layers"])


@dataclass
class Scan:
    """What one layer holds, without what its files hold: they are gigabytes.

    Args:
        members: its entries by path.
        sources: the hash of every Python source below the user's packages.
        compiled: the first 16 bytes of every byte-code file.
        suspects: files with a key, a certificate or a secret's path in them.
        size: of all files, in bytes.
    """

    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    sources: dict[str, bytes] = field(default_factory=dict)
    compiled: dict[str, bytes] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    size: int = 0

    def add(self, archive: tarfile.TarFile) -> None:
        """Read a layer's archive to its end."""
        for member in archive:
            self.members[member.name] = member
            file = archive.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            self.size += member.size
            tail = b""
            head = b""
            while chunk := file.read(1 << 24):
                head = head or chunk
                if any(secret in chunk or secret in tail + chunk[:64] for secret in SECRETS):
                    self.suspects.add(member.name)
                tail = chunk[-64:]
            if member.name.endswith(".pyc"):
                self.compiled[member.name] = head[:16]
            elif member.name.endswith(".py"):
                self.sources[member.name] = importlib.util.source_hash(head)


@pytest.fixture(scope="module", params=["cpu", "beam", "spark", "cuda"])
def variant(request: pytest.FixtureRequest, engine: docker.DockerClient) -> Variant:
    tag = request.getfixturevalue(f"{request.param}_image")
    return Variant(request.param, tag, engine.images.get(tag))


@pytest.fixture(scope="module", params=["beam", "spark", "cuda"])
def bigger(request: pytest.FixtureRequest, engine: docker.DockerClient) -> Variant:
    tag = request.getfixturevalue(f"{request.param}_image")
    return Variant(request.param, tag, engine.images.get(tag))


@pytest.fixture(scope="module")
def added(bigger: Variant, cpu_image: str, engine: docker.DockerClient) -> Scan:
    """The layer that cpu does not have."""
    shared = engine.images.get(cpu_image).attrs["RootFS"]["Layers"]
    number = next(n for n, digest in enumerate(bigger.layers) if digest not in shared)
    scan = Scan()
    with tempfile.TemporaryFile() as file:
        file.writelines(bigger.image.save(chunk_size=1 << 22))
        file.seek(0)
        with tarfile.open(fileobj=file) as saved:
            manifest = saved.extractfile("manifest.json")
            assert manifest
            layer = saved.extractfile(json.load(manifest)[0]["Layers"][number])
            assert layer
            with tarfile.open(fileobj=layer, mode="r|") as archive:
                scan.add(archive)
    return scan


def site(run: Run) -> str:
    """Return where the user's Python keeps packages, as a path in a layer."""
    return (
        run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", entrypoint="python3").stdout.strip().removeprefix("/")
    )


# All four


@pytest.mark.parametrize("options", [{}, RESTRICTED], ids=["default", "any user, read-only, no capabilities"])
def test_a_step_runs(run: Run, variant: Variant, options: dict[str, Any]) -> None:
    ended = run(image=variant.tag, **step("id", "-u"), **options)
    assert (ended.code, ended.stdout.strip()) == (0, options.get("user", "1000").partition(":")[0]), ended.stderr


def test_the_user_is_not_root_and_the_entrypoint_is_ours(variant: Variant) -> None:
    config = variant.image.attrs["Config"]
    assert config["User"] == "1000:0"
    assert config["WorkingDir"] == "/job"
    assert config["Entrypoint"] == ["/usr/bin/tini", "-s", "--", "/usr/bin/zen-runner"]
    assert not config["Cmd"]


def test_the_doctor_finds_nothing_wrong(run: Run, variant: Variant) -> None:
    ended = run("doctor", image=variant.tag, **RESTRICTED, shm_size="1g")
    assert ended.code == 0, ended.stdout
    assert "ok    python" in ended.stdout
    assert not re.findall(r"(?m)^(?:fail|warn).*", ended.stdout)
    assert ("ok    jvm" in ended.stdout) == (variant.name == "spark")


def test_labels(variant: Variant) -> None:
    labels = variant.image.labels
    for name in ("title", "description", "version", "revision", "created", "licenses", "base.name"):
        assert f"org.opencontainers.image.{name}" in labels
    assert labels["org.opencontainers.image.version"] == backends.__version__
    assert ("org.zen-runner.cuda" in labels) == (variant.name == "cuda")
    assert ("org.zen-runner.beam.boot" in labels) == (variant.name == "beam")


def test_only_temporary_directories_are_world_writable(run: Run, variant: Variant) -> None:
    ended = run(
        *("/", "-xdev", "-perm", "-0002", "!", "-type", "l", "!", "-type", "c"), image=variant.tag, entrypoint="find", user="0:0"
    )
    assert ended.code == 0, ended.stderr
    assert set(ended.stdout.split()) <= {"/tmp", "/var/tmp", "/run/lock"}


def test_the_group_can_write_the_working_directory_alone(run: Run, variant: Variant) -> None:
    ended = run(
        *("/", "-xdev", "-perm", "-0020", "!", "-type", "l", "!", "-type", "c", "-gid", "0", "!", "-perm", "-0002"),
        image=variant.tag,
        entrypoint="find",
        user="0:0",
    )
    assert ended.stdout.split() == ["/job"], ended.stderr


def test_there_is_no_compiler(run: Run, variant: Variant) -> None:
    ended = run("-c", f"command -v {' '.join(sorted(COMPILERS))}; true", image=variant.tag, entrypoint="bash")
    assert (ended.code, ended.stdout) == (0, "")


def test_the_runner_finds_its_own_modules_and_the_step_none_of_them(run: Run, variant: Variant) -> None:
    script = "import importlib.util as u; print([n for n in ('entrypoint', 'backends', 'msgspec', 'obstore') if u.find_spec(n)])"
    ended = run(image=variant.tag, **step("python3", "-c", script))
    assert (ended.code, ended.stdout) == (0, "[]\n"), ended.stderr


# What three of them add


def test_it_is_cpu_and_one_layer(bigger: Variant, cpu_image: str, engine: docker.DockerClient) -> None:
    cpu = engine.images.get(cpu_image).attrs["RootFS"]["Layers"]
    assert [digest for digest in bigger.layers if digest in cpu] == cpu
    assert len(bigger.layers) == len(cpu) + 1
    # The runner's stays the last one, which is why a change of code is a small layer in all of them.
    assert bigger.layers[-1] == cpu[-1]


def test_its_size(bigger: Variant, added: Scan, record_property: Callable[[str, object], None]) -> None:
    record_property(f"{bigger.name}_image_bytes", bigger.image.attrs["Size"])
    record_property(f"{bigger.name}_image_over_cpu_bytes", added.size)
    assert added.size < {"beam": 600, "spark": 900, "cuda": 3500}[bigger.name] * 1_000_000


def test_it_replaces_nothing_of_the_base(run: Run, bigger: Variant, added: Scan) -> None:
    listed = run("/", "-xdev", "-printf", "%y %P\n", entrypoint="find", user="0:0").stdout.splitlines()
    there = {path: kind for kind, _, path in (line.partition(" ") for line in listed)}
    replaced = set()
    for name, member in added.members.items():
        kind = there.get(name)
        if kind is not None and not (member.isdir() and kind == "d"):
            replaced.add(name)
        assert "/.wh." not in f"/{name}", "a deletion"
    assert replaced == REPLACED[bigger.name]


def test_nothing_in_it_can_be_changed_by_the_user(added: Scan) -> None:
    for name, member in added.members.items():
        assert (member.uid, member.gid) == (0, 0), name
        assert member.isfile() or member.isdir() or member.issym() or member.islnk(), name
        assert member.issym() or member.mode in {0o755, 0o644}, (name, oct(member.mode))
        assert member.mtime == 315532800, name


def test_nothing_of_the_build_stays(bigger: Variant, added: Scan, engine: docker.DockerClient) -> None:
    text = json.dumps([bigger.image.attrs["Config"], bigger.image.history()])
    assert "://" not in text
    assert "PIP_CERT" not in json.dumps(bigger.image.attrs["Config"])
    assert {name for name in added.suspects if not TRUSTED.search(name)} == set()
    for name in added.members:
        path = PurePosixPath(name)
        assert path.name not in {"pip.conf", ".netrc"}, name
        assert path.name not in COMPILERS or added.members[name].isdir(), name
        assert not path.is_relative_to("root"), name
        assert not path.is_relative_to("var/cache"), name
        assert not path.is_relative_to("var/lib/apt"), name
        assert not path.is_relative_to("run"), name


def test_its_packages_are_compiled(run: Run, added: Scan) -> None:
    place = site(run)
    magic = run("-c", "import importlib.util as u; print(u.MAGIC_NUMBER.hex())", entrypoint="python3").stdout.strip()
    sources = {name: digest for name, digest in added.sources.items() if name.startswith(f"{place}/")}
    seen = set()
    for name, head in added.compiled.items():
        path = PurePosixPath(name)
        source = str(path.parent.parent / (path.name.rpartition(".cpython-")[0] + ".py"))
        # As in the runner's own: PEP 552's flags, made from a hash that is not checked.
        assert head[:4].hex() == magic
        assert int.from_bytes(head[4:8], "little") == 0b01, name
        assert head[8:16] == sources[source], f"{name} is not of this source"
        seen.add(source)
    assert seen == set(sources)


# beam


def test_beams_own_wordcount_runs(run: Run, beam_image: str) -> None:
    script = (
        "printf 'one two two\\n' >/tmp/in && python3 -m apache_beam.examples.wordcount --runner FnApiRunner "
        "--input /tmp/in --output /tmp/out && sort /tmp/out*"
    )
    ended = run(image=beam_image, **step("sh", "-c", script), **RESTRICTED)
    assert (ended.code, ended.stdout) == (0, "one: 1\ntwo: 2\n"), ended.stderr


def test_without_the_boot_program_a_worker_ends_with_76(run: Run, cpu_image: str) -> None:
    ended = run("--id=sdk-0-0", "--provision_endpoint=localhost:1", image=cpu_image)
    assert ended.code == 76
    assert "/opt/apache/beam/boot" in ended.stderr
    assert "zen-runner:beam" in ended.stderr


def bake(tag: str, sdk: Path) -> subprocess.CompletedProcess[str]:
    """Build the beam image under another name, with the boot program from a directory."""
    bundles = (os.environ.get("SSL_CERT_FILE", ""), "/etc/ssl/certs/ca-certificates.crt")
    return subprocess.run(
        ["docker", "buildx", "bake", "--load", "--progress", "plain", "--set", f"beam.tags={tag}", "beam"],
        cwd=ROOT,
        env={**os.environ, "BEAM_SDK": str(sdk), "CA_BUNDLE": next(filter(os.path.isfile, bundles), "")},
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.usefixtures("beam_image")
def test_the_boot_program_comes_from_the_context(engine: docker.DockerClient, run: Run, tmp_path: Path) -> None:
    tag = f"zen-runner-test:{uuid.uuid4().hex}"
    program = tmp_path / "opt/apache/beam/boot"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$0" "$@"; exit 9\n')
    program.chmod(0o755)
    done = bake(tag, tmp_path)
    assert done.returncode == 0, done.stderr
    try:
        ended = run("--id=sdk-0-0", "--provision_endpoint=localhost:1", image=tag, **RESTRICTED)
        assert (ended.code, ended.stdout) == (9, "/opt/apache/beam/boot --id=sdk-0-0 --provision_endpoint=localhost:1\n")
        assert engine.images.get(tag).labels["org.zen-runner.beam.boot"] == "present"
    finally:
        engine.images.remove(tag, force=True)


def test_a_context_without_the_program_fails_the_build(tmp_path: Path) -> None:
    done = bake(f"zen-runner-test:{uuid.uuid4().hex}", tmp_path)
    assert done.returncode != 0
    assert "the context beam_sdk has no program opt/apache/beam/boot" in done.stderr


def test_a_build_that_can_not_have_the_program_says_so(engine: docker.DockerClient, beam_image: str) -> None:
    try:
        said = build("beam", BEAM_SDK="docker-image://registry.invalid/beam:1")
        assert "registry.invalid/beam:1 can not be had" in said
        assert "without the boot program" in said
        assert engine.images.get(beam_image).labels["org.zen-runner.beam.boot"] == "absent"
    finally:
        build("beam")


# spark


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (("wordcount.py", "/etc/nsswitch.conf"), r"(?m)^passwd:: 1|^passwd: 1"),
        (("als.py", "20", "40", "4", "2", "2"), r"Iteration 1:\n\nRMSE: \d"),
    ],
    ids=["wordcount", "als"],
)
def test_pysparks_own_examples_run(run: Run, spark_image: str, example: tuple[str, ...], said: str) -> None:
    name, *arguments = example
    program = f"/opt/spark/examples/src/main/python/{name}"
    line = ("spark-submit", "--master", "local[2]", "--driver-memory", "512m", program, *arguments)
    ended = run(image=spark_image, **step(*line), **RESTRICTED)
    assert ended.code == 0, ended.stderr
    assert re.search(said, ended.stdout), ended.stdout


def test_the_jvm_trusts_what_the_base_trusts(run: Run, spark_image: str) -> None:
    script = (
        "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt; "
        "$JAVA_HOME/bin/keytool -list -cacerts -storepass changeit | grep -c trustedCertEntry"
    )
    base, jvm = run("-c", script, image=spark_image, entrypoint="sh").stdout.split()
    assert int(base) > 50
    assert jvm == base


def test_the_jre_is_listed_for_scanners(run: Run, spark_image: str) -> None:
    ended = run("-hE", "^(Package|Version)", "-r", "/var/lib/dpkg/status.d", image=spark_image, entrypoint="grep")
    assert re.search(r"Package: openjdk-\d+-jre-headless\nVersion: \d", ended.stdout)


def test_every_shared_library_finds_what_it_needs(run: Run, spark_image: str) -> None:
    # The JVM's own are found by the JVM, which has loaded them.
    script = "find $JAVA_HOME/lib/ /usr/lib/*-linux-gnu -name '*.so*' -type f -exec ldd {} + 2>&1 | grep 'not found' | sort -u"
    ended = run("-c", script, image=spark_image, entrypoint="sh")
    assert set(re.findall(r"(\S+) => not found", ended.stdout)) <= {"libjvm.so"}


@dataclass
class Cluster:
    """Containers on a network of their own, which end with the test.

    Args:
        engine: the Docker Engine.
        image: what they are made of.
        network: its name.
    """

    engine: docker.DockerClient
    image: str
    network: str
    containers: list[Any] = field(default_factory=list)

    def start(self, name: str, *words: str, **environment: str) -> Any:
        """Start a container that the others reach by its name."""
        container = self.engine.containers.create(
            self.image,
            list(words),
            hostname=name,
            network=self.network,
            networking_config={self.network: self.engine.api.create_endpoint_config(aliases=[name])},
            environment={"SPARK_DAEMON_MEMORY": "256m", **environment},
            **RESTRICTED,
        )
        self.containers.append(container)
        container.start()
        return container

    def wait_for(self, container: Any, text: str) -> None:
        """Read a container's log until a text is in it."""
        for line in container.logs(stream=True, follow=True):
            if text in line.decode(errors="replace"):
                return
        pytest.fail(f"it ended without {text!r}:\n{container.logs(tail=30).decode()}")


@pytest.fixture
def cluster(engine: docker.DockerClient, spark_image: str) -> Iterator[Cluster]:
    network = engine.networks.create(f"zen-runner-test-{uuid.uuid4().hex}")
    made = Cluster(engine, spark_image, str(network.name))
    try:
        yield made
    finally:
        for container in made.containers:
            container.remove(force=True)
        network.remove()


PI = ("/opt/spark/examples/src/main/python/pi.py", "2")
SMALL = ("--conf", "spark.executor.memory=512m", "--conf", "spark.driver.memory=512m", "--conf", "spark.cores.max=1")


@pytest.mark.timeout(240)
def test_master_worker_and_driver_are_the_same_image(cluster: Cluster) -> None:
    master = cluster.start("master", "master")
    cluster.wait_for(master, "I have been elected leader")
    worker = cluster.start("worker", "worker", "--cores", "1", "--memory", "1g", "spark://master:7077")
    cluster.wait_for(worker, "Successfully registered with master")
    driver = cluster.start(
        "driver", "driver", "--master", "spark://master:7077", *SMALL, *PI, SPARK_DRIVER_BIND_ADDRESS="0.0.0.0"
    )
    assert driver.wait(timeout=150)["StatusCode"] == 0, driver.logs(tail=40).decode()
    assert "Pi is roughly 3." in driver.logs(stderr=False).decode()
    assert "Asked to launch executor" in worker.logs().decode()
    # The daemon itself is the child of tini, so a stop is clean.
    worker.stop(timeout=30)
    assert worker.wait(timeout=30)["StatusCode"] == 143


@pytest.mark.timeout(240)
def test_an_executor_of_spark_on_kubernetes_joins_its_driver(cluster: Cluster) -> None:
    # A driver takes the executors that come, whoever started them; a master without workers starts none.
    master = cluster.start("master", "master")
    cluster.wait_for(master, "I have been elected leader")
    place = ("--conf", "spark.driver.host=driver", "--conf", "spark.driver.port=7078")
    driver = cluster.start("driver", "driver", "--master", "spark://master:7077", *SMALL, *place, *PI)
    cluster.wait_for(driver, "SchedulerBackend is ready")
    executor = cluster.start(
        "executor",
        "executor",
        SPARK_DRIVER_URL="spark://CoarseGrainedScheduler@driver:7078",
        SPARK_EXECUTOR_ID="1",
        SPARK_EXECUTOR_CORES="1",
        SPARK_EXECUTOR_MEMORY="512m",
        SPARK_APPLICATION_ID="app-1",
        SPARK_EXECUTOR_POD_IP="executor",
        SPARK_RESOURCE_PROFILE_ID="0",
        SPARK_JAVA_OPT_0="-Dspark.driver.port=7078",
    )
    assert driver.wait(timeout=150)["StatusCode"] == 0, driver.logs(tail=40).decode() + executor.logs(tail=40).decode()
    assert "Pi is roughly 3." in driver.logs(stderr=False).decode()
    assert "Successfully registered with driver" in executor.logs().decode()
    assert executor.wait(timeout=30)["StatusCode"] == 0


@pytest.mark.parametrize("role", ["driver", "executor", "master", "worker"])
def test_a_spark_role_without_spark_ends_with_76(run: Run, cpu_image: str, role: str) -> None:
    ended = run(role, image=cpu_image)
    assert ended.code == 76
    assert "zen-runner:spark" in ended.stderr


# cuda


LIBRARIES = (
    *("cublas.so.13", "cublasLt.so.13", "cudart.so.13", "cudnn.so.9", "cufft.so.12", "cufile.so.0", "cupti.so.13"),
    *("curand.so.10", "cusolver.so.12", "cusparse.so.12", "cusparseLt.so.0", "nccl.so.2", "nvJitLink.so.13", "nvrtc.so.13"),
)


def test_any_program_opens_cudas_libraries_by_name(run: Run, cuda_image: str) -> None:
    names = ["lib" + name for name in LIBRARIES]
    script = f"import ctypes; print([n for n in {names} if not ctypes.CDLL(n)._handle])"
    ended = run("-c", script, image=cuda_image, entrypoint="python3", **RESTRICTED)
    assert (ended.code, ended.stdout) == (0, "[]\n"), ended.stderr


def test_the_version_it_names_is_the_version_it_has(run: Run, cuda_image: str, engine: docker.DockerClient) -> None:
    script = (
        "import ctypes, os; v = ctypes.c_int(); ctypes.CDLL('libcudart.so.13').cudaRuntimeGetVersion(ctypes.byref(v)); "
        "print(v.value, os.environ['CUDA_VERSION'])"
    )
    runtime, version = run("-c", script, image=cuda_image, entrypoint="python3").stdout.split()
    assert f"{int(runtime) // 1000}.{int(runtime) % 1000 // 10}" == version
    labels = engine.images.get(cuda_image).labels
    assert labels["org.zen-runner.cuda"] == version
    assert labels["org.zen-runner.cuda.driver"].isdecimal()


def test_the_driver_is_the_hosts(run: Run, cuda_image: str, engine: docker.DockerClient) -> None:
    names = ("libcuda.so*", "libnvidia-ml.so*", "libnvidia-ptxjitcompiler.so*", "nvidia-smi")
    search = [word for name in names for word in ("-o", "-name", name)][1:]
    ended = run("/", "-xdev", *search, image=cuda_image, entrypoint="find", user="0:0")
    assert (ended.code, ended.stdout) == (0, "")
    environment = dict(line.split("=", 1) for line in engine.images.get(cuda_image).attrs["Config"]["Env"])
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert "NVIDIA_REQUIRE_CUDA" not in environment


@pytest.mark.parametrize("framework", ["torch==2.15.0", "cupy-cuda13x[ctk]==14.2.0"])
def test_a_framework_brings_no_second_copy(run: Run, cuda_image: str, framework: str) -> None:
    bundles = (os.environ.get("SSL_CERT_FILE", ""), "/etc/ssl/certs/ca-certificates.crt")
    bundle = next(filter(os.path.isfile, bundles), "/etc/ssl/certs/ca-certificates.crt")
    ended = run(
        *("install", "--quiet", "--dry-run", "--no-cache-dir", "--only-binary", ":all:", "--report", "-", framework),
        image=cuda_image,
        entrypoint="pip",
        network_mode="host",
        volumes={bundle: {"bind": "/ca.pem", "mode": "ro"}},
        environment={"PIP_CERT": "/ca.pem"},
        **RESTRICTED,
    )
    assert ended.code == 0, ended.stderr
    names = {item["metadata"]["name"].lower() for item in json.loads(ended.stdout)["install"]}
    assert framework.partition("=")[0].partition("[")[0] in names
    assert not {name for name in names if name.startswith(("nvidia-", "cuda-toolkit"))}
