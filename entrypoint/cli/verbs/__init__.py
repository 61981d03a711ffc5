"""The verbs of the command line: what each is for, and its module, which is loaded when it is asked for.

A verb's module has ``arguments(parser)``, which adds its arguments, and ``main(args, environ)``, which does it and returns
the exit status.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, cast

from entrypoint.cli.parser import PROGRAM

if TYPE_CHECKING:
    import argparse
    from typing import Protocol

    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser

    class VerbModule(Protocol):
        """What a verb's module has."""

        def arguments(self, parser: Parser) -> None:
            """Add the verb's arguments to a parser."""

        def main(self, args: argparse.Namespace, environ: Environ) -> int:
            """Do it, and return the exit status."""
            ...


class Verb(NamedTuple):
    """One verb of the command line.

    Args:
        purpose: one line for the list of verbs.
        examples: pairs of a command and what it does.
        notes: more to know, shown below the arguments.
    """

    purpose: str
    examples: tuple[tuple[str, str], ...]
    notes: str = ""


def module_of(name: str) -> VerbModule:
    """Import and return a verb's module."""
    return cast("VerbModule", import_module(f"{__name__}.{name}"))


_FROM = f"{PROGRAM} {{}} --config pipeline.yaml"
VERBS: dict[str, Verb] = {
    "run": Verb(
        "run a pipeline here, or one step of it",
        (
            (f"{PROGRAM} --config pipeline.yaml", "run all steps as processes on this machine"),
            (_FROM.format("run") + " --backend docker", "the same, each step in a container"),
            (_FROM.format("run") + " --set steps.train.args.epochs=5", "with one value changed"),
            (_FROM.format("run") + " --resume", "go on where the last run stopped"),
            (_FROM.format("run") + " --step clean --run-id RUN", "one attempt of one step"),
        ),
        f"`{PROGRAM} --config X` is short for `{PROGRAM} run --config X`. It always runs here, whatever `backend:`\n"
        "says; `submit` is what uses `backend:`. Where stderr is no terminal, its last line is the run's record as JSON.",
    ),
    "validate": Verb(
        "check a config, and list all that is wrong with it",
        ((_FROM.format("validate"), "exit status 0, or 78 with every problem"),),
    ),
    "resolve": Verb(
        "print a config with all defaults filled in and all references checked",
        (
            (_FROM.format("resolve"), "to read"),
            (_FROM.format("resolve") + " --output json > resolved.json", "to ship: canonical, and quick to start from"),
            (_FROM.format("resolve") + " --sha256", "what identifies it"),
        ),
    ),
    "encode": Verb(
        "print a config as the value of ZEN_RUNNER_CONFIG",
        (
            (_FROM.format("encode"), "resolved JSON, compressed where that is shorter"),
            (_FROM.format("encode") + " --limit 8192", "fail if it does not fit the platform"),
        ),
    ),
    "schema": Verb(
        "print the JSON Schema of the config, for editors",
        ((f"{PROGRAM} schema > zen-runner.schema.json", "then name it in the editor's settings"),),
    ),
    "graph": Verb(
        "draw a pipeline's steps and edges",
        (
            (_FROM.format("graph"), "as a tree"),
            (_FROM.format("graph") + " --format mermaid", "as a Mermaid flowchart"),
        ),
    ),
    "render": Verb(
        "print the documents that a backend would hand to its platform",
        (
            (_FROM.format("render") + " --backend cluster", "as YAML, one document after another"),
            (_FROM.format("render") + " --run-id RUN -o json", "those of this run, as one JSON list"),
        ),
        "It is offline, needs no credentials, and prints the same for the same config, code and run id. Documents that are\n"
        "applied by hand expect code and config in the store: `submit` puts them there.",
    ),
    "submit": Verb(
        "start a pipeline on the config's `backend:`",
        (
            (_FROM.format("submit") + " --backend docker", "prints the run's id"),
            (_FROM.format("submit") + " --wait", "to the run's end, with its exit status"),
            (_FROM.format("submit") + " --dry-run", "what the backend would hand to its platform; no network, no credentials"),
        ),
    ),
    "status": Verb(
        "show how a run and its steps are doing",
        (
            (_FROM.format("status"), "the newest run"),
            (f"{PROGRAM} status --store ./runs RUN --output json", "this run, for a program"),
        ),
        "States: waiting, running, success, skipped, unknown (no sign of life), or the class of a failure.",
    ),
    "logs": Verb(
        "print what a run's steps printed",
        (
            (_FROM.format("logs") + " -f", "follow all steps of the newest run"),
            (f"{PROGRAM} logs --store ./runs RUN --step train", "one step's output, as it was"),
            (f"{PROGRAM} logs --store ./runs RUN --driver", "why a submitted run never began"),
        ),
    ),
    "cancel": Verb(
        "ask a submitted run to stop",
        ((_FROM.format("cancel") + " RUN", "harmless if it has ended already"),),
    ),
    "replay": Verb(
        "print the `docker run` that repeats one attempt of a step",
        (
            (f"{PROGRAM} replay ./runs/runs/RUN/train", "the last attempt"),
            (f"{PROGRAM} replay s3://bucket/prefix/runs/RUN/train/2", "the second"),
        ),
        "The replay runs under a new run id and reads its inputs from the run that it repeats. Secrets come from your\n"
        "environment by name.",
    ),
    "doctor": Verb(
        "check what this machine or container can do",
        (
            (f"{PROGRAM} doctor", "Python, user, disk, cgroup, GPU, JVM, engine, …"),
            (_FROM.format("doctor") + " --output json", "also its store, and what its steps need"),
        ),
        "Exit status 76 if a check fails. A warning is none: it may be what you want.",
    ),
    "completion": Verb(
        "print a completion script for a shell",
        (
            (f'eval "$({PROGRAM} completion bash)"', "in ~/.bashrc"),
            (f'{PROGRAM} completion zsh > "${{fpath[1]}}/_{PROGRAM}"', "once, for zsh"),
        ),
    ),
    "version": Verb(
        "print the version",
        ((f"{PROGRAM} version", ""),),
    ),
}
