"""What this machine or container can do for a pipeline, and what to change where it can't.

Every check has a thread of its own and ``LIMIT`` seconds; nothing waits for a check that takes longer. None of them needs a
package that the runner itself does not need.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from entrypoint.cli.doctor import machine, pipeline, programs, resources
from entrypoint.cli.doctor.finding import FAIL, LIMIT, NOT_APPLICABLE, OK, WARN, Finding, Place

__all__ = ["CHECKS", "FAIL", "NOT_APPLICABLE", "OK", "WARN", "Finding", "Place", "examine"]

Check = Callable[[Place], Finding]
CHECKS: dict[str, Check] = {
    "runner": programs.check_runner,
    "python": programs.check_python,
    "config": pipeline.check_config,
    "store": pipeline.check_store,
    "user": machine.check_user,
    "disk": machine.check_disk,
    "shm": machine.check_shm,
    "ca": machine.check_ca,
    "cgroup": resources.check_cgroup,
    "root": machine.check_root,
    "init": machine.check_init,
    "gpu": resources.check_gpu,
    "jvm": programs.check_jvm,
    "engines": programs.check_packages,
    "engine": programs.check_docker,
}


def examine(place: Place, limit: float = LIMIT, checks: Mapping[str, Check] = CHECKS) -> list[Finding]:
    """Run all checks side by side.

    Args:
        place: what to look at.
        limit: seconds until an unanswered check counts as late.
        checks: the checks by name.

    Returns:
        One finding per check, in the checks' order. A late check fails; one that breaks is a warning with the reason.
    """
    findings: dict[str, Finding] = {}

    def run(name: str, check: Check) -> None:
        try:
            findings[name] = check(place)
        except Exception as error:  # noqa: BLE001 - one check that breaks must not end the others
            findings[name] = Finding(name, WARN, f"could not be checked: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in checks.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + limit
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = f"no answer within {limit:g} s"
    fix = "look for a hanging mount, network or program"
    return [findings.get(name) or Finding(name, FAIL, late, fix) for name in checks]
