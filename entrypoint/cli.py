"""The command line: one verb, one function, which imports what it needs, as the start is part of every step's time."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from backends import errors, outcome

if TYPE_CHECKING:
    from backends.base import OrchestratorBaseBackend
    from backends.orchestrator.driver import Launcher
    from backends.store import Store

PROGRAM = "zen-runner"
INTERNAL = 1  # exit status of a bug in the runner itself, which is in no class of the table
_ASK_EVERY = 5.0  # seconds between two questions to a platform whether a run has ended
BROKEN_PIPE = 141  # 128 + SIGPIPE, what a program that the signal ends has
TEXT, JSON, YAML = "text", "json", "yaml"

Config = dict[str, Any]
Environ = Mapping[str, str]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def format_help(self) -> str:
        self._action_max_length += 2  # argparse forgets that the verbs are indented
        return super().format_help()


class Parser(argparse.ArgumentParser):
    """argparse with this project's manners: errors are raised, abbreviations are not guessed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise errors.UsageError(f"{message}; see: {self.prog} --help")


class Verb(NamedTuple):
    """One verb of the command line.

    Args:
        purpose: one line for the list of verbs.
        examples: pairs of a command and what it does.
        arguments: adds the verb's arguments to a parser.
        handler: does it, and returns the exit status.
        notes: more to know, shown below the arguments.
    """

    purpose: str
    examples: tuple[tuple[str, str], ...]
    arguments: Callable[[Parser], None]
    handler: Callable[[argparse.Namespace, Environ], int]
    notes: str = ""


# -- arguments that several verbs have ---------------------------------------------------------------------------------


def _add_config(parser: Parser, overrides: bool = True) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="PATH",
        help="the config: a file, a URL or - for stdin (default: $ZEN_RUNNER_CONFIG, then $ZEN_RUNNER_CONFIG_FILE, "
        "then /etc/zen-runner/config.yaml)",
    )
    if overrides:
        parser.add_argument(
            "--set",
            metavar="KEY=VALUE",
            dest="overrides",
            action="append",
            default=[],
            help="override one value of the config by its path; may be given again",
        )


def _add_backend(parser: Parser, default: str) -> None:
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help=f"the orchestrator: a name of the config's `backends:`, or a registered one (default: {default})",
    )


def _add_output(parser: Parser, text: str, structured: str) -> None:
    parser.add_argument(
        "-o", "--output", choices=(TEXT, JSON), default=TEXT, help=f"text: {text}; json: {structured} (default: text)"
    )


def _add_run(parser: Parser, required: bool = False) -> None:
    _add_config(parser, overrides=False)
    parser.add_argument("--store", metavar="URL", help="the store that holds the run, where no config is at hand")
    if required:
        parser.add_argument("run_id", metavar="RUN", help="the run's id")
    else:
        parser.add_argument("run_id", metavar="RUN", nargs="?", help="the run's id (default: the config's newest run)")


# -- what several verbs do ---------------------------------------------------------------------------------------------


def _load(args: argparse.Namespace, environ: Environ) -> tuple[Config, str]:
    from entrypoint import load

    source = load.find(args.config, environ)
    return load.load(source, overrides=getattr(args, "overrides", ()), environ=environ)


def _print(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def _print_json(value: Any) -> None:
    import json

    _print(json.dumps(value, indent=2, ensure_ascii=False))


def _quote(words: Sequence[str]) -> str:
    import shlex

    return shlex.join(words)


def _order(config: Config) -> list[str]:
    from backends import graph

    steps = config["steps"]
    return graph.order({name: steps[name]["parents"] for name in graph.in_order(steps)})


def _steps_called(config: Config, name: str) -> list[str]:
    """Return the step of this name; of a foreach step, all its members."""
    from backends import graph
    from backends.registry import did_you_mean

    found = graph.members(config["steps"], name)
    if not found:
        known = graph.named(config["steps"])
        raise errors.UsageError(f"no step {name!r} in the config{did_you_mean(name, known)}; it has {', '.join(known)}")
    return found


# -- run ---------------------------------------------------------------------------------------------------------------


def _run_arguments(parser: Parser) -> None:
    _add_config(parser)
    _add_backend(parser, "local")
    parser.add_argument("--step", metavar="NAME", help="run one attempt of this step alone (default: $ZEN_RUNNER_STEP)")
    parser.add_argument(
        "--run-id", metavar="RUN", help="the run's id; one that exists is resumed (default: $ZEN_RUNNER_RUN_ID, or new)"
    )
    parser.add_argument("--resume", action="store_true", help="resume this config's newest run that has not succeeded")
    parser.add_argument("--max-parallel", metavar="N", type=int, help="steps that may run at a time")
    parser.add_argument("--keep-going", action="store_true", help="after a failure, run what does not depend on it")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and run nothing")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, and no summary of a success")
    _add_output(parser, "live on a terminal, else lines", "one JSON event a line on stdout, step output on stderr")


def _run(args: argparse.Namespace, environ: Environ) -> int:
    """Run the pipeline, or one step of it; the last line on stderr is the run's record unless people read it there."""
    name = args.step or environ.get("ZEN_RUNNER_STEP")
    try:
        if args.max_parallel is not None and args.max_parallel < 1:
            raise errors.UsageError("--max-parallel must be 1 or more")
        if args.resume and args.run_id:
            raise errors.UsageError("--resume looks for a run id itself; give one of --resume and --run-id")
        config, sha = _load(args, environ)
        if args.dry_run:
            return _dry_run(args, config, name, environ)
        if name:
            for flag in ("resume", "keep_going", "max_parallel"):
                if getattr(args, flag):
                    raise errors.UsageError(f"--{flag.replace('_', '-')} is for whole pipelines, not for one step")
            from entrypoint.step import run_step

            _steps_called(config, name)
            return run_step(config, sha, name, args.run_id, environ)
        record = _run_pipeline(args, config, sha, environ)
    except errors.ZenRunnerError as error:
        return refuse(error, name, args.run_id)
    _last_words(record)
    return int(record["exit_code"])


def refuse(error: errors.ZenRunnerError, step: str | None, run: str | None = None) -> int:
    """Say why a run or a step can't begin, leave the last words, and return the exit status.

    Args:
        error: the reason.
        step: the step that was asked for; None for the whole pipeline.
        run: the run's id, if known.
    """
    _tell(error, os.environ)
    kind, code = error.outcome_class, error.exit_code
    _last_words({"run": run, "step": step, "class": kind, "exit_code": code, "message": str(error)})
    return code


def _last_words(record: Mapping[str, Any]) -> None:
    """Leave the record in the termination log, and on stderr as its last line unless a person reads there."""
    from entrypoint.last_words import last_words
    from entrypoint.progress import write_fd

    line = last_words({"version": 1, "step": None, "attempt": None, **record})
    if not os.isatty(2):
        write_fd(2, line.encode())


def _run_pipeline(args: argparse.Namespace, config: Config, sha: str, environ: Environ) -> dict[str, Any]:
    from backends.orchestrator.client import ClientDrivenBackend
    from backends.store import open_store
    from entrypoint import progress
    from entrypoint.launcher import LocalLauncher

    backend = _orchestrator(args, config)
    store = open_store(config["store"])
    run = _run_id(args, config, store, environ)
    reporter = progress.choose(args.output, config, store, _resume_command(args, run), quiet=args.quiet)
    try:
        launcher: Launcher | None = None
        if isinstance(backend, ClientDrivenBackend) and backend.runs_here():
            local = LocalLauncher(config, sha, run, store, reporter.output, environ)
            launcher, stop_requested, reporter.write = local, local.stop_requested, local.write
        else:
            from backends.orchestrator.docker import OrchestratorDockerBackend

            stop_requested = _stop_requested()
            if isinstance(backend, OrchestratorDockerBackend):
                launcher = backend.make_launcher(config, run, store, reporter.output)
        return backend.run(config, run, store, launcher, report=reporter.report, stop_requested=stop_requested)
    finally:
        reporter.close()


def _stop_requested() -> Callable[[], bool]:
    """Take over the stop signals, and return what tells whether one came; a second Ctrl-C interrupts at once."""
    import signal

    came: list[int] = []

    def on_stop(number: int, frame: object) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's SIGHUP stays ignored
            signal.signal(number, on_stop)
    return lambda: bool(came)


def _orchestrator(args: argparse.Namespace, config: Config) -> OrchestratorBaseBackend:
    """Return the backend that runs the steps from here: the one that ``--backend`` names, else the local one."""
    block = _block(config, args.backend) if args.backend else config["backend"]
    if not args.backend and block["source"] != "local":
        block = {"type": "orchestrator", "source": "local", "args": {}}
    changed = {"max_parallel": args.max_parallel, "keep_going": args.keep_going or None}
    given = {name: value for name, value in changed.items() if value is not None}
    return _backend({**block, "args": {**block["args"], **given}})


def _block(config: Config, name: str) -> dict[str, Any]:
    """Return the block of the orchestrator that ``--backend`` means: a name, or the block itself as JSON.

    The config stays as it is, so that a run can be resumed on another backend.
    """
    from backends import registry, wire

    if name.startswith("{"):
        try:
            block = wire.loads(name)
        except ValueError as error:
            raise errors.UsageError(f"--backend begins as JSON but is none: {error}") from error
        return {"args": {}, **block}
    if name in config["backends"]:
        return dict(config["backends"][name])
    if ":" not in name and registry.find("orchestrator", name) is None:
        known = list(dict.fromkeys([*config["backends"], *registry.names("orchestrator")]))
        raise errors.UsageError(f"no backend {name!r}{registry.did_you_mean(name, known)}; there are {', '.join(known)}")
    return {"type": "orchestrator", "source": name, "args": {}}


def _backend(block: Mapping[str, Any]) -> OrchestratorBaseBackend:
    from backends import registry
    from backends.base import OrchestratorBaseBackend

    backend = registry.load(block, "orchestrator")
    assert isinstance(backend, OrchestratorBaseBackend)
    return backend


def _run_id(args: argparse.Namespace, config: Config, store: Store, environ: Environ) -> str:
    from backends import records
    from entrypoint.step import identity

    if args.resume:
        found = [run for run in _runs(store, config["name"]) if run.get("class") != outcome.SUCCESS]
        if not found:
            raise errors.UsageError(f"no unfinished run of {config['name']!r} in {store.url}; leave --resume away")
        return str(found[-1]["run"])
    return records.check_run_id(args.run_id or identity(environ)[0] or records.new_run_id(config["name"]))


def _runs(store: Store, name: str) -> list[dict[str, Any]]:
    """Return the records of all runs of the pipeline ``name``, the newest last."""
    from concurrent.futures import ThreadPoolExecutor

    from backends import records

    def read(run: str) -> dict[str, Any] | None:
        try:
            return records.read_run(store, run)
        except errors.UsageError:
            return None  # a name that is no run id

    with ThreadPoolExecutor(16) as pool:
        found = [run for run in pool.map(read, records.runs(store)) if run and run.get("name") == name]
    return sorted(found, key=lambda run: str(run.get("started")))


def _resume_command(args: argparse.Namespace, run: str) -> str:
    return _quote([PROGRAM, "run", *_repeat(args, run)])


def _repeat(args: argparse.Namespace, run: str) -> list[str]:
    """Return the arguments that go on with a run."""
    words = []
    if args.config:
        words += ["--config", args.config]
    for override in args.overrides:
        words += ["--set", override]
    if args.backend:
        words += ["--backend", args.backend]
    return [*words, "--run-id", run]


def _dry_run(args: argparse.Namespace, config: Config, only: str | None, environ: Environ) -> int:
    from backends import records
    from backends.store import open_store

    done: set[str] = set()
    run = None
    if args.run_id or args.resume:
        store = open_store(config["store"])
        run = _run_id(args, config, store, environ)
        done = {name for name, record in records.results(store, run).items() if record["class"] == outcome.SUCCESS}
    plan = []
    for name in _steps_called(config, only) if only else _order(config):
        step = config["steps"][name]
        action = "skip" if name in done else "cache" if step["cache"] else "run"
        plan.append({"step": name, "action": action, "after": step["parents"], "what": _what(step)})
    if args.output == JSON:
        _print_json({"name": config["name"], "store": config["store"], "run": run, "plan": plan})
        return 0
    from backends import graph
    from entrypoint.progress import columns, large

    meaning = {"skip": "skip (has a good result)", "cache": "run (unless in the cache)", "run": "run"}
    rows = [("", "STEP", "DOES", "AFTER", "WHAT")]
    groups = large(row["step"] for row in plan)
    alike: dict[tuple[str, str], int] = {}
    for row in plan:
        key = row["step"].rpartition(".")[0], row["action"]
        alike[key] = alike.get(key, 0) + 1
    for number, row in enumerate(plan, 1):
        name, key = row["step"], (row["step"].rpartition(".")[0], row["action"])
        if key[0] in groups:
            if not (count := alike.pop(key, 0)):
                continue  # one line for all members that are treated alike
            name = f"{key[0]} ({count})"
        after = graph.named({parent: config["steps"][parent] for parent in row["after"]})
        rows.append((str(number), name, meaning[row["action"]], ", ".join(after) or "-", row["what"]))
    _print("\n".join([f"{config['name']}: {len(plan)} steps, store {config['store']}", "", *columns(rows)]))
    return 0


def _what(step: Mapping[str, Any]) -> str:
    for kind in ("call", "beam", "spark"):
        if kind in step:
            return f"{kind} {step[kind]}"
    return f"run {_quote(step['run'])}"


# -- looking at a config -----------------------------------------------------------------------------------------------


def _validate_arguments(parser: Parser) -> None:
    _add_config(parser)
    _add_output(parser, "one line a problem", "an object with `valid` and `problems`")


def _validate(args: argparse.Namespace, environ: Environ) -> int:
    try:
        config, sha = _load(args, environ)
    except errors.ConfigError as error:
        if args.output == JSON:
            found = [{"where": p.where, "path": p.path, "message": p.message} for p in error.problems]
            _print_json({"valid": False, "problems": found})
            return error.exit_code
        raise
    if args.output == JSON:
        _print_json({"valid": True, "problems": [], "name": config["name"], "sha256": sha})
    else:
        count = len(config["steps"])
        _print(f"{config['name']}: valid, {count} {'step' if count == 1 else 'steps'}, sha256 {sha}")
    return 0


def _resolve_arguments(parser: Parser) -> None:
    _add_config(parser)
    _add_output(parser, "indented for people", "canonical, the very bytes that the sha256 is of")
    parser.add_argument("--sha256", action="store_true", help="print the sha256 of the canonical form only")


def _resolve(args: argparse.Namespace, environ: Environ) -> int:
    config, sha = _load(args, environ)
    if args.sha256:
        _print(sha)
    elif args.output == JSON:
        from backends import wire

        sys.stdout.write(wire.dumps(config))
    else:
        _print_json(config)
    return 0


def _encode_arguments(parser: Parser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--limit", metavar="BYTES", type=int, help="the most bytes that the platform takes (default: Linux's, 131053)"
    )


def _encode(args: argparse.Namespace, environ: Environ) -> int:
    from backends import transport, wire

    config, _ = _load(args, environ)
    limit = transport.ENV_LIMIT if args.limit is None else args.limit
    value, _ = transport.encode(wire.dumps(config).encode(), limit)
    _print(value)
    return 0


def _schema_arguments(parser: Parser) -> None:
    """It takes none."""


def _schema(args: argparse.Namespace, environ: Environ) -> int:
    from backends import spec

    _print_json(spec.schema())
    return 0


def _graph_arguments(parser: Parser) -> None:
    _add_config(parser)
    parser.add_argument("--format", choices=(TEXT, "mermaid"), default=TEXT, help="a tree, or Mermaid's flowchart")


def _graph(args: argparse.Namespace, environ: Environ) -> int:
    config, _ = _load(args, environ)
    lines = _mermaid(config) if args.format == "mermaid" else _tree(config)
    _print("\n".join(lines))
    return 0


def _drawn(config: Config) -> dict[str, dict[str, Any]]:
    """Return the steps for a drawing, a foreach step as one: their titles, and the outputs that they take from each parent."""
    from backends import graph

    steps = config["steps"]
    groups = graph.groups(steps)
    group = {member: name for name, members in groups.items() for member in members}
    done = {}
    for name in graph.named(steps):
        step = steps[groups[name][0] if name in groups else name]
        parents: dict[str, list[str]] = {group.get(parent, parent): [] for parent in step["parents"]}
        for source in step["inputs"].values():
            for part in source.get("gather", (source,))[:1]:
                if "step" in part:
                    parents[group.get(part["step"], part["step"])].append(part["output"])
        done[name] = {"title": f"{name} × {len(groups[name])}" if name in groups else name, "parents": parents}
    return done


def _mermaid(config: Config) -> Iterator[str]:
    """Yield the pipeline as a Mermaid flowchart. Source: https://mermaid.js.org/syntax/flowchart.html."""
    yield "flowchart TD"
    steps = _drawn(config)
    names = {name: f"s{number}" for number, name in enumerate(steps)}  # `end` would be a keyword
    for name, step in steps.items():
        yield f'    {names[name]}["{step["title"]}"]'
    for name, step in steps.items():
        for parent, outputs in step["parents"].items():
            arrow = f'-->|"{", ".join(dict.fromkeys(outputs))}"|' if outputs else "-.->"
            yield f"    {names[parent]} {arrow} {names[name]}"


def _tree(config: Config) -> Iterator[str]:
    """Yield the pipeline as a tree; a step with several parents hangs under the last of them and names the others."""
    from backends import graph

    steps = _drawn(config)
    order = {name: number for number, name in enumerate(graph.order({name: list(steps[name]["parents"]) for name in steps}))}
    under: dict[str | None, list[str]] = {}
    for name in order:
        under.setdefault(max(steps[name]["parents"], key=order.__getitem__, default=None), []).append(name)
    # A stack instead of recursion: a chain may have thousands of steps.
    stack = [(name, "", "") for name in reversed(under.get(None, []))]
    while stack:
        name, lead, below = stack.pop()
        *others, _ = sorted(steps[name]["parents"], key=order.__getitem__) or [""]
        yield lead + steps[name]["title"] + (f"  (also after {', '.join(others)})" if others else "")
        children = under.get(name, [])
        for child in reversed(children):
            last = child is children[-1]
            stack.append((child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  ")))


# -- runs elsewhere ----------------------------------------------------------------------------------------------------


def _render_arguments(parser: Parser) -> None:
    _add_config(parser)
    _add_backend(parser, "the config's `backend:`")
    parser.add_argument("--run-id", metavar="RUN", help="the run's id (default: something that stands for one)")
    parser.add_argument("-o", "--output", choices=(YAML, JSON), default=YAML, help="yaml, or json (default: yaml)")


def _render(args: argparse.Namespace, environ: Environ) -> int:
    config, _ = _load(args, environ)
    _print_documents(_documents(_chosen(args, config), config, args.run_id), args.output)
    return 0


def _chosen(args: argparse.Namespace, config: Config) -> OrchestratorBaseBackend:
    """Return the backend that ``--backend`` names, else the config's."""
    return _backend(_block(config, args.backend) if args.backend else config["backend"])


def _documents(backend: OrchestratorBaseBackend, config: Config, run: str | None) -> list[dict[str, Any]]:
    """Return what a backend would hand to its platform, just as ``submit`` would, without a network."""
    from backends.orchestrator.remote import OrchestratorRemoteBackend

    if isinstance(backend, OrchestratorRemoteBackend):
        from tempfile import TemporaryDirectory

        from backends import shipping

        with TemporaryDirectory(prefix="zen-runner-") as folder:
            shipment = shipping.ship(config, folder, mounts=backend.mounts())
        _tell_receipt(shipment.receipt)
        config = shipment.config
    if run is None:
        return backend.render(config)
    from backends import records

    return backend.render(config, records.check_run_id(run))


def _print_documents(documents: list[dict[str, Any]], form: str) -> None:
    if form == JSON:
        _print_json(documents)
        return
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True  # documents are read one by one, and by people

    yaml.dump_all(documents, sys.stdout, Dumper, sort_keys=False, explicit_start=True)


def _tell_receipt(receipt: Mapping[str, Any] | None) -> None:
    """Say on stderr what ships of the code."""
    if receipt is None:
        return
    from entrypoint.progress import size

    rules = {"git": ", by git's rules", ".zenignore": ", by .zenignore"}.get(receipt["ignored_by"], "")
    lines = [f"code: {receipt['files']} files, {size(receipt['bytes'])}{rules}, sha256:{receipt['sha256']}"]
    lines += [f"code: {warning}" for warning in receipt["warnings"]]
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def _submit_arguments(parser: Parser) -> None:
    _add_config(parser)
    _add_backend(parser, "the config's `backend:`")
    parser.add_argument(
        "--run-id", metavar="RUN", help="the run's id (default: a new one); a run that was submitted is found or completed"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="print the documents that the backend would hand over")
    how.add_argument("--wait", action="store_true", help="wait for the run's end, and exit with its status; Ctrl-C cancels it")
    how.add_argument("--detach", action="store_true", help="come back as soon as it is submitted (the default)")
    parser.add_argument(
        "-o",
        "--output",
        choices=(TEXT, JSON, YAML),
        default=TEXT,
        help="text: the run's id, or with --dry-run the documents as YAML; json, yaml: the backend's handle, or the documents "
        "(default: text)",
    )


def _handle_key(run: str) -> str:
    return f"runs/{run}/handle.json"


def _submit(args: argparse.Namespace, environ: Environ) -> int:
    from backends import records, wire
    from backends.store import open_store

    config, _ = _load(args, environ)
    backend = _chosen(args, config)
    if args.dry_run:
        _print_documents(_documents(backend, config, args.run_id), args.output)
        return 0
    run = records.check_run_id(args.run_id or records.new_run_id(config["name"]))
    store = open_store(config["store"])
    handle = backend.submit(config, run, store)
    _tell_receipt(handle.get("code"))
    if records.read_json(store, _handle_key(run)) is None:
        handle = {**handle, "run": run, "store": store.url, "backend": backend.to_config()}
        store.put(_handle_key(run), wire.dumps(handle).encode())
    if args.wait:
        return _wait(args, backend, handle, config, store, environ)
    if args.output != TEXT:
        _print_documents([handle], YAML) if args.output == YAML else _print_json(handle)
        return 0
    _print(run)
    where = ["--config", args.config] if args.config else ["--store", store.url]
    for verb in (["status"], ["logs", "-f"], ["cancel"]):
        sys.stderr.write(f"  {_quote([PROGRAM, *verb, *where, run])}\n")
    return 0


def _wait(
    args: argparse.Namespace,
    backend: OrchestratorBaseBackend,
    handle: Mapping[str, Any],
    config: Config,
    store: Store,
    environ: Environ,
) -> int:
    """Follow a submitted run to its end and return its exit status; a stop signal cancels it."""
    from entrypoint import progress

    stop_requested = _stop_requested()
    if args.output == TEXT:
        _print(handle["run"])
    reporter = progress.choose(
        JSON if args.output == JSON else TEXT, config, store, _quote([PROGRAM, "submit", *_repeat(args, handle["run"])])
    )
    try:
        return int(backend.wait(handle, report=reporter.report, stop_requested=stop_requested)["exit_code"])
    finally:
        reporter.close()


def _find_run(args: argparse.Namespace, environ: Environ) -> tuple[Store, str]:
    """Return the store and the id of the run that the command line means."""
    from backends import records
    from backends.store import open_store

    if args.store:
        store, name = open_store(args.store, create=False), None
    else:
        config, _ = _load(args, environ)
        store, name = open_store(config["store"]), config["name"]
    if args.run_id:
        run = records.check_run_id(args.run_id)
        if not store.names(f"runs/{run}"):
            from backends.registry import did_you_mean

            raise errors.UsageError(f"no run {run!r} in {store.url}{did_you_mean(run, records.runs(store))}")
        return store, run
    if name is None:
        raise errors.UsageError("with --store, name the run too; give --config for the config's newest run")
    found = _runs(store, name)
    if not found:
        raise errors.UsageError(f"no run of {name!r} in {store.url} yet")
    return store, str(found[-1]["run"])


def _backend_of(store: Store, run: str) -> tuple[OrchestratorBaseBackend, dict[str, Any]] | None:
    """Return the backend that a run was submitted to and its handle; None for a run that ran where it was started."""
    from backends import records

    handle = records.read_json(store, _handle_key(run))
    return None if handle is None else (_backend(handle["backend"]), handle)


def _status_arguments(parser: Parser) -> None:
    _add_run(parser)
    _add_output(parser, "a table", "one object")


def _status(args: argparse.Namespace, environ: Environ) -> int:
    store, run = _find_run(args, environ)
    found = _state(store, run)
    if args.output == JSON:
        _print_json(found)
        return 0
    from entrypoint import progress

    colour = progress.wants_colour(1, environ)
    lines = progress.table(progress.folded(list(found["steps"].items())), colour) if found["steps"] else []
    lines += ["", progress.paint(f"run {run}: {progress.verdict(found['state'])}", found["state"], colour)]
    if found.get("message"):
        lines.append(found["message"])
    _print("\n".join(lines).lstrip("\n"))
    return 0


# How this command line calls a backend's states.
_WORDS = {"pending": "waiting", "succeeded": outcome.SUCCESS, "cancelled": outcome.TERMINATED}


def _state(store: Store, run: str) -> dict[str, Any]:
    """Return what is known of a run: its record, what its backend says, and each step's state."""
    from backends import records

    record = records.read_run(store, run) or {}
    results = records.results(store, run)
    config = records.get_config(store, record["config"]) if record.get("config") else None
    names = _order(config) if config else sorted(results)
    submitted = _backend_of(store, run)
    told: dict[str, Any] = {}
    if submitted is not None and "class" not in record:
        backend, handle = submitted
        told = backend.status(handle)
    steps: dict[str, dict[str, Any]] = {}
    if told and "pid" not in record:  # no driver of ours: the platform knows
        for name in names:
            word = told["steps"].get(name, "unknown")
            known = name in results and word in ("succeeded", "failed", "cancelled")
            steps[name] = results[name] if known else {"class": _WORDS.get(word, word)}
        state = told["class"] or _WORDS.get(told["state"], told["state"])
        return {"run": run, "store": store.url, "state": state, "message": told["message"], "steps": steps}
    for name in names:
        attempts = [] if "class" in record else records.attempts(store, run, name)
        last = results.get(name)
        if attempts and (last is None or last["attempt"] < attempts[-1]):
            steps[name] = {"class": _liveness(store, run, name, attempts[-1]), "attempt": attempts[-1]}
        elif last is not None:
            steps[name] = last
        else:
            steps[name] = {"class": "skipped" if "class" in record else "waiting"}
    state = record.get("class") or told.get("class") or {"pending": "waiting"}.get(told.get("state", ""))
    classes = [step["class"] for step in steps.values()]
    if state is None:
        lives = _driver_lives(record)
        if lives is None:
            lives = "running" in classes
        if not record and not lives and classes:  # steps that a platform ran one by one, without a driver of ours
            state = next((name for name in classes if name != outcome.SUCCESS), outcome.SUCCESS)
        else:
            state = "running" if lives else "unknown"
    message = record.get("message") or told.get("message") or ""
    if state == "unknown" and not message:
        message = "nothing is heard of what drives this run; `run --run-id` with this id resumes it"
    return {"run": run, "store": store.url, "state": state, "message": message, "steps": steps}


def _liveness(store: Store, run: str, step: str, attempt: int) -> str:
    """Return ``running`` for an attempt whose owner was heard of lately, else ``unknown``."""
    from backends import records

    prefix = f"runs/{run}/{step}/{attempt}"
    ages = [store.age(f"{prefix}/{name}.json") for name in ("heartbeat", "claim")]
    heard = min((age for age in ages if age is not None), default=records.DEAD_AFTER + 1)
    return "running" if heard <= records.DEAD_AFTER else "unknown"


def _driver_lives(record: Mapping[str, Any]) -> bool | None:
    """Tell whether the process that drives a run lives; None where that can't be seen from here."""
    from backends import records

    here = records.whoami()
    if any(record.get(name) != here[name] for name in ("host", "boot", "pid_ns")):
        return None
    lives: bool = records.process_start(record["pid"]) == record["pid_start"]
    return lives


def _logs_arguments(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument("--step", metavar="NAME", help="this step's output only, as the step wrote it")
    parser.add_argument("--attempt", metavar="N", type=int, help="this attempt of the step (default: the last)")
    parser.add_argument("--driver", action="store_true", help="what the driver of a submitted run printed")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the step, or the run, has ended")


def _logs(args: argparse.Namespace, environ: Environ) -> int:
    from backends import records

    store, run = _find_run(args, environ)
    if args.attempt is not None and not args.step:
        raise errors.UsageError("--attempt needs --step")

    def ended() -> bool:
        record = records.read_run(store, run)
        return record is not None and ("class" in record or _driver_lives(record) is False)

    submitted = _backend_of(store, run)
    remote = submitted is not None and "pid" not in (records.read_run(store, run) or {})
    if submitted is not None and remote:
        ended = _Ended(*submitted)
    if args.driver:
        if submitted is None:
            raise errors.UsageError(f"run {run} was not submitted: its driver printed where it was started")
        backend, handle = submitted
        chunks = backend.logs(handle, None, args.follow)
    elif args.step:
        members = _known_step(store, run, args.step)
        if members != [args.step]:
            if args.attempt is not None:
                raise errors.UsageError(f"--attempt is of one step, and {args.step!r} has items; name one, such as {members[0]}")
            return _all_logs(store, run, args.follow, ended, members)
        if submitted is not None and remote and args.attempt is None:
            chunks = submitted[0].logs(submitted[1], args.step, args.follow)
        elif args.attempt is None:
            chunks = _step_log(store, run, args.step, args.follow, ended)
        else:
            chunks = records.log_chunks(store, run, args.step, args.attempt, follow=args.follow, stop=ended)
    else:
        return _all_logs(store, run, args.follow, ended)
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    return 0


class _Ended:
    """Tells whether a run has ended, by asking its backend now and then.

    Args:
        backend: the backend.
        handle: the run's handle.
    """

    def __init__(self, backend: OrchestratorBaseBackend, handle: Mapping[str, Any]) -> None:
        self._backend = backend
        self._handle = handle
        self._next = 0.0
        self._answer = False

    def __call__(self) -> bool:
        import time

        if not self._answer and time.monotonic() >= self._next:
            self._answer = self._backend.status(self._handle)["state"] in ("succeeded", "failed", "cancelled")
            self._next = time.monotonic() + _ASK_EVERY
        return self._answer


def _known_step(store: Store, run: str, step: str) -> list[str]:
    """Return the step of this name, or the members of the foreach step."""
    from backends import graph, records
    from backends.registry import did_you_mean

    record = records.read_run(store, run) or {}
    config = records.get_config(store, record["config"]) if record.get("config") else None
    if config:
        known, members = graph.named(config["steps"]), graph.members(config["steps"], step)
    else:
        known = list(filter(records.is_step, store.names(f"runs/{run}")))
        members = [name for name in known if step in (name, name.rpartition(".")[0])]
    if not members:
        raise errors.UsageError(f"run {run} has no step {step!r}{did_you_mean(step, known)}")
    return members


def _step_log(store: Store, run: str, step: str, follow: bool, ended: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the log of a step's last attempt; when following, also of those that come after it, to the step's success."""
    import time

    from backends import records

    number = 0
    while True:
        over = not follow or ended()
        known = [attempt for attempt in records.attempts(store, run, step) if attempt > number]
        if not number:
            known = known[-1:]
        for number in known:
            yield from records.log_chunks(store, run, step, number, follow=follow, stop=ended)
        last = records.result(store, run, step, number) if number else None
        if over or (last is not None and last["class"] == outcome.SUCCESS):
            return
        time.sleep(0.5)


def _all_logs(store: Store, run: str, follow: bool, ended: Callable[[], bool], only: Sequence[str] | None = None) -> int:
    """Write every step's log to stdout, each line behind its step's name; when following, side by side as they come."""
    import threading
    import time

    from backends import records
    from entrypoint.progress import STDOUT, Splitter

    record = records.read_run(store, run) or {}
    config = records.get_config(store, record["config"]) if record.get("config") else None
    order = {name: number for number, name in enumerate(_order(config) if config else ())}
    splitter = Splitter(order)
    lock = threading.Lock()
    broken: list[BaseException] = []

    def write(step: str, lines: list[bytes]) -> None:
        sys.stdout.buffer.write(splitter.render(step, lines))
        sys.stdout.buffer.flush()

    def copy(step: str) -> None:
        try:
            for chunk in _step_log(store, run, step, follow, lambda: bool(broken) or ended()):
                with lock:
                    write(step, splitter.feed(step, STDOUT, chunk))
            with lock:
                write(step, splitter.rest(step, STDOUT))
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            broken.append(error)

    readers: dict[str, threading.Thread] = {}
    while True:
        over = not follow or broken or ended()
        names = filter(records.is_step if only is None else only.__contains__, store.names(f"runs/{run}"))
        for name in sorted(names, key=lambda name: order.get(name, -1)):
            if name not in readers:
                readers[name] = threading.Thread(target=copy, args=(name,), daemon=True)
                readers[name].start()
                if not follow:
                    readers[name].join()
        if over:
            break
        time.sleep(0.5)
    for reader in readers.values():
        reader.join()
    if broken:
        raise broken[0]
    return 0


def _cancel_arguments(parser: Parser) -> None:
    _add_run(parser, required=True)


def _cancel(args: argparse.Namespace, environ: Environ) -> int:
    from backends import records

    store, run = _find_run(args, environ)
    record = records.read_run(store, run) or {}
    submitted = _backend_of(store, run)
    if "class" in record:
        _print(f"run {run} has ended already: {record['class']}")
        return 0
    if submitted is None:
        where = f"process {record.get('pid')} on {record.get('host')}"
        raise errors.UsageError(f"run {run} was not submitted: stop {where}, with Ctrl-C or SIGTERM")
    backend, handle = submitted
    backend.cancel(handle)
    _print(f"run {run} was asked to stop")
    return 0


def _replay_arguments(parser: Parser) -> None:
    parser.add_argument("url", metavar="URL", help="an attempt in the store: STORE/runs/RUN/STEP[/ATTEMPT]")


def _replay(args: argparse.Namespace, environ: Environ) -> int:
    from backends import records
    from backends.store import open_store

    root, mark, rest = args.url.removesuffix("/replay.json").rstrip("/").rpartition("/runs/")
    parts = rest.split("/")
    if not mark or len(parts) not in (2, 3):
        raise errors.UsageError(f"{args.url!r}: expected STORE/runs/RUN/STEP or STORE/runs/RUN/STEP/ATTEMPT")
    store = open_store(root, create=False)
    run, step = parts[:2]
    if len(parts) == 2:
        known = records.attempts(store, records.check_run_id(run), step)
        if not known:
            raise errors.UsageError(f"run {run} in {store.url} has no attempt of step {step!r}")
        parts.append(str(known[-1]))
    document = records.read_json(store, f"runs/{'/'.join(parts)}/replay.json")
    if document is None:
        raise errors.InputError(f"{store.url_of('runs/' + '/'.join(parts))} has no replay.json; it ended before its start")
    _print(_quote(_docker_run(document, environ)))
    return 0


def _docker_run(replay: Mapping[str, Any], environ: Environ) -> list[str]:
    """Return the ``docker run`` that repeats an attempt under a new run id, on the same inputs.

    Secrets, and a bucket's credentials, are only named: docker takes their values from the caller's environment.
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
    wanted = replay["resources"]
    if wanted["cpu"]:
        words.append(f"--cpus={wanted['cpu']:g}")
    if wanted["memory"]:
        words.append(f"--memory={wanted['memory']}")
    if wanted["gpu"]:
        words.append(f"--gpus={wanted['gpu']}")
    words += [f"--env={name}" for name in replay["secrets"]]
    words.append(f"--env=ZEN_RUNNER_CONFIG=ref:{store}/configs/{sha}.json#sha256={sha}")
    words += [f"--env=ZEN_RUNNER_STEP={replay['step']}", f"--env=ZEN_RUNNER_INPUTS_RUN={replay['run']}"]
    words += [f"--env={name}={text}" for name, text in sorted(replay.get("arguments", {}).items())]
    return [*words, replay["image_digest"] or replay["image"]]


# -- this machine ------------------------------------------------------------------------------------------------------


def _doctor_arguments(parser: Parser) -> None:
    _add_config(parser, overrides=False)
    parser.add_argument("--store", metavar="URL", help="check this store (default: the config's)")
    _add_output(parser, "one line a check", "an object with `checks`")


def _doctor(args: argparse.Namespace, environ: Environ) -> int:
    from entrypoint import doctor, progress

    config, problem = None, None
    try:
        config, _ = _load(args, environ)
    except errors.ZenRunnerError as error:
        named = args.config or environ.get("ZEN_RUNNER_CONFIG") or environ.get("ZEN_RUNNER_CONFIG_FILE")
        problem = error if named else None
    store = args.store or (config["store"] if config else None)
    findings = doctor.examine(doctor.Place(environ, config, problem, store))
    failed = any(finding.state == doctor.FAIL for finding in findings)
    if args.output == JSON:
        _print_json({"ok": not failed, "checks": [finding._asdict() for finding in findings]})
    else:
        colour = progress.wants_colour(1, environ)
        shade = {doctor.OK: outcome.SUCCESS, doctor.WARN: progress.RETRY, doctor.FAIL: "fail"}
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            state = progress.paint(f"{finding.state:<4}", shade.get(finding.state, progress.SKIPPED), colour)
            _print(f"{state}  {finding.name:<{width}}  {finding.detail}")
            if finding.fix:
                _print(f"{'':<{width + 8}}→ {finding.fix}")
    return outcome.code_of(outcome.PLACEMENT) if failed else 0


def _completion_arguments(parser: Parser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")


def _completion(args: argparse.Namespace, environ: Environ) -> int:
    import shtab

    parser = build()
    stack: list[argparse.ArgumentParser] = [parser]
    while stack:
        for action in stack.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                stack += action.choices.values()
            elif action.dest == "config":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    _print(shtab.complete(parser, shell=args.shell))
    return 0


def _version_arguments(parser: Parser) -> None:
    """It takes none."""


def _version(args: argparse.Namespace, environ: Environ) -> int:
    from backends import __version__

    _print(f"{PROGRAM} {__version__} (Python {'.'.join(map(str, sys.version_info[:3]))}, container contract 1)")
    return 0


# -- the verbs ---------------------------------------------------------------------------------------------------------

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
        _run_arguments,
        _run,
        f"`{PROGRAM} --config X` is short for `{PROGRAM} run --config X`. It always runs here, whatever `backend:`\n"
        "says; `submit` is what uses `backend:`. Where stderr is no terminal, its last line is the run's record as JSON.",
    ),
    "validate": Verb(
        "check a config, and tell all that is wrong with it",
        ((_FROM.format("validate"), "exit status 0, or 78 with every problem"),),
        _validate_arguments,
        _validate,
    ),
    "resolve": Verb(
        "print a config with all defaults filled in and all references checked",
        (
            (_FROM.format("resolve"), "to read"),
            (_FROM.format("resolve") + " --output json > resolved.json", "to ship: canonical, and quick to start from"),
            (_FROM.format("resolve") + " --sha256", "what identifies it"),
        ),
        _resolve_arguments,
        _resolve,
    ),
    "encode": Verb(
        "print a config as the value of ZEN_RUNNER_CONFIG",
        (
            (_FROM.format("encode"), "resolved JSON, compressed where that is shorter"),
            (_FROM.format("encode") + " --limit 8192", "fail if it does not fit the platform"),
        ),
        _encode_arguments,
        _encode,
    ),
    "schema": Verb(
        "print the JSON Schema of the config, for editors",
        ((f"{PROGRAM} schema > zen-runner.schema.json", "then name it in the editor's settings"),),
        _schema_arguments,
        _schema,
    ),
    "graph": Verb(
        "draw a pipeline's steps and edges",
        (
            (_FROM.format("graph"), "as a tree"),
            (_FROM.format("graph") + " --format mermaid", "as a Mermaid flowchart"),
        ),
        _graph_arguments,
        _graph,
    ),
    "render": Verb(
        "print the documents that a backend would hand to its platform",
        (
            (_FROM.format("render") + " --backend cluster", "as YAML, one document after another"),
            (_FROM.format("render") + " --run-id RUN -o json", "those of this run, as one JSON list"),
        ),
        _render_arguments,
        _render,
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
        _submit_arguments,
        _submit,
    ),
    "status": Verb(
        "tell how a run and its steps are doing",
        (
            (_FROM.format("status"), "the newest run"),
            (f"{PROGRAM} status --store ./runs RUN --output json", "this run, for a program"),
        ),
        _status_arguments,
        _status,
        "States: waiting, running, success, skipped, unknown (nothing is heard of it), or the class of a failure.",
    ),
    "logs": Verb(
        "print what a run's steps printed",
        (
            (_FROM.format("logs") + " -f", "follow all steps of the newest run"),
            (f"{PROGRAM} logs --store ./runs RUN --step train", "one step's output, as it was"),
            (f"{PROGRAM} logs --store ./runs RUN --driver", "why a submitted run never began"),
        ),
        _logs_arguments,
        _logs,
    ),
    "cancel": Verb(
        "ask a submitted run to stop",
        ((_FROM.format("cancel") + " RUN", "harmless if it has ended already"),),
        _cancel_arguments,
        _cancel,
    ),
    "replay": Verb(
        "print the `docker run` that repeats one attempt of a step",
        (
            (f"{PROGRAM} replay ./runs/runs/RUN/train", "the last attempt"),
            (f"{PROGRAM} replay s3://bucket/prefix/runs/RUN/train/2", "the second"),
        ),
        _replay_arguments,
        _replay,
        "The replay runs under a new run id and reads its inputs from the run that it repeats. Secrets come from your\n"
        "environment by name.",
    ),
    "doctor": Verb(
        "check what this machine or container can do",
        (
            (f"{PROGRAM} doctor", "Python, user, disk, cgroup, GPU, JVM, engine, …"),
            (_FROM.format("doctor") + " --output json", "also its store, and what its steps need"),
        ),
        _doctor_arguments,
        _doctor,
        "Exit status 76 if a check fails. A warning is none: it may be what you want.",
    ),
    "completion": Verb(
        "print a completion script for a shell",
        (
            (f'eval "$({PROGRAM} completion bash)"', "in ~/.bashrc"),
            (f'{PROGRAM} completion zsh > "${{fpath[1]}}/_{PROGRAM}"', "once, for zsh"),
        ),
        _completion_arguments,
        _completion,
    ),
    "version": Verb(
        "print the version",
        ((f"{PROGRAM} version", ""),),
        _version_arguments,
        _version,
    ),
}


def _examples(pairs: Sequence[tuple[str, str]]) -> str:
    lines = ["examples:"]
    for command, does in pairs:
        if does:
            lines.append(f"  # {does}")
        lines.append(f"  {command}")
    return "\n".join(lines)


def _epilog() -> str:
    rows = "\n".join(f"  {row.code:>3}  {row.name:<12}{row.meaning}" for row in outcome.TABLE)
    return (
        _examples(VERBS["run"].examples[:2])
        + "\n\nWhere the config is, first one found: --config, $ZEN_RUNNER_CONFIG, $ZEN_RUNNER_CONFIG_FILE,"
        + "\n/etc/zen-runner/config.yaml, .yml or .json."
        + f"\n\nexit status:\n{rows}\n  Any other is the step's own, of class user.\n"
        + "\nZEN_RUNNER_DEBUG=1 shows the traceback of an unexpected error, NO_COLOR=1 does without colours."
    )


def build() -> Parser:
    """Return the parser of the whole command line; one verb's own is quicker to make."""
    parser = Parser(
        prog=PROGRAM,
        description="One container contract, every orchestrator: runs a pipeline, or one step of it.",
        epilog=_epilog(),
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", prog=PROGRAM)
    for name, verb in VERBS.items():
        verb.arguments(verbs.add_parser(name, help=verb.purpose, description=_sentence(verb), epilog=_notes(verb), add_help=True))
    return parser


def build_verb(name: str) -> Parser:
    """Return the parser of one verb's arguments."""
    verb = VERBS[name]
    parser = Parser(prog=f"{PROGRAM} {name}", description=_sentence(verb), epilog=_notes(verb))
    verb.arguments(parser)
    return parser


def _sentence(verb: Verb) -> str:
    return verb.purpose[0].upper() + verb.purpose[1:] + "."


def _notes(verb: Verb) -> str:
    return _examples(verb.examples) + (f"\n\n{verb.notes}" if verb.notes else "")


def _verb(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the verb and the words after it; without a verb it is ``run``."""
    words = list(argv)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if words in (["--version"], ["-V"]):
        words = ["version"]
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        return "run", words
    return words[0], words[1:]


def _parse(name: str, words: Sequence[str]) -> tuple[Verb, argparse.Namespace]:
    from backends.registry import did_you_mean

    if name in ("-h", "--help"):
        build().print_help()
        raise SystemExit(0)
    if name not in VERBS:
        hint = did_you_mean(name, VERBS)
        if not hint and _is_config(name):
            hint = f" (did you mean `{PROGRAM} --config {_quote([name])}`?)"
        raise errors.UsageError(f"no verb {name!r}{hint}; the verbs are {', '.join(VERBS)}")
    parser = build_verb(name)
    args, rest = parser.parse_known_args(words)
    if rest:
        raise errors.UsageError(_unknown(parser, name, rest[0]))
    return VERBS[name], args


def _is_config(word: str) -> bool:
    return word.endswith((".yaml", ".yml", ".json")) or os.path.isfile(word)


def _unknown(parser: Parser, verb: str, word: str) -> str:
    from backends.registry import did_you_mean

    if not word.startswith("-"):
        if word in VERBS:
            return f"unexpected {word!r}: the verb goes first, as in `{PROGRAM} {word} …`"
        if _is_config(word):
            return f"unexpected {word!r} (did you mean --config {_quote([word])}?)"
        return f"unexpected {word!r}; see: {parser.prog} --help"
    flag = word.partition("=")[0]
    known = [option for action in parser._actions for option in action.option_strings]
    hint = did_you_mean(flag, known)
    if not hint:
        others = [name for name in VERBS if name != verb and flag in build_verb(name)._option_string_actions]
        hint = f"; {' and '.join(others)} {'has' if len(others) == 1 else 'have'} it" if others else ""
    return f"{verb} has no flag {flag!r}{hint}; see: {parser.prog} --help"


def _tell(error: errors.ZenRunnerError, environ: Environ) -> None:
    from entrypoint.progress import paint, wants_colour, write_fd

    colour = wants_colour(2, environ)
    head = f"{PROGRAM}: {paint('error', 'error', colour)}: "
    if isinstance(error, errors.ConfigError) and len(error.problems) > 1:
        text = f"{head}{len(error.problems)} problems in the config\n" + "".join(f"  {p}\n" for p in error.problems)
    else:
        text = f"{head}{error}\n"
    write_fd(2, text.encode("utf-8", "replace"))


def _mend_streams() -> None:
    """Make text on stdout and stderr safe to write: a closed stream becomes /dev/null, an odd character its escape."""
    import io

    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        argv: the arguments; None for this process's own.
    """
    environ = os.environ
    _mend_streams()
    name, words = _verb(sys.argv[1:] if argv is None else argv)
    try:
        try:
            verb, args = _parse(name, words)
            return verb.handler(args, environ)
        finally:
            sys.stdout.flush()
    except SystemExit:  # argparse's --help
        return 0
    except errors.ZenRunnerError as error:
        if name == "run":
            return refuse(error, environ.get("ZEN_RUNNER_STEP"))
        _tell(error, environ)
        return error.exit_code
    except BrokenPipeError:
        # Python flushes stdout once more as it ends, and would complain that nobody reads it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return outcome.code_of(outcome.TERMINATED)
    except Exception as error:
        if environ.get("ZEN_RUNNER_DEBUG"):
            raise
        text = f"{PROGRAM}: unexpected {type(error).__name__}: {error}; set ZEN_RUNNER_DEBUG=1 to see where\n"
        sys.stderr.write(text)
        return INTERNAL
