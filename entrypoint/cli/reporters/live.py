"""The reporter for a terminal: a live table of the steps, and their output above it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich import live
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backends import outcome
from backends.text import seconds_in_words
from entrypoint.cli.groups import large_groups, summary_of_states
from entrypoint.cli.reporters.lines import Lines
from entrypoint.cli.reporters.splitter import STDOUT
from entrypoint.cli.terminal import COLOURS, RED, RETRY, RUNNING, SKIPPED, WAITING, escaped, is_terminal, visible
from entrypoint.runtime.run import runs_elsewhere
from entrypoint.runtime.waiting import announcement

if TYPE_CHECKING:
    from backends.store.base import Store

_STYLES = {"32": "green", "2": "dim", "36": "cyan", "33": "yellow", "31": "red"}


class Live(Lines):
    """A table of the steps at the foot of the terminal, and the steps' output above it."""

    def __init__(self, config: dict[str, Any], store: Store, resume: str, **options: Any) -> None:
        super().__init__(config, store, resume, **options)
        self._console = Console(file=sys.stderr, force_terminal=True, no_color=bool(self.environ.get("NO_COLOR")))
        self._states = dict.fromkeys(config["steps"], WAITING)
        self._groups = large_groups(config["steps"])
        hidden = {member: group for group, members in self._groups.items() for member in members}
        self._units = list(dict.fromkeys(hidden.get(name, name) for name in config["steps"]))
        self._notes: dict[str, str] = {}
        self._away = {name for name, step in config["steps"].items() if runs_elsewhere(step)}
        self._places: dict[str, str] = {}  # of those: the platform, and what it calls the job
        self._since: dict[str, float] = {}
        self._began = time.monotonic()
        self._out_is_terminal = is_terminal(STDOUT, self.environ)
        self._live = live.Live(
            get_renderable=self._table,
            console=self._console,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def close(self) -> None:
        """Take the table away."""
        super().close()
        try:
            self._live.stop()
        except OSError:
            pass

    def on_run_started(self, run: str, steps: list[str], resumed: list[str], **_: Any) -> None:
        """Note in the table which steps had finished before."""
        super().on_run_started(run, steps, resumed)
        for step in resumed:
            self._states[step] = outcome.SUCCESS
            self._notes[step] = "finished before"

    def _emit(self, step: str, stream: int, lines: list[bytes]) -> None:
        if step in self._away:
            self._note_place(step, lines)
        if stream == STDOUT and not self._out_is_terminal:
            super()._emit(step, stream, lines)
            return
        shown = []
        for line in lines:
            text = Text(self._splitter.prefix(step), style="dim")
            text.append_text(Text.from_ansi(visible(line.decode("utf-8", "replace")).replace("\t", "    ")))
            shown.append(text)
        self._show(Text("\n").join(shown))  # once: each time the table is drawn anew

    def _note_place(self, step: str, lines: list[bytes]) -> None:
        begin = announcement(step)
        for line in lines:
            said = visible(line.decode("utf-8", "replace"))
            if said.startswith(begin):
                self._places[step] = said[len(begin) :].partition(";")[0]

    def _show(self, text: Text) -> None:
        try:
            self._console.print(text, soft_wrap=True)
        except OSError:
            pass  # the terminal was closed

    def say(self, step: str, text: str, state: str) -> None:
        """Keep the state for the table; only what went wrong is also written above it."""
        text = escaped(text)
        if step:
            self._states[step] = state
            self._notes[step] = text
            if state == RUNNING:
                self._since[step] = time.monotonic()
            if state in (outcome.SUCCESS, RUNNING, SKIPPED):
                return
        line = Text(f"{time.strftime('%H:%M:%S')} {step + '  ' if step else ''}")
        self._show(line.append(text, style=_STYLES[COLOURS.get(state, RED)]))

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
        """Return the state of a step, or of all members of a large foreach step, and a note on it."""
        if name in self._groups:
            return summary_of_states([self._states[member] for member in self._groups[name]])
        return self._states[name], self._notes.get(name, WAITING)

    def _table(self) -> Table:
        # Runs in the display's own thread: it reads what single assignments wrote, and takes no lock.
        grid = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for name in self.shown_units(max(3, self._console.height - 4)):
            state, note = self.state_of(name)
            if state == RUNNING and name in self._since:
                note = f"running {seconds_in_words(now - self._since[name])}{note.removeprefix('started')}"
                note += f" on {self._places[name]}" if name in self._places else ""
            style = _STYLES[COLOURS.get(state, RED)]
            grid.add_row(Text(name), Text(note, style=style, no_wrap=True, overflow="ellipsis"))
        states = list(self._states.values())
        parts = [f"{states.count(outcome.SUCCESS)} of {len(states)} done"]
        parts += [f"{states.count(state)} {state}" for state in (RUNNING, WAITING) if state in states]
        grid.add_row(Text(seconds_in_words(now - self._began), style="dim"), Text(", ".join(parts), style="dim"))
        return grid
