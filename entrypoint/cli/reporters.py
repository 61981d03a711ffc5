"""How a run looks while it goes on: a live table on a terminal, plain lines elsewhere, JSON lines on request.

A reporter takes the driver's events (``report``) and the steps' output (``output``). Neither fails a run: where the
reader has gone away, nothing more is said to it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from backends import outcome, wire
from backends.process import utc
from entrypoint.cli.report import cause, finish, large, together
from entrypoint.cli.text import (
    COLOURS,
    RETRY,
    RICH,
    RUNNING,
    SKIPPED,
    WAITING,
    duration,
    is_terminal,
    paint,
    visible,
    wants_colour,
    write_fd,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from backends.store.base import Store


STDOUT, STDERR = 1, 2
LINE = 65536  # bytes after which a line that does not end is shown anyway
Write = Callable[[int, bytes], None]


class Splitter:
    """Cuts steps' output into whole lines, each behind its step's name, so that steps can print side by side.

    Args:
        names: the steps that there are, for the width of the names' column.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.width = min(20, max(map(len, names), default=0))
        self._partial: dict[tuple[str, int], bytes] = {}

    def feed(self, step: str, stream: int, data: bytes) -> list[bytes]:
        """Return the lines that ``data`` completes, without their ends; a line that gets too long is cut."""
        *lines, rest = (self._partial.pop((step, stream), b"") + data).split(b"\n")
        if len(rest) >= LINE:
            lines.append(rest)
            rest = b""
        if rest:
            self._partial[step, stream] = rest
        return lines

    def rest(self, step: str, stream: int) -> list[bytes]:
        """Return what came after the last end of line, if anything did."""
        rest = self._partial.pop((step, stream), b"")
        return [rest] if rest else []

    def prefix(self, step: str) -> str:
        """Return what goes before each line of a step."""
        return f"{step:<{self.width}} | "

    def render(self, step: str, lines: list[bytes]) -> bytes:
        """Return the lines as they are written."""
        prefix = self.prefix(step).encode()
        return b"".join(prefix + line.rstrip(b"\r").rpartition(b"\r")[2] + b"\n" for line in lines)


class Reporter:
    """Says nothing by itself; the base of the three.

    Args:
        config: the resolved config.
        store: where the run's records are.
        resume: the command that resumes the run, as a shell takes it.
        write: writes bytes to one of our own streams.
        quiet: no progress and no summary of a success.
        environ: the environment variables.
    """

    def __init__(
        self,
        config: dict[str, Any],
        store: Store,
        resume: str,
        *,
        write: Write = write_fd,
        quiet: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.store = store
        self.resume = resume
        self.write = write
        self.quiet = quiet
        self.environ = os.environ if environ is None else environ

    def report(self, event: str, /, **fields: Any) -> None:
        """Take one of the driver's events; one that this version does not know is passed over."""
        handler = getattr(self, "on_" + event, None)
        if handler is not None:
            handler(**fields)

    def output(self, step: str, stream: int, data: bytes) -> None:
        """Take what a step printed on its stdout (1) or stderr (2)."""

    def close(self) -> None:
        """End what is shown; called whatever happened."""


class Lines(Reporter):
    """Plain lines: events on stderr, each step's output on the stream it used, behind the step's name."""

    def __init__(self, config: dict[str, Any], store: Store, resume: str, **options: Any) -> None:
        super().__init__(config, store, resume, **options)
        self._splitter = Splitter(config["steps"])
        self._lock = threading.Lock()

    def output(self, step: str, stream: int, data: bytes) -> None:
        with self._lock:
            if lines := self._splitter.feed(step, stream, data):
                self._emit(step, stream, lines)

    def close(self) -> None:
        for step in self.config["steps"]:
            self._flush(step)

    def _flush(self, step: str) -> None:
        with self._lock:
            for stream in (STDOUT, STDERR):
                if lines := self._splitter.rest(step, stream):
                    self._emit(step, stream, lines)

    def _emit(self, step: str, stream: int, lines: list[bytes]) -> None:
        self.write(stream, self._splitter.render(step, lines))

    def say(self, step: str, text: str, state: str) -> None:
        """Write one line about a step, or about the run when ``step`` is empty."""
        if not self.quiet:
            colour = wants_colour(STDERR, self.environ)
            name = f"{step:<{self._splitter.width}}  " if step else ""
            line = f"{time.strftime('%H:%M:%S')} {name}{paint(text, state, colour)}\n"
            self.write(STDERR, line.encode("utf-8", "replace"))

    def on_run_started(self, run: str, steps: list[str], resumed: list[str], **_: Any) -> None:
        count = f"{len(steps)} {'step' if len(steps) == 1 else 'steps'}"
        done = f", {len(resumed)} of them finished before" if resumed else ""
        self.say("", f"run {run}: {count}{done}", WAITING)

    def on_step_started(self, step: str, attempt: int, **_: Any) -> None:
        self.say(step, f"started (attempt {attempt})" if attempt > 1 else "started", RUNNING)

    def on_step_finished(self, record: dict[str, Any], **_: Any) -> None:
        self._flush(record["step"])
        text = cause(record)
        if record.get("cached_from"):
            text += f", from the cache of run {record['cached_from']['run']}"
        else:
            text += f" in {duration(record['seconds'])}"
        if record["class"] != outcome.SUCCESS and record.get("message"):
            text += f": {record['message']}"
        self.say(record["step"], text, record["class"])

    def on_step_retry(self, record: dict[str, Any], delay: float, **_: Any) -> None:
        self._flush(record["step"])
        why = f"{cause(record)} in {duration(record['seconds'])}: {record['message']}"
        self.say(record["step"], f"{why}; again in {duration(delay)}", RETRY)

    def on_step_skipped(self, step: str, because: str, **_: Any) -> None:
        self.say(step, f"skipped: {because}", SKIPPED)

    def on_run_finished(self, summary: dict[str, Any], **_: Any) -> None:
        self.close()
        good = summary["class"] == outcome.SUCCESS
        if good and self.quiet:
            return
        stream = STDOUT if good else STDERR
        colour = wants_colour(stream, self.environ)
        text = "\n".join(finish(summary, self.config, self.store, self.resume, colour))
        self.write(stream, (text + "\n").encode("utf-8", "replace"))


class Json(Lines):
    """One JSON object a line and event on stdout; the steps' output goes to stderr."""

    def report(self, event: str, /, **fields: Any) -> None:
        if "record" in fields:
            self._flush(fields["record"]["step"])
        elif event == "run_finished":
            self.close()
        if self.quiet and event != "run_finished":
            return
        self.write(STDOUT, (wire.dumps({"event": event, "time": utc(), **fields}) + "\n").encode())

    def _emit(self, step: str, stream: int, lines: list[bytes]) -> None:
        super()._emit(step, STDERR, lines)


class Live(Lines):
    """A table of the steps at the foot of the terminal, and the steps' output above it."""

    def __init__(self, config: dict[str, Any], store: Store, resume: str, **options: Any) -> None:
        super().__init__(config, store, resume, **options)
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = Console(file=sys.stderr, force_terminal=True, no_color=bool(self.environ.get("NO_COLOR")))
        self._states = dict.fromkeys(config["steps"], WAITING)
        self._groups = large(config["steps"])
        hidden = {member: group for group, members in self._groups.items() for member in members}
        self._units = list(dict.fromkeys(hidden.get(name, name) for name in config["steps"]))
        self._notes: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._began = time.monotonic()
        self._out_is_terminal = is_terminal(STDOUT, self.environ)
        self._live = RichLive(
            get_renderable=self._table,
            console=self._console,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def close(self) -> None:
        super().close()
        try:
            self._live.stop()
        except OSError:
            pass

    def on_run_started(self, run: str, steps: list[str], resumed: list[str], **_: Any) -> None:
        super().on_run_started(run, steps, resumed)
        for step in resumed:
            self._states[step] = outcome.SUCCESS
            self._notes[step] = "finished before"

    def _emit(self, step: str, stream: int, lines: list[bytes]) -> None:
        if stream == STDOUT and not self._out_is_terminal:
            super()._emit(step, stream, lines)
            return
        from rich.text import Text

        shown = []
        for line in lines:
            text = Text(self._splitter.prefix(step), style="dim")
            text.append_text(Text.from_ansi(visible(line.decode("utf-8", "replace")).replace("\t", "    ")))
            shown.append(text)
        self._show(Text("\n").join(shown))  # once: each time the table is drawn anew

    def _show(self, text: Text) -> None:
        try:
            self._console.print(text, soft_wrap=True)
        except OSError:
            pass  # the terminal was closed

    def say(self, step: str, text: str, state: str) -> None:
        """Keep the state for the table; only what went wrong is also written above it."""
        if step:
            self._states[step] = state
            self._notes[step] = text
            if state == RUNNING:
                self._since[step] = time.monotonic()
            if state in (outcome.SUCCESS, RUNNING, SKIPPED):
                return
        from rich.text import Text

        line = Text(f"{time.strftime('%H:%M:%S')} {step + '  ' if step else ''}")
        self._show(line.append(text, style=RICH[COLOURS.get(state, "31")]))

    def shown_units(self, room: int) -> Iterator[str]:
        """Yield the steps that the table shows: all if there is room, else what runs, then what failed last."""
        if len(self._units) <= room:
            yield from self._units
            return
        states = [(name, self.state_of(name)[0]) for name in self._units]
        busy = [name for name, state in states if state in (RUNNING, RETRY)]
        failed = [name for name, state in states if state not in (RUNNING, RETRY, WAITING, SKIPPED, outcome.SUCCESS)]
        yield from (busy + failed[::-1])[:room]

    def state_of(self, name: str) -> tuple[str, str]:
        """Return the state of a step, or of all members of a large foreach step, and what to say of it."""
        if name in self._groups:
            return together([self._states[member] for member in self._groups[name]])
        return self._states[name], self._notes.get(name, WAITING)

    def _table(self) -> RenderableType:
        # Runs in the display's own thread: it reads what single assignments wrote, and takes no lock.
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for name in self.shown_units(max(3, self._console.height - 4)):
            state, note = self.state_of(name)
            if state == RUNNING and name in self._since:
                note = f"running {duration(now - self._since[name])}{note.removeprefix('started')}"
            style = RICH[COLOURS.get(state, "31")]
            grid.add_row(Text(name), Text(note, style=style, no_wrap=True, overflow="ellipsis"))
        states = list(self._states.values())
        parts = [f"{states.count(outcome.SUCCESS)} of {len(states)} done"]
        parts += [f"{states.count(state)} {state}" for state in (RUNNING, WAITING) if state in states]
        grid.add_row(Text(duration(now - self._began), style="dim"), Text(", ".join(parts), style="dim"))
        return grid


def choose(
    kind: str, config: dict[str, Any], store: Store, resume: str, *, write: Write = write_fd, quiet: bool = False
) -> Reporter:
    """Return the reporter for ``--output`` and the place: JSON if asked for, live on a terminal, else plain lines."""
    if kind == "json":
        return Json(config, store, resume, write=write, quiet=quiet)
    if is_terminal(STDERR, os.environ) and not quiet:
        try:
            return Live(config, store, resume, write=write, quiet=quiet)
        except ModuleNotFoundError:  # an image may leave rich out
            pass
    return Lines(config, store, resume, write=write, quiet=quiet)
