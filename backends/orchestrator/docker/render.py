"""Render what the engine is asked to create; pure and offline."""

from __future__ import annotations

import os
from math import ceil

from backends import wire
from backends.config import transport
from backends.errors import ConfigError, Problem
from backends.store import keys, open_store
from backends.store.base import BUCKET_SCHEMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from backends.orchestrator.docker import OrchestratorDockerBackend


LABEL = "zen-runner."
"""What the names of all labels begin with."""
LABELS = ("run", "step", "attempt", "pipeline", "config", "store", "image", "driver")
STOP_MARGIN = 5
"""Seconds between the end of the step's grace period, which the supervisor keeps, and the engine's own SIGKILL."""
# What a container takes over from the client's environment, always or only for a step that reads or writes a bucket.
_CA = ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_PROXY = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "all_proxy", "http_proxy", "https_proxy", "no_proxy")
_CONTRACT = ("TRACEPARENT", "ZEN_RUNNER_DEBUG", "ZEN_RUNNER_INPUTS_RUN")
_CLOUD = ("AWS_*", "AZURE_*", "GOOGLE_*")
# A mount on one of these, or above it, would take away what the image runs on.
_IMAGES_OWN = ("/bin", "/dev", "/etc", "/lib", "/opt/zen-runner", "/proc", "/sbin", "/sys", "/usr/bin", "/usr/local/bin")


class Renderer:
    """What the engine is asked to create for the steps of one config.

    Args:
        backend: the options.
        config: the resolved config.

    Raises:
        ConfigError: a directory of the config would hide the image's own files.
    """

    def __init__(self, backend: OrchestratorDockerBackend, config: Mapping[str, Any]) -> None:
        self.config = config
        self._backend = backend
        data = wire.dumps(config).encode()
        self.sha = wire.sha256(data)
        self._store = local_path(config["store"])
        try:
            self._transport = f"ZEN_RUNNER_CONFIG={transport.encode(data)[0]}"
        except ConfigError:  # too large for a variable; the driver has put it into the store
            key = keys.config(self.sha)
            if self._store is not None:
                self._transport = f"ZEN_RUNNER_CONFIG_FILE={self._store}/{key}"
            else:
                self._transport = f"ZEN_RUNNER_CONFIG=ref:{config['store'].rstrip('/')}/{key}#sha256={self.sha}"

    def passed(self, step: str) -> list[str]:
        """Return the names, or patterns ending in ``*``, of the client's variables that a step's container gets."""
        names = [*_CA, *_PROXY, *_CONTRACT, *(source["env"] for source in self.config["secrets"].values() if "env" in source)]
        urls = [self.config["store"], *(source.get("url", "") for source in self.config["steps"][step]["inputs"].values())]
        if any(url.partition("://")[0].lower() in BUCKET_SCHEMES for url in urls):
            names += _CLOUD
        return sorted(set(names))

    def stop_timeout(self, step: str) -> int:
        """Return how long the engine waits after SIGTERM before it kills a step's container, in seconds."""
        return ceil(float(self.config["steps"][step]["grace_period"])) + STOP_MARGIN

    def body(
        self,
        step: str,
        memory: int | None,
        *,
        run: str = "{run}",
        attempt: str = "{attempt}",
        driver: str = "{driver}",
        user: str = "{uid}:{gid}",
        groups: tuple[str, ...] = ("0",),
        image: tuple[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the body of a container's creation.

        Args:
            step: the step.
            memory: the limit in bytes; None for no limit.
            run: the run's id.
            attempt: what the launcher calls this attempt.
            driver: who drives the run, as JSON.
            user: ``uid`` or ``uid:gid``.
            groups: further groups.
            image: the image's id and digest; None for the name in the config.
            environ: the client's environment; None leaves out all that depends on the client's machine.
        """
        spec = self.config["steps"][step]
        image_id, digest = image or (spec["image"], "{digest}")
        env = [
            self._transport,
            f"ZEN_RUNNER_STEP={step}",
            f"ZEN_RUNNER_RUN_ID={run}",
            f"ZEN_RUNNER_ATTEMPT={attempt}",
            f"ZEN_RUNNER_IMAGE_DIGEST={digest}",
        ]
        passed = self._take(step, environ or {})
        mounts = self._mounts(step, passed, on_client=environ is not None)
        host: dict[str, Any] = {
            "Mounts": mounts,
            "ReadonlyRootfs": self._backend.read_only,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "GroupAdd": list(groups),
        }
        if self._backend.read_only and all(mount["Target"] != "/tmp" for mount in mounts):
            host["Tmpfs"] = {"/tmp": "exec,mode=1777"}  # exec: compiled kernels are loaded from there
        if self._backend.network is not None:
            host["NetworkMode"] = self._backend.network
        if spec["resources"]["cpu"]:
            host["NanoCpus"] = round(spec["resources"]["cpu"] * 1e9)
        if memory:
            host["Memory"] = host["MemorySwap"] = memory  # the same: no swap on top
        if spec["resources"]["gpu"]:
            host["DeviceRequests"] = [{"Count": spec["resources"]["gpu"], "Capabilities": [["gpu"]]}]
        config = self.config
        labels = (run, step, attempt, config["name"], self.sha, config["store"], spec["image"], driver)
        return {
            "Image": image_id,
            "User": self._backend.user or user,
            "Env": sorted([*env, *(f"{name}={value}" for name, value in passed.items())]),
            "Labels": {LABEL + name: value for name, value in zip(LABELS, labels, strict=True)},
            "StopTimeout": self.stop_timeout(step),
            "HostConfig": host,
        }

    def _take(self, step: str, environ: Mapping[str, str]) -> dict[str, str]:
        taken = {}
        for name in self.passed(step):
            found = [name] if not name.endswith("*") else [other for other in environ if other.startswith(name[:-1])]
            taken.update({other: environ[other] for other in found if other in environ})
        return taken

    def _mounts(self, step: str, passed: Mapping[str, str], on_client: bool) -> list[dict[str, Any]]:
        """Return the bind mounts, each at its own path, so that a path means the same on both sides."""
        code = self.config["code"]
        if code is not None and code.startswith("sha256:"):
            code = None  # it was shipped: the container takes it from the store
        wanted: list[tuple[str, str | None, bool]] = [("store", self._store, True), ("code", code, False)]
        files = [
            (f"steps.{step}.inputs.{name}", local_path(source["url"]))
            for name, source in sorted(self.config["steps"][step]["inputs"].items())
            if "url" in source
        ]
        secrets = sorted(self.config["secrets"].items())
        files += [(f"secrets.{name}", source["file"]) for name, source in secrets if "file" in source]
        # A variable that names a file, such as a CA bundle or a credentials file, is of use only with that file.
        files += [(f"${name}", value) for name, value in sorted(passed.items()) if value[:1] == "/" and os.path.isfile(value)]
        # What isn't there is left out: the step's own message says so best.
        wanted += [(what, path, False) for what, path in files if path and not (on_client and not os.path.exists(path))]
        mounts: list[dict[str, Any]] = []
        for what, path, writable in wanted:
            if path is None or (what == "code" and path == self._store):
                continue
            if what not in ("store", "code") and _is_covered(path, mounts, os.path.realpath if on_client else str):
                continue
            if any(place == path or place.startswith(path.rstrip("/") + "/") for place in _IMAGES_OWN):
                raise ConfigError([Problem("", what, f"{path} can't be mounted: it would hide the image's own files; move it")])
            mounts.append({"Type": "bind", "Source": path, "Target": path, "ReadOnly": not writable})
        return mounts


def container_name(run: str, step: str, attempt: str) -> str:
    """Return the name of an attempt's container."""
    return f"zen-runner-{run}-{step}-{attempt}"


def local_path(url: str) -> str | None:
    """Return the path of a ``file:`` URL or a path, made absolute; None for any other URL."""
    scheme, colon, _ = url.partition("://")
    return None if colon and scheme.lower() != "file" else open_store(url).root


def _is_covered(path: str, mounts: list[dict[str, Any]], resolve: Callable[[str], str]) -> bool:
    """Tell whether a path is seen through one of the mounts already, even where a part of it is a link."""
    return any(_is_below(path, mount["Target"]) and _is_below(resolve(path), resolve(mount["Source"])) for mount in mounts)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
