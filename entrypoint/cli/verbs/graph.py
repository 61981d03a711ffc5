"""`graph`: draw the order of the steps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from backends import graph
from entrypoint.cli.config import load_config
from entrypoint.cli.parser import TEXT, add_config_and_set
from entrypoint.cli.printing import print_text

if TYPE_CHECKING:
    from entrypoint.cli.config import Config, Environ
    from entrypoint.cli.parser import Parser


def arguments(parser: Parser) -> None:
    """Add the verb's arguments to a parser."""
    add_config_and_set(parser)
    parser.add_argument("--format", choices=(TEXT, "mermaid"), default=TEXT, help="a tree, or Mermaid's flowchart")


def main(args: argparse.Namespace, environ: Environ) -> int:
    """Print the drawing."""
    config, _ = load_config(args, environ)
    lines = mermaid(config) if args.format == "mermaid" else tree(config)
    print_text("\n".join(lines))
    return 0


def _drawn(config: Config) -> dict[str, dict[str, Any]]:
    """Return the steps for a drawing, a foreach step as one: their titles, and the outputs that they take from each parent."""
    steps = config["steps"]
    groups = graph.groups(steps)
    group = {member: name for name, members in groups.items() for member in members}
    drawn = {}
    for name in graph.named(steps):
        step = steps[groups[name][0] if name in groups else name]
        parents: dict[str, list[str]] = {group.get(parent, parent): [] for parent in step["parents"]}
        for source in step["inputs"].values():
            for part in source.get("gather", (source,))[:1]:
                if "step" in part:
                    parents[group.get(part["step"], part["step"])].append(part["output"])
        drawn[name] = {"title": f"{name} × {len(groups[name])}" if name in groups else name, "parents": parents}
    return drawn


def mermaid(config: Config) -> Iterator[str]:
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


def tree(config: Config) -> Iterator[str]:
    """Yield the pipeline as a tree; a step with several parents hangs under the last of them and names the others."""
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
