"""`logs`: print what steps printed."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from backends import errors, graph
from backends.process import is_alive
from backends.states import ENDED
from backends.store import keys, records
from backends.store.logs import follow_step, log_chunks
from backends.text import did_you_mean
from backends.view import Slowly
from entrypoint.cli.config import steps_in_order
from entrypoint.cli.parser import add_run
from entrypoint.cli.reporters import STDOUT, Splitter
from entrypoint.cli.runs import backend_of, find_run

if TYPE_CHECKING:
    from backends.store.base import Store
    from entrypoint.cli.config import Environ
    from entrypoint.cli.parser import Parser


_ASK_EVERY = 5.0  # seconds between two questions to a platform whether a run has ended


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    add_run(parser)
    parser.add_argument("--step", metavar="NAME", help="this step's output only, as the step wrote it")
    parser.add_argument("--attempt", metavar="N", type=int, help="this attempt of the step (default: the last)")
    parser.add_argument("--driver", action="store_true", help="what the driver of a submitted run printed")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the step, or the run, has ended")


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print the log of one step or of all, or what the run's driver printed."""
    store, run = find_run(args, environ)
    if args.attempt is not None and not args.step:
        raise errors.UsageError("--attempt needs --step")

    def ended() -> bool:
        record = records.read_run(store, run)
        return record is not None and ("class" in record or is_alive(record) is False)

    submitted = backend_of(store, run)
    driver = records.read_run(store, run) or {}
    remote = submitted is not None and ("pid" not in driver or is_alive(driver) is None)
    if submitted is not None and remote:
        view = submitted[0].view(submitted[1])
        ended = Slowly(lambda: view.look().state() in ENDED, _ASK_EVERY)
    if args.driver:
        if submitted is None:
            raise errors.UsageError(f"run {run} was not submitted: its driver printed where it was started")
        backend, handle = submitted
        chunks = backend.logs(handle, None, args.follow)
    elif args.step:
        members = _members_of(store, run, args.step)
        if members != [args.step]:
            if args.attempt is not None:
                raise errors.UsageError(f"--attempt is of one step, and {args.step!r} has items; name one, such as {members[0]}")
            return _all_logs(store, run, args.follow, ended, members)
        if submitted is not None and remote and args.attempt is None:
            chunks = submitted[0].logs(submitted[1], args.step, args.follow)
        elif args.attempt is None:
            chunks = follow_step(store, run, args.step, args.follow, ended)
        else:
            chunks = log_chunks(store, run, args.step, args.attempt, follow=args.follow, stop=ended)
    else:
        return _all_logs(store, run, args.follow, ended)
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    return 0


def _members_of(store: Store, run: str, step: str) -> list[str]:
    """Return the step of this name, or the members of the foreach step."""
    record = records.read_run(store, run) or {}
    config = records.get_config(store, record["config"]) if record.get("config") else None
    if config:
        names, members = graph.named(config["steps"]), graph.members(config["steps"], step)
    else:
        names = list(filter(keys.is_step, store.names(keys.run(run))))
        members = [name for name in names if step in (name, name.rpartition(".")[0])]
    if not members:
        raise errors.UsageError(f"run {run} has no step {step!r}{did_you_mean(step, names)}")
    return members


def _all_logs(store: Store, run: str, follow: bool, ended: Callable[[], bool], only: Sequence[str] | None = None) -> int:
    """Write every step's log to stdout, each line behind its step's name; when following, side by side as they come."""
    record = records.read_run(store, run) or {}
    config = records.get_config(store, record["config"]) if record.get("config") else None
    order = {name: number for number, name in enumerate(steps_in_order(config) if config else ())}
    splitter = Splitter(order)
    lock = threading.Lock()
    broken: list[BaseException] = []

    def write(step: str, lines: list[bytes]) -> None:
        sys.stdout.buffer.write(splitter.render(step, lines))
        sys.stdout.buffer.flush()

    def copy(step: str) -> None:
        try:
            for chunk in follow_step(store, run, step, follow, lambda: bool(broken) or ended()):
                with lock:
                    write(step, splitter.feed(step, STDOUT, chunk))
            with lock:
                write(step, splitter.rest(step, STDOUT))
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            broken.append(error)

    readers: dict[str, threading.Thread] = {}
    while True:
        over = not follow or broken or ended()
        names = filter(keys.is_step if only is None else only.__contains__, store.names(keys.run(run)))
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
