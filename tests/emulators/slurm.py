#!/usr/bin/env python3
"""As much of Slurm as its commands show: sbatch, sacct and scancel, whichever name this file is called by.

A job is a process of this machine. It waits for the jobs that it depends on, is killed where they failed, and lives in a session
of its own, which is what a cancelled job is ended with. ``$FAKE_SLURM`` is the cluster: a directory, of one folder per job.
``sbatch`` refuses the partition ``nowhere``.

Source: Slurm 24.05, sbatch(1), sacct(1), scancel(1).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CLUSTER = Path(os.environ.get("FAKE_SLURM", "."))
KILL_WAIT = 5.0  # seconds from SIGTERM to SIGKILL


def options(words: list[str]) -> dict[str, str]:
    return dict(word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--"))


def read(job: str) -> dict[str, str]:
    said: dict[str, str] = json.loads((CLUSTER / job / "job.json").read_text())
    return said


def write(job: str, **changes: str) -> None:
    path = CLUSTER / job / "job.json"
    said = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
    path.with_suffix(".new").write_text(json.dumps(said))
    path.with_suffix(".new").rename(path)


def sbatch(words: list[str]) -> int:
    given = options(words)
    if given["partition"] == "nowhere":
        print("sbatch: error: Batch job submission failed: Invalid partition name specified", file=sys.stderr)
        return 1
    number = 1
    while True:
        try:
            (CLUSTER / str(number)).mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
    job = str(number)
    (CLUSTER / job / "script").write_text(sys.stdin.read())
    (CLUSTER / job / "environment").write_text(json.dumps(dict(os.environ)))
    write(job, name=given["job-name"], state="PENDING", code="0:0", reason="None", options=json.dumps(given))
    subprocess.Popen(
        [sys.executable, "-S", __file__, "work", job],
        env={"FAKE_SLURM": str(CLUSTER)},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(job)
    return 0


def sacct(words: list[str]) -> int:
    given = options(words)
    jobs = given["jobs"].split(",") if "jobs" in given else sorted(path.name for path in CLUSTER.iterdir())
    columns = {"JobID": "id", "JobName": "name", "State": "state", "ExitCode": "code", "Reason": "reason"}
    for job in jobs:
        if (CLUSTER / job / "job.json").exists():
            said = {**read(job), "id": job}
            print("|".join(said[columns[column]] for column in given["format"].split(",")))
    return 0


def scancel(words: list[str]) -> int:
    for job in words:
        (CLUSTER / job / "cancelled").touch()
    return 0


def session(leader: int) -> list[int]:
    """Return the processes of a session, which ends with the last of them."""
    members = []
    for path in Path("/proc").glob("[1-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] not in "ZX":
            members.append(int(path.name))
    return members


def kill(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        pass


def kill_session(member: int) -> None:
    """End a process and all others of its session, by force."""
    try:
        leader = os.getsid(member)
    except ProcessLookupError:
        return
    while members := session(leader):
        for process in members:
            kill(process, signal.SIGKILL)
        time.sleep(0.02)


def may_start(job: str, given: dict[str, str]) -> bool:
    """Wait for the jobs that a job depends on, and return whether it may start; if not, say why."""
    parents = given.get("dependency", "afterok").split(":")[1:]
    while True:
        states = [read(parent)["state"] for parent in parents]
        if (CLUSTER / job / "cancelled").exists():
            write(job, state="CANCELLED by 0")
            return False
        if all(state == "COMPLETED" for state in states):
            return True
        if given.get("kill-on-invalid-dep") == "yes" and any(state.startswith(("FAILED", "CANCELLED")) for state in states):
            write(job, state="CANCELLED", reason="DependencyNeverSatisfied")
            return False
        time.sleep(0.02)


def end_session(process: subprocess.Popen[bytes], first: int) -> int:
    """End all processes of a session, the last of them by force, and return the status of its leader."""
    deadline = time.monotonic() + KILL_WAIT
    number = first
    while members := session(process.pid):
        for member in members if number else []:
            kill(member, number)
        process.poll()
        time.sleep(0.02)
        number = signal.SIGKILL if time.monotonic() > deadline else 0
    return process.wait()


def work(job: str) -> None:
    """Be one job."""
    given = json.loads(read(job)["options"])
    if not may_start(job, given):
        return
    write(job, state="RUNNING")
    with open(given["output"].replace("%j", job), "ab") as output:
        process = subprocess.Popen(
            ["/bin/sh", str(CLUSTER / job / "script")],
            env={**json.loads((CLUSTER / job / "environment").read_text()), "SLURM_JOB_ID": job},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    while process.poll() is None and not (CLUSTER / job / "cancelled").exists():
        time.sleep(0.02)
    if process.poll() is None:
        code = end_session(process, signal.SIGTERM)
        write(job, state="CANCELLED by 0", code=f"0:{max(-code, 0)}")
    else:
        code = end_session(process, signal.SIGKILL)
        write(job, state="FAILED" if code else "COMPLETED", code=f"{code}:0", reason="NonZeroExitCode" if code else "None")


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2])
    else:
        sys.exit({"sbatch": sbatch, "sacct": sacct, "scancel": scancel}[Path(sys.argv[0]).name](sys.argv[1:]))
