"""One job of the fake platform, as a process: it waits for its parents, then runs the entrypoint until that ends for good."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends import outcome
from backends.states import CANCELLED, ENDED, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED
from tests.support import processes, running

LIVES = 60.0  # seconds; a job that nobody ended ends itself


class Job:
    """A job; it is told to end by files in its folder.

    Args:
        folder: its own; ``stuck`` and ``container`` in the platform's keep jobs from starting, and replace the entrypoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = folder.parent.parent
        self.spec: dict[str, Any] = json.loads((folder / "spec.json").read_text())
        self.until = time.monotonic() + LIVES

    def work(self) -> None:
        """Be the job."""
        if not (self.wait(self.parents_ended) and self.wait(self.may_start)):
            self.tell(CANCELLED, reason="ended before it began")
            return
        if any(self.state_of(parent) != SUCCEEDED for parent in self.spec["parents"]):
            self.tell(SKIPPED, reason="a parent failed")
            return
        attempt = 0
        while True:
            attempt += 1
            self.tell(RUNNING, attempt=attempt)
            ended, code = self.run()
            if not ended:
                self.tell(CANCELLED, reason="ended", code=code, attempt=attempt)
                return
            kind, retry = outcome.row_of(code).name, self.spec["retry"]
            if attempt > retry["limit"] or not outcome.is_retried(kind, code, retry["on"]):
                # A machine has no exit status.
                known = {} if self.spec.get("machine") else {"code": code, "attempt": attempt}
                self.tell(SUCCEEDED if code == 0 else FAILED, **known)
                return

    def run(self) -> tuple[bool, int]:
        """Run the container once; return whether it ended by itself, and its exit status."""
        env = running.environment(**self.spec["env"], TMPDIR=str(self.folder), PYTHONPATH=str(running.ROOT))
        container = self.cluster / "container"  # in place of the image's entrypoint
        argv = ["sh", str(container)] if container.exists() else running.argv()
        with open(self.folder / "log.1", "ab") as out, open(self.folder / "log.2", "ab") as err:
            process = subprocess.Popen(argv, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        ended = self.wait(lambda: process.poll() is not None)
        if not ended:
            process.terminate()
        while process.poll() is None:
            self.die_if_killed()
            time.sleep(0.02)
        code = process.returncode
        return ended, 128 - code if code < 0 else code

    def wait(self, is_over: Callable[[], bool]) -> bool:
        """Wait, and return whether it came to pass before the job was asked to end."""
        while not is_over():
            if (self.folder / "end").exists() or time.monotonic() > self.until:
                return False
            self.die_if_killed()
            time.sleep(0.02)
        return True

    def die_if_killed(self) -> None:
        """Kill all that runs in the container, which is known by the job's folder."""
        if (self.folder / "kill").exists():
            for pid in processes.mentioning(self.folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.tell(FAILED, reason="the machine was lost", **({} if self.spec.get("machine") else {"code": 137}))
            raise SystemExit

    def tell(self, state: str, **more: Any) -> None:
        with contextlib.suppress(FileNotFoundError):  # it was removed
            (self.folder / "new.json").write_text(json.dumps({"state": state, **more}))
            (self.folder / "new.json").rename(self.folder / "state.json")

    def state_of(self, name: str) -> str:
        try:
            state: str = json.loads((self.folder.parent / name / "state.json").read_text())["state"]
        except FileNotFoundError:
            return PENDING
        return state

    def may_start(self) -> bool:
        stuck = self.cluster / "stuck"
        if stuck.exists():
            self.tell(PENDING, reason=stuck.read_text())
            return False
        return True

    def parents_ended(self) -> bool:
        return all(self.state_of(parent) in ENDED for parent in self.spec["parents"])


if __name__ == "__main__":
    Job(Path(sys.argv[1])).work()
