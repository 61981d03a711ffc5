"""Training on the fake platform: a step is one job of it, whoever waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import TrainingBaseBackend
from backends.store.base import Store
from tests.support.fake_platform import LIMITS, NAME, FakePlatform

if TYPE_CHECKING:
    from backends.orchestrator.remote.job import Job
    from backends.platform import Document


class TrainingFakeBackend(TrainingBaseBackend):
    """Trains as a job of the fake platform.

    Args:
        startup_timeout: see ``TrainingBaseBackend``.
        poll: seconds between two questions.
        seen: local directories that the jobs see.
    """

    limits = LIMITS
    rule = NAME

    def __init__(self, startup_timeout: float | None = None, poll: float = 0.05, seen: list[str] | None = None) -> None:
        self.startup_timeout = startup_timeout
        self.poll = poll
        self.seen = seen

    def runs_here(self) -> bool:
        return False

    def mounts(self) -> list[str]:
        return ["/"] if self.seen is None else self.seen

    def render_job(self, job: Job, config: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> list[Document]:
        env = {**job.env, "FAKE_MEMORY": str(job.memory)}
        return [{"job": job.key, "name": job.name, "env": env, "after": [], "retry": {"limit": 0, "on": []}}]

    def platform(self, store: Store) -> FakePlatform:
        return FakePlatform(Path(f"{store.root}-cluster"), self.poll)
