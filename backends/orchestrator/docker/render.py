"""Render what the engine is asked to create; pure and offline."""

from __future__ import annotations

import os

from backends import wire
from backends.config import transport
from backends.errors import ConfigError, PlacementError, Problem
from backends.orchestrator.driven.container_platform import Labels, stop_timeout
from backends.store import keys, open_store
from backends.store.base import BUCKET_SCHEMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol
else:
    Protocol = object


LABEL = "zen-runner."
"""What the names of all labels begin with."""
DIGEST = "ZEN_RUNNER_IMAGE_DIGEST="
# What a container takes over from the client's environment, always or only for a step that reads or writes a bucket.
_CA = ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_PROXY = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "all_proxy", "http_proxy", "https_proxy", "no_proxy")
_CONTRACT = ("TRACEPARENT", "ZEN_RUNNER_DEBUG", "ZEN_RUNNER_INPUTS_RUN")
_CLOUD = ("AWS_*", "AZURE_*", "GOOGLE_*")
# A mount on one of these, or above it, would take away what the image runs on.
_IMAGES_OWN = ("/bin", "/dev", "/etc", "/lib", "/opt/zen-runner", "/proc", "/sbin", "/sys", "/usr/bin", "/usr/local/bin")


class Options(Protocol):
    """What the renderer reads of the backend's arguments."""

    network: str | None
    user: str | None
    read_only: bool


class Renderer:
    """What the engine is asked to create for the steps of one config.

    Args:
        options: the backend's.
        config: the resolved config.

    Raises:
        ConfigError: a directory of the config would hide the image's own files.
    """

    def __init__(self, options: Options, config: Mapping[str, Any]) -> None:
        self.config = config
        self._options = options
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

    def render(self, labels: Labels, memory: int | None, environ: Mapping[str, str] | None) -> dict[str, Any]:
        """Return the container's name and the body of its creation.

        ``passed`` names the variables of the client's environment that the container gets too, where they are set.

        Raises:
            PlacementError: a secret's variable is not set.
            ConfigError: a directory of the config would hide the image's own files.

        Source: Docker Engine API v1.45, ``POST /containers/create``.
        """
        if environ is not None:
            for name, source in self.config["secrets"].items():
                if "env" in source and source["env"] not in environ:
                    raise PlacementError(f"secrets.{name}: ${source['env']} is not set where the docker orchestrator runs")
        return {
            "step": labels.step,
            "name": labels.name,
            "passed": self.passed(labels.step),
            "container": self._body(labels, memory, environ),
        }

    def _body(self, labels: Labels, memory: int | None, environ: Mapping[str, str] | None) -> dict[str, Any]:
        step = labels.step
        spec = self.config["steps"][step]
        env = [
            self._transport,
            f"ZEN_RUNNER_STEP={step}",
            f"ZEN_RUNNER_RUN_ID={labels.run}",
            f"ZEN_RUNNER_ATTEMPT={labels.attempt}",
            DIGEST + "{digest}",
        ]
        passed = self._take(step, environ or {})
        mounts = self._mounts(step, passed, on_client=environ is not None)
        host: dict[str, Any] = {
            "Mounts": mounts,
            "ReadonlyRootfs": self._options.read_only,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "GroupAdd": ["0"],
        }
        if self._options.read_only and all(mount["Target"] != "/tmp" for mount in mounts):
            host["Tmpfs"] = {"/tmp": "exec,mode=1777"}  # exec: compiled kernels are loaded from there
        if self._options.network is not None:
            host["NetworkMode"] = self._options.network
        if spec["resources"]["cpu"]:
            host["NanoCpus"] = round(spec["resources"]["cpu"] * 1e9)
        if memory:
            host["Memory"] = host["MemorySwap"] = memory  # the same: no swap on top
        if spec["resources"]["gpu"]:
            host["DeviceRequests"] = [{"Count": spec["resources"]["gpu"], "Capabilities": [["gpu"]]}]
        return {
            "Image": labels.image,
            "User": self._options.user or "{uid}:{gid}",
            "Env": sorted([*env, *(f"{name}={value}" for name, value in passed.items())]),
            "Labels": {LABEL + name: value for name, value in labels._asdict().items()},
            "StopTimeout": stop_timeout(spec),
            "HostConfig": host,
        }

    def _take(self, step: str, environ: Mapping[str, str]) -> dict[str, str]:
        taken = {}
        for name in self.passed(step):
            names = [name] if not name.endswith("*") else [other for other in environ if other.startswith(name[:-1])]
            taken.update({other: environ[other] for other in names if other in environ})
        return taken

    def _mounts(self, step: str, passed: Mapping[str, str], on_client: bool) -> list[dict[str, Any]]:
        """Return the bind mounts, each at its own path, so that a path means the same on both sides."""
        code = self.config["code"]
        if code is not None and code.startswith("sha256:"):
            code = None  # it was shipped: the container takes it from the store
        candidates: list[tuple[str, str | None, bool]] = [("store", self._store, True), ("code", code, False)]
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
        candidates += [(place, path, False) for place, path in files if path and not (on_client and not os.path.exists(path))]
        mounts: list[dict[str, Any]] = []
        for place, path, writable in candidates:
            if path is None or (place == "code" and path == self._store):
                continue
            if place not in ("store", "code") and _is_covered(path, mounts, os.path.realpath if on_client else str):
                continue
            if any(_is_below(folder, path) for folder in _IMAGES_OWN):
                raise ConfigError([Problem("", place, f"{path} can't be mounted: it would hide the image's own files; move it")])
            mounts.append({"Type": "bind", "Source": path, "Target": path, "ReadOnly": not writable})
        return mounts


def complete(body: Mapping[str, Any], image: tuple[str, str], user: str, groups: tuple[str, ...]) -> dict[str, Any]:
    """Return a rendered body with what is known on the engine alone.

    Args:
        body: the rendered one.
        image: the image's id and digest.
        user: ``uid`` or ``uid:gid``.
        groups: further groups.
    """
    env = [DIGEST + image[1] if entry.startswith(DIGEST) else entry for entry in body["Env"]]
    return {**body, "Image": image[0], "User": user, "Env": env, "HostConfig": {**body["HostConfig"], "GroupAdd": list(groups)}}


def local_path(url: str) -> str | None:
    """Return the path of a ``file:`` URL or a path, made absolute; None for any other URL."""
    scheme, colon, _ = url.partition("://")
    return None if colon and scheme.lower() != "file" else open_store(url).root


def _is_covered(path: str, mounts: list[dict[str, Any]], resolve: Callable[[str], str]) -> bool:
    """Return whether a path is seen through one of the mounts already, even where a part of it is a link."""
    return any(_is_below(path, mount["Target"]) and _is_below(resolve(path), resolve(mount["Source"])) for mount in mounts)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
