"""Reporters for where no terminal is: plain lines, and JSON lines."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from backends import outcome, wire
from backends.process import utc
from backends.text import seconds_in_words
from entrypoint.cli.report import ending, final_report
from entrypoint.cli.reporters.splitter import STDERR, STDOUT, Splitter
from entrypoint.cli.terminal import RETRY, RUNNING, SKIPPED, WAITING, escaped, paint, wants_colour, write_fd

if TYPE_CHECKING:
    from backends.store.base import Store

Write = Callable[[int, bytes], None]


class Reporter:
    """The base of the three, which prints nothing by itself.

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
        """Write the lines that are complete."""
        with self._lock:
            if lines := self._splitter.feed(step, stream, data):
                self._emit(step, stream, lines)

    def close(self) -> None:
        """Write what is left of every step's output."""
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
            name = f"{escaped(step, one_line=True):<{self._splitter.width}}  " if step else ""
            line = f"{time.strftime('%H:%M:%S')} {name}{paint(text, state, colour)}\n"
            self.write(STDERR, line.encode("utf-8", "replace"))

    def on_run_started(self, run: str, steps: list[str], resumed: list[str], **_: Any) -> None:
        """Name the run and count its steps."""
        count = f"{len(steps)} {'step' if len(steps) == 1 else 'steps'}"
        done = f", {len(resumed)} of them finished before" if resumed else ""
        self.say("", f"run {run}: {count}{done}", WAITING)

    def on_step_started(self, step: str, attempt: int, **_: Any) -> None:
        """Name a step that has started."""
        self.say(step, f"started (attempt {attempt})" if attempt > 1 else "started", RUNNING)

    def on_step_finished(self, record: dict[str, Any], **_: Any) -> None:
        """Write how a step's last attempt ended."""
        self._flush(record["step"])
        text = ending(record)
        if record.get("cached_from"):
            text += f", from the cache of run {record['cached_from']['run']}"
        else:
            text += f" in {seconds_in_words(record['seconds'])}"
        if record["class"] != outcome.SUCCESS and record.get("message"):
            text += f": {record['message']}"
        self.say(record["step"], text, record["class"])

    def on_step_retry(self, record: dict[str, Any], delay: float, **_: Any) -> None:
        """Write why an attempt failed, and in how many seconds the next one starts."""
        self._flush(record["step"])
        why = f"{ending(record)} in {seconds_in_words(record['seconds'])}: {record['message']}"
        self.say(record["step"], f"{why}; again in {seconds_in_words(delay)}", RETRY)

    def on_step_skipped(self, step: str, because: str, **_: Any) -> None:
        """Write why a step is not run."""
        self.say(step, f"skipped: {because}", SKIPPED)

    def on_run_finished(self, summary: dict[str, Any], **_: Any) -> None:
        """Write the final report: of a success to stdout, of a failure to stderr."""
        self.close()
        good = summary["class"] == outcome.SUCCESS
        if good and self.quiet:
            return
        stream = STDOUT if good else STDERR
        colour = wants_colour(stream, self.environ)
        text = "\n".join(final_report(summary, self.config, self.store, self.resume, colour))
        self.write(stream, (text + "\n").encode("utf-8", "replace"))


class Json(Lines):
    """One JSON object per event and line on stdout; the steps' output goes to stderr."""

    def report(self, event: str, /, **fields: Any) -> None:
        """Write an event as it is, also one that this version does not know."""
        if "record" in fields:
            self._flush(fields["record"]["step"])
        elif event == "run_finished":
            self.close()
        if self.quiet and event != "run_finished":
            return
        self.write(STDOUT, (wire.dumps({"event": event, "time": utc(), **fields}) + "\n").encode())

    def _emit(self, step: str, stream: int, lines: list[bytes]) -> None:
        super()._emit(step, STDERR, lines)
