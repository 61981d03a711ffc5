"""A config, its store, and the fake platform beside it, for tests of what is submitted there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.store import records
from backends.store.local import LocalStore
from entrypoint.runtime import load
from tests.support import configs, processes, running
from tests.support.fake_platform.api import Api
from tests.support.waiting import wait_until

ENV = {"PYTHONPATH": str(running.ROOT)}


class Place:
    """A config, its store and the platform beside it.

    Args:
        folder: for all of it.
        source: the backend's.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.folder = folder
        self.source = source
        self.store = LocalStore(str(folder / "store"))
        self.platform = Api(folder / "store-cluster")

    def config(self, steps: dict[str, Any], **document: Any) -> dict[str, Any]:
        document = {"name": "p", "code": None, "env": {"MARK": str(self.folder)}, "steps": steps, **document}
        self.path = configs.config(self.folder, backend={"type": "orchestrator", "source": self.source, "args": {}}, **document)
        return load.load(load.find(str(self.path), {}), environ={})[0]

    def put(self, name: str, text: str) -> None:
        (self.platform.root / name).write_text(text)

    def jobs(self) -> list[str]:
        return sorted(path.name.rpartition("-")[0] for path in (self.platform.root / "jobs").iterdir())

    def attempts(self, step: str, run: str = "r") -> list[int]:
        return records.attempts(self.store, run, step)

    def handle(self) -> dict[str, Any]:
        return records.read_json(self.store, "runs/r/handle.json") or {}

    def zen(self, *words: str, **env: str) -> running.Ended:
        return running.run(*words, cwd=self.folder, env={**ENV, **env})

    def submit(self, *words: str, **env: str) -> running.Ended:
        return self.zen("submit", "-c", "config.json", "--run-id", "r", *words, **env)

    def clean(self) -> None:
        """End all jobs, and see that nothing is left."""
        for job in self.platform.jobs.iterdir():
            (job / "end").touch()
        wait_until(lambda: not processes.mentioning(self.folder), 20, f"the end of {processes.mentioning(self.folder)}")


def in_a_row(count: int, command: str = "true") -> dict[str, Any]:
    return {f"s{n}": {"run": ["sh", "-c", command], "after": [f"s{n - 1}"] if n else []} for n in range(count)}
