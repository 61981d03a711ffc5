"""`replay`: print the `docker run` that repeats an attempt."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backends import errors
from backends.store import keys, open_store, records
from entrypoint.cli.printing import print_text

if TYPE_CHECKING:
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    parser.add_argument("url", metavar="URL", help="an attempt in the store: STORE/runs/RUN/STEP[/ATTEMPT]")


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print the command that repeats an attempt."""
    root, mark, rest = args.url.removesuffix("/replay.json").rstrip("/").rpartition("/runs/")
    parts = rest.split("/")
    if not mark or len(parts) not in (2, 3):
        raise errors.UsageError(f"{args.url!r}: expected STORE/runs/RUN/STEP or STORE/runs/RUN/STEP/ATTEMPT")
    store = open_store(root, create=False)
    run, step = parts[:2]
    if len(parts) == 2:
        attempts = records.attempts(store, keys.check_run_id(run), step)
        if not attempts:
            raise errors.UsageError(f"run {run} in {store.url} has no attempt of step {step!r}")
        parts.append(str(attempts[-1]))
    place = run, step, parts[2]
    document = records.read_json(store, keys.replay(*place))
    if document is None:
        raise errors.InputError(f"{store.url_of(keys.attempt(*place))} has no replay.json; it ended before its start")
    print_text(shlex.join(docker_run(document, environ)))
    return 0


def docker_run(replay: Mapping[str, Any], environ: Environ) -> list[str]:
    """Return the ``docker run`` that repeats an attempt under a new run id, on the same inputs.

    Secrets, and a bucket's credentials, are only named: docker takes their values from the caller's environment.

    Args:
        replay: the attempt's ``replay.json``.
        environ: the caller's environment variables.
    """
    store, sha = replay["store"], replay["config"]
    words = ["docker", "run", "--rm"]
    if "://" in store:
        words += [f"--env={name}" for name in sorted(environ) if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]
    else:
        words += [f"--user={os.getuid()}:{os.getgid()}", f"--volume={store}:{store}"]
    code = replay["code"]
    mounts = ([code] if code and not code.startswith("sha256:") else []) + replay["files"]  # what is shipped is in the store
    words += [f"--volume={path}:{path}:ro" for path in dict.fromkeys(mounts)]
    resources = replay["resources"]
    if resources["cpu"]:
        words.append(f"--cpus={resources['cpu']:g}")
    if resources["memory"]:
        words.append(f"--memory={resources['memory']}")
    if resources["gpu"]:
        words.append(f"--gpus={resources['gpu']}")
    words += [f"--env={name}" for name in replay["secrets"]]
    words.append(f"--env=ZEN_RUNNER_CONFIG=ref:{store}/{keys.config(sha)}#sha256={sha}")
    words += [f"--env=ZEN_RUNNER_STEP={replay['step']}", f"--env=ZEN_RUNNER_INPUTS_RUN={replay['run']}"]
    words += [f"--env={name}={text}" for name, text in sorted(replay.get("arguments", {}).items())]
    return [*words, replay["image_digest"] or replay["image"]]
