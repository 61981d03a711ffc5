"""Every key of the store's layout, and the rules for ids in it.

runs/<run>/run.json  handle.json  cancel.json  submit.<n>.json  beam.log
runs/<run>/<step>/job.<n>.json
runs/<run>/<step>/<attempt>/claim.json  heartbeat.json  log/000001.txt …  result.json  replay.json  out/<name>…
                             tmp/  unpublished/
configs/<sha256>.json  cache/<key>.json  code/<sha256>.tar.gz
"""

from __future__ import annotations

import os
import time

from backends.errors import UsageError

RUNS = "runs"
SCRATCH = "zen-runner-"
"""How the name of a scratch directory under ``$TMPDIR`` begins, where the store can't hold one; `tempfile` adds the rest."""
_RUN_ID_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def run(run_id: str) -> str:
    """Return the folder of a run; every entry that `is_step` is a step's."""
    return f"{RUNS}/{run_id}"


def run_record(run_id: str) -> str:
    return f"{RUNS}/{run_id}/run.json"


def handle(run_id: str) -> str:
    """Return where a run's handle is: what was submitted, and what the platform calls it."""
    return f"{RUNS}/{run_id}/handle.json"


def lease(run_id: str, number: int) -> str:
    """Return where it says who took over a run's submission as the n-th, from the second on."""
    return f"{RUNS}/{run_id}/submit.{number}.json"


def cancel(run_id: str) -> str:
    """Return what is there once a run was asked to stop."""
    return f"{RUNS}/{run_id}/cancel.json"


def beam_log(run_id: str) -> str:
    return f"{RUNS}/{run_id}/beam.log"


def step(run_id: str, step: str) -> str:
    """Return the folder of a step, with one entry per attempt."""
    return f"{RUNS}/{run_id}/{step}"


def job(run_id: str, step: str, number: int | str) -> str:
    """Return where it says what platform the n-th job of a step was given to, and by whom."""
    return f"{RUNS}/{run_id}/{step}/job.{number}.json"


def parse_job(name: str) -> int | None:
    """Return the number of the `job` whose name in its step's folder is given; None for any other name."""
    head, _, rest = name.partition(".")
    number, _, suffix = rest.partition(".")
    return int(number) if (head, suffix) == ("job", "json") and number.isdecimal() else None


def attempt(run_id: str, step: str, number: int | str) -> str:
    """Return the folder of an attempt, under which everything of it lies."""
    return f"{RUNS}/{run_id}/{step}/{number}"


def claim(run_id: str, step: str, number: int) -> str:
    return f"{RUNS}/{run_id}/{step}/{number}/claim.json"


def heartbeat(run_id: str, step: str, number: int) -> str:
    return f"{RUNS}/{run_id}/{step}/{number}/heartbeat.json"


def result(run_id: str, step: str, number: int) -> str:
    return f"{RUNS}/{run_id}/{step}/{number}/result.json"


def parse_result(key: str) -> tuple[str, int] | None:
    """Return the step and the attempt whose `result` a key is; None for any other key."""
    parts = key.split("/")
    if len(parts) == 5 and parts[4] == "result.json" and parts[3].isdecimal():
        return parts[2], int(parts[3])
    return None


def replay(run_id: str, step: str, number: int | str) -> str:
    return f"{RUNS}/{run_id}/{step}/{number}/replay.json"


def logs(run_id: str, step: str, number: int) -> str:
    """Return the folder of an attempt's log."""
    return f"{RUNS}/{run_id}/{step}/{number}/log"


def out(run_id: str, step: str, number: int, name: str) -> str:
    """Return where an attempt's output is published."""
    return f"{RUNS}/{run_id}/{step}/{number}/out/{name}"


def scratch(run_id: str, step: str, number: int) -> str:
    """Return the folder that lives as long as the attempt."""
    return f"{RUNS}/{run_id}/{step}/{number}/tmp"


def unpublished(run_id: str, step: str, number: int) -> str:
    """Return where a failed attempt's outputs stay for a look, on a local store."""
    return f"{RUNS}/{run_id}/{step}/{number}/unpublished"


def config(sha: str) -> str:
    return f"configs/{sha}.json"


def cache(key: str) -> str:
    return f"cache/{key}.json"


def code(sha: str) -> str:
    return f"code/{sha}.tar.gz"


def is_step(name: str) -> bool:
    """Return whether an entry of ``runs/<run>/`` is a step's: one without a dot, or a ``foreach`` step's member, ``train.0``."""
    return "." not in name or name.rpartition(".")[2].isdecimal()


def new_run_id(name: str) -> str:
    """Return a fresh run id, ``<name>-YYYYmmdd-HHMMSS-<6 hex>`` in UTC: a file name, a label and a DNS label too."""
    slug = "".join(c if c in "abcdefghijklmnopqrstuvwxyz0123456789" else "-" for c in name.lower())[:40].strip("-")
    return f"{slug or 'run'}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(3).hex()}"


def check_run_id(run_id: str) -> str:
    """Return ``run_id`` if it can be a run id.

    Raises:
        UsageError: it is not 1 to 63 letters, digits, ``.``, ``_`` or ``-`` with a letter or digit first.
    """
    if not (0 < len(run_id) <= 63 and run_id[0] not in "._-" and _RUN_ID_CHARS.issuperset(run_id)):
        raise UsageError(f"run id {run_id!r}: use 1 to 63 letters, digits, '.', '_' and '-', beginning with a letter or a digit")
    return run_id
