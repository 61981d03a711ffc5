"""What all attempts of one run in this process share."""

from __future__ import annotations

import os

from backends.config import placeholders
from backends.errors import ConfigError
from entrypoint.runtime import cgroup
from entrypoint.runtime.identity import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from backends.store.base import Store

    Config = dict[str, Any]


def kind_of(step: Mapping[str, Any]) -> str:
    """Return what a resolved step is: ``call``, ``run``, ``beam`` or ``spark``."""
    return next(kind for kind in ("beam", "spark", "call", "run") if kind in step)


def has_framework(step: Mapping[str, Any]) -> bool:
    """Return whether a resolved step runs on Beam or Spark: by its kind, or a ``run`` step by its backend."""
    backend = step.get("backend")
    return kind_of(step) in ("beam", "spark") or (backend is not None and backend["type"] == "processing")


def runs_elsewhere(step: Mapping[str, Any]) -> bool:
    """Return whether a resolved step runs as a job of a platform, which is only waited for here.

    Raises:
        ConfigError: its training backend can't be made.
    """
    backend = step.get("backend")
    if backend is None or backend["type"] != "training" or backend["source"] == "local":
        return False
    from backends import base

    return not base.TrainingBaseBackend.from_config(backend).runs_here()


class Run:
    """What all attempts of one run in this process share.

    Args:
        config: the resolved config.
        sha: its sha256.
        run: the run's id.
        store: the artifact store.
        environ: this process's environment.
    """

    def __init__(self, config: Config, sha: str, run: str, store: Store, environ: Mapping[str, str]) -> None:
        self.config = config
        self.sha = sha
        self.run = run
        self.store = store
        self.environ = environ
        self.cwd = config["code"] or os.getcwd()
        # A replay takes its inputs from the run it repeats.
        self.inputs_run = environ.get("ZEN_RUNNER_INPUTS_RUN") or run
        self.python = environ.get("ZEN_RUNNER_PYTHON") or "python3"
        self.image_digest = environ.get("ZEN_RUNNER_IMAGE_DIGEST")
        self.platform = identity(environ)[1]
        self.group = cgroup.memory()
        self.gpus: set[str] = set()  # that running steps have, by UUID
        self.code_digest: str | None = None

    def enter(self) -> None:
        """Make the code's directory the working directory: every step of a run starts there."""
        if self.cwd.startswith("sha256:"):
            from backends.shipping import shipment

            self.cwd = shipment.receive(self.cwd, self.store, self.environ)
        try:
            os.chdir(self.cwd)
        except OSError as error:
            raise ConfigError(
                f"code: the directory {self.cwd} can't be entered ({error.strerror}); mount it there, "
                "or write `code: null` if the code is in the image"
            ) from error

    def visible_gpus(self, step: str) -> tuple[str | None, bool]:
        """Return what limits the GPUs that a step may see, and whether its config says so itself and keeps it so."""
        for env in (self.config["steps"][step]["env"], self.config["env"]):
            if "CUDA_VISIBLE_DEVICES" in env:
                text = env["CUDA_VISIBLE_DEVICES"]
                return (None if placeholders.names(text) else placeholders.render(text)), True
        return self.environ.get("CUDA_VISIBLE_DEVICES"), False
