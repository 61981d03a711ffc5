"""What this machine or container can do for a pipeline, and what to change where it can't.

Every check answers within ``LIMIT`` seconds: each has a thread of its own, and the process waits for none any longer.
None of them needs a package that the runner itself does not need.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from backends import errors
from entrypoint.runtime import cgroup

OK, WARN, FAIL, NOT_APPLICABLE = "ok", "warn", "fail", "n/a"
LIMIT = 5.0  # seconds that one check may take
_GIB = 1 << 30
_MIB = 1 << 20


class Finding(NamedTuple):
    """What one check found.

    Args:
        name: the check.
        state: ``ok``, ``warn``, ``fail`` or ``n/a``.
        detail: what was found.
        fix: what to do about it; empty when there is nothing to do.
    """

    name: str
    state: str
    detail: str
    fix: str = ""


class Place:
    """What the checks look at.

    Args:
        environ: the environment variables.
        config: the resolved config, if there is one.
        config_problem: why there is none although one was named.
        store: URL or path of the store, if known.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        config: dict[str, Any] | None = None,
        config_problem: errors.ZenRunnerError | None = None,
        store: str | None = None,
    ) -> None:
        self.environ = environ
        self.config = config
        self.config_problem = config_problem
        self.store = store

    @property
    def steps(self) -> dict[str, Any]:
        """The config's steps; none without a config."""
        return self.config["steps"] if self.config else {}

    def needing(self, need: Callable[[dict[str, Any]], Any]) -> str:
        """Return the names of the steps for which ``need`` is true, as words: ``step 'a'`` or ``steps 'a', 'b'``."""
        names = [repr(name) for name, step in self.steps.items() if need(step)]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return f"{'step' if len(names) == 1 else 'steps'} {shown}" if names else ""


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _ask(argv: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    import subprocess

    done = subprocess.run(
        argv,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT - 1,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def _runner(place: Place) -> Finding:
    from backends import __version__

    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("runner", OK, f"zen-runner {__version__} on Python {version} ({sys.executable})")


def _python(place: Place) -> Finding:
    import shutil
    import subprocess

    named = place.environ.get("ZEN_RUNNER_PYTHON", "")
    fix = "install Python 3.8 or later, or point ZEN_RUNNER_PYTHON at one"
    wanted = named or "python3"
    where = shutil.which(wanted, path=place.environ.get("PATH", os.defpath))
    if where is None:
        origin = f"ZEN_RUNNER_PYTHON names {named!r}, which is not an executable" if named else "no python3 on PATH"
        return Finding("python", FAIL, origin, fix)
    try:
        status, said = _ask([where, "-I", "-S", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"], place.environ)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("python", FAIL, f"{where} does not run: {error}", fix)
    try:
        version = tuple(int(part) for part in said.split("."))
    except ValueError:
        version = ()
    if status or not version:
        return Finding("python", FAIL, f"{where} does not run: exit status {status}, it said {said[-200:]!r}", fix)
    origin = "ZEN_RUNNER_PYTHON" if named else "python3 on PATH"
    if version < (3, 8):
        return Finding("python", FAIL, f"Python {said} ({where}, from {origin}) is too old for steps", fix)
    return Finding("python", OK, f"steps run under Python {said} ({where}, from {origin})")


def _config(place: Place) -> Finding:
    if place.config_problem is not None:
        first, *more = str(place.config_problem).splitlines() or [""]
        rest = f" (and {len(more)} more)" if more else ""
        return Finding("config", FAIL, first + rest, "zen-runner validate tells all of it")
    if place.config is None:
        return Finding("config", NOT_APPLICABLE, "no config was named", "give --config to check what its steps need")
    return Finding("config", OK, f"{place.config['name']}: {len(place.steps)} steps")


def _store(place: Place) -> Finding:
    if place.store is None:
        return Finding("store", NOT_APPLICABLE, "no store was named", "give --config or --store to check it")
    from backends.store import open_store

    local = "://" not in place.store
    fresh = local and not os.path.lexists(place.store)
    key = f"doctor-{os.getpid()}-{time.time_ns():x}"
    data = key.encode()
    fix = "check the path's owner and mount" if local else "check the URL, the credentials and what they may do"
    try:
        store = open_store(place.store)
        store.put(key, data)
        back = store.get(key)
        store.delete(key)
    except (errors.ZenRunnerError, OSError) as error:
        return Finding("store", FAIL, str(error), fix)
    if fresh and store.root:
        try:
            os.rmdir(store.root)  # a check leaves nothing behind
        except OSError:
            pass
    if back != data:
        return Finding("store", FAIL, f"{store.url}: what was written did not read back the same", fix)
    return Finding("store", OK, f"{store.url}: an object was written, read and deleted")


def _user(place: Place) -> Finding:
    import pwd

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = "no name"
    who = f"uid {os.getuid()} ({name}), gid {os.getgid()}"
    home = place.environ.get("HOME", "")
    fix = "set HOME to a directory that this user may write, such as /tmp; many libraries keep caches there"
    if not home:
        return Finding("user", WARN, f"{who}, HOME is not set", fix)
    if not os.access(home, os.W_OK | os.X_OK):
        return Finding("user", WARN, f"{who}, HOME={home} cannot be written", fix)
    return Finding("user", OK, f"{who}, HOME={home} can be written")


def _temporary(environ: Mapping[str, str]) -> str:
    return environ.get("TMPDIR") or "/tmp"


def _disk(place: Place) -> Finding:
    places = {"work": os.curdir, "tmp": _temporary(place.environ)}
    if place.store is not None and "://" not in place.store:
        above = os.path.abspath(place.store)
        while not os.path.isdir(above) and above != os.path.dirname(above):
            above = os.path.dirname(above)
        places["store"] = above
    state, found, fixes = OK, [], []
    for label, path in places.items():
        try:
            stat = os.statvfs(path)
        except OSError as error:
            state = FAIL
            found.append(f"{label} {path}: {error.strerror}")
            continue
        free = stat.f_bavail * stat.f_frsize
        found.append(f"{label} {_size(free)} free")
        if free < 64 * _MIB:
            state = FAIL
        elif free < _GIB and state == OK:
            state = WARN
        if label == "tmp" and not os.access(path, os.W_OK | os.X_OK):
            state = FAIL
            found[-1] += f" but {path} cannot be written"
            fixes.append("mount a tmpfs at /tmp (docker run --tmpfs /tmp), or set TMPDIR")
    if state != OK and not fixes:
        fixes.append("free some space, or point TMPDIR and the store at a larger disk")
    return Finding("disk", state, ", ".join(found), "; ".join(fixes))


def _shm(place: Place) -> Finding:
    try:
        stat = os.statvfs("/dev/shm")
    except OSError:
        return Finding("shm", WARN, "there is no /dev/shm", "mount a tmpfs there; multiprocessing needs it")
    size = stat.f_blocks * stat.f_frsize
    if size <= 64 * _MIB:
        fix = "docker run --shm-size 1g; on Kubernetes a memory-backed emptyDir; data loaders with workers need more"
        return Finding("shm", WARN, f"/dev/shm holds {_size(size)}", fix)
    return Finding("shm", OK, f"/dev/shm holds {_size(size)}")


_CA_FILES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)


def _ca(place: Place) -> Finding:
    import ssl

    named = {name: place.environ[name] for name in _CA_FILES if place.environ.get(name)}
    for name, path in named.items():
        try:
            ssl.create_default_context(cafile=None if os.path.isdir(path) else path, capath=path)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return Finding("ca", FAIL, f"{name}={path}: {reason}", f"mount a PEM bundle there, or unset {name}")
        if not os.path.exists(path):
            return Finding("ca", FAIL, f"{name}={path}: there is nothing there", f"mount a PEM bundle there, or unset {name}")
    if named:
        by_path = {path: [name for name in named if named[name] == path] for path in dict.fromkeys(named.values())}
        return Finding("ca", OK, "; ".join(f"{path} ({', '.join(names)})" for path, names in by_path.items()))
    defaults = ssl.get_default_verify_paths()
    if defaults.cafile and os.path.isfile(defaults.cafile):
        return Finding("ca", OK, f"the system's bundle, {defaults.cafile}")
    if defaults.capath and os.path.isdir(defaults.capath) and any(os.scandir(defaults.capath)):
        return Finding("ca", OK, f"the system's directory, {defaults.capath}")
    fix = "install ca-certificates, or set SSL_CERT_FILE to a PEM bundle"
    return Finding("ca", WARN, "no bundle of certificate authorities was found", fix)


def _cpu_limit() -> float | None:
    """Return the cgroup's limit in cores, or None.

    Source: the kernel's cgroup-v2.rst (cpu.max) and sched-bwc.rst (cpu.cfs_quota_us).
    """
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller not in ("", "cpu"):
                continue
            base = os.path.join(cgroup.ROOT, controller).rstrip("/")
            # In a container the path can be the host's while only the container's own group is mounted.
            for directory in (base + path.rstrip("/"), base):
                quota, _, period = _read(f"{directory}/cpu.max").partition(" ")
                quota = quota or _read(f"{directory}/cpu.cfs_quota_us")
                period = period or _read(f"{directory}/cpu.cfs_period_us")
                if quota.isdigit() and period.isdigit():
                    return int(quota) / int(period)
    return None


def _cgroup(place: Place) -> Finding:
    group = cgroup.memory()
    if group is None:
        fix = "mount /sys/fs/cgroup; without a memory group, running out of memory reads as a plain kill"
        return Finding("cgroup", WARN, "no memory group was found", fix)
    memory, cpu = group.limit(), _cpu_limit()
    cores = len(os.sched_getaffinity(0))
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    usable = min(memory or machine, machine)
    detail = (
        f"version {group.version}, memory {_size(memory) + ' limit' if memory else f'unlimited of {_size(machine)}'}, "
        f"cpu {f'{cpu:g} limit' if cpu else f'unlimited of {cores} cores'}"
    )
    if too_large := place.needing(lambda step: (step["resources"]["memory"] or 0) > usable):
        return Finding("cgroup", WARN, f"{detail}; {too_large} asks for more memory", "raise the limit, or run it elsewhere")
    return Finding("cgroup", OK, detail)


def _gpu(place: Place) -> Finding:
    from entrypoint.runtime.gpu import inventory

    fix = "docker run --gpus all, with NVIDIA's container toolkit on the host"
    needed = place.needing(lambda step: step["resources"]["gpu"])
    try:
        stock = inventory.take_stock(place.environ)
    except errors.ZenRunnerError as error:
        why, _, cure = str(error).rpartition("; ")
        if needed:
            return Finding("gpu", WARN, f"no GPU here, and {needed} asks for one: {why}", cure)
        if inventory.nodes():
            return Finding("gpu", WARN, why, cure)
        return Finding("gpu", NOT_APPLICABLE, "no GPU here, and none is asked for")
    inventory.put_away()
    cuda = f"CUDA {stock.cuda[0]}.{stock.cuda[1]}" if stock.cuda else "CUDA unknown: no libcuda.so.1"
    parts = [
        *(one.describe() for one in stock.gpus),
        *(f"{label} is in MIG mode" for label, _ in stock.parents.values()),
        *(f"{label}: {error} (NVML error {error.value})" for label, error in stock.lost),
    ]
    detail = f"driver {stock.driver}, {cuda}; {'; '.join(parts) or 'no device'}"
    if stock.lost:
        return Finding("gpu", WARN, detail, "reset it (nvidia-smi --gpu-reset), or let this user open /dev/nvidia*")
    if more := place.needing(lambda step: step["resources"]["gpu"] > len(stock.gpus)):
        return Finding("gpu", WARN, f"{detail}; {more} asks for more", fix)
    if not stock.gpus:
        return Finding("gpu", WARN, detail, "make an instance (nvidia-smi mig -cgi PROFILE -C)" if stock.parents else fix)
    if stock.cuda is None:
        return Finding("gpu", WARN, detail, "add `compute` to NVIDIA_DRIVER_CAPABILITIES")
    return Finding("gpu", OK, detail)


def _jvm(place: Place) -> Finding:
    import shutil
    import subprocess

    from entrypoint.runtime.processing import framework_of

    home = place.environ.get("JAVA_HOME", "")
    java = f"{home}/bin/java" if home else shutil.which("java", path=place.environ.get("PATH", os.defpath))
    needed = place.needing(lambda step: framework_of(step) == "spark")
    fix = "install a JRE (17 or 21) and set JAVA_HOME, or use the spark image"
    if not java:
        if needed:
            return Finding("jvm", WARN, f"no java here, and {needed} needs one", fix)
        return Finding("jvm", NOT_APPLICABLE, "no java here, and no step needs one")
    try:
        status, said = _ask([java, "-version"], place.environ)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("jvm", WARN, f"{java} does not run: {error}", fix)
    first = next((line for line in said.splitlines() if "version" in line), said[:100])
    if status:
        return Finding("jvm", WARN, f"{java} ended with {status}: {first}", fix)
    return Finding("jvm", OK, f"{first} ({java})")


def _packages(place: Place) -> Finding:
    """Look for the packages of the engines that steps run on, in the step's Python."""
    import shutil
    import subprocess

    from entrypoint.runtime.processing import framework_of

    wanted = {framework_of(step) for step in place.steps.values()} - {None}
    if not wanted:
        return Finding("engines", NOT_APPLICABLE, "no step runs on Beam or Spark")
    found, missing = [], []
    python = shutil.which(place.environ.get("ZEN_RUNNER_PYTHON") or "python3", path=place.environ.get("PATH", os.defpath))
    for engine, package in (("beam", "apache-beam"), ("spark", "pyspark")):
        if engine not in wanted:
            continue
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        try:
            status, said = _ask([python or "python3", "-c", code], place.environ)
        except (OSError, subprocess.SubprocessError):
            status, said = 1, ""
        if status:
            missing.append((engine, package))
        else:
            found.append(f"{package} {said}")
    if missing:
        who = place.needing(lambda step: framework_of(step) in [engine for engine, _ in missing])
        packages = " and ".join(package for _, package in missing)
        fix = f"use the image {' or '.join(f'zen-runner:{engine}' for engine, _ in missing)}, or pip install {packages}"
        return Finding("engines", WARN, f"the step's Python has no {packages}, which {who} needs", fix)
    return Finding("engines", OK, ", ".join(found))


def _engine(place: Place) -> Finding:
    block = (place.config or {}).get("backend") or {}
    needed = block.get("source") == "docker"
    state = FAIL if needed else NOT_APPLICABLE
    fix = "start Docker, or point DOCKER_HOST at an engine that this user may use" if needed else ""
    try:
        import docker
    except ImportError:
        fix = "pip install 'zen-runner[docker]'" if needed else ""
        return Finding("engine", state, "the docker package is not installed", fix)
    try:
        client = docker.DockerClient.from_env(timeout=int(LIMIT) - 1, environment=dict(place.environ))
        try:
            said = client.version()
        finally:
            client.close()
    except Exception as error:  # noqa: BLE001 - docker, requests and urllib3 each have their own
        reason = str(error).partition("\n")[0]
        return Finding("engine", state, f"no Docker Engine answers: {reason[:200]}", fix)
    return Finding("engine", OK, f"Docker Engine {said.get('Version')} ({said.get('Os')}/{said.get('Arch')})")


def _root(place: Place) -> Finding:
    read_only = bool(os.statvfs("/").f_flag & os.ST_RDONLY)
    return Finding("root", OK, f"the root file system is {'read-only' if read_only else 'writable'}")


def _init(place: Place) -> Finding:
    if os.getpid() == 1:
        return Finding("init", OK, "this process is PID 1; it passes signals on and reaps zombies itself")
    return Finding("init", OK, f"PID 1 is {_read('/proc/1/comm') or 'unknown'}")


_CHECKS: dict[str, Callable[[Place], Finding]] = {
    "runner": _runner,
    "python": _python,
    "config": _config,
    "store": _store,
    "user": _user,
    "disk": _disk,
    "shm": _shm,
    "ca": _ca,
    "cgroup": _cgroup,
    "root": _root,
    "init": _init,
    "gpu": _gpu,
    "jvm": _jvm,
    "engines": _packages,
    "engine": _engine,
}
NAMES = tuple(_CHECKS)


def examine(place: Place, limit: float = LIMIT, checks: Mapping[str, Callable[[Place], Finding]] = _CHECKS) -> list[Finding]:
    """Run all checks side by side.

    Args:
        place: what to look at.
        limit: seconds until an unanswered check counts as late.
        checks: the checks by name.

    Returns:
        One finding a check, in the checks' order. A late check fails; one that breaks is a warning with the reason.
    """
    found: dict[str, Finding] = {}

    def one(name: str, check: Callable[[Place], Finding]) -> None:
        try:
            found[name] = check(place)
        except Exception as error:  # noqa: BLE001 - a doctor that dies of one check helps nobody
            found[name] = Finding(name, WARN, f"could not be checked: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=one, args=item, daemon=True) for item in checks.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + limit
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = f"no answer within {limit:g} s"
    return [found.get(name) or Finding(name, FAIL, late, "look for a hanging mount, network or program") for name in checks]
