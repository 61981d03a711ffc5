"""Measures the budgets: ``python -m benchmarks [NAME ...]``. Exit status 1 if one is broken."""

from __future__ import annotations

import importlib
import sys

NAMES = ("start", "steps", "dag", "docker", "image", "batch", "engines", "beam_orchestrator", "usage")


def main() -> int:
    wanted = sys.argv[1:] or list(NAMES)
    if unknown := sorted(set(wanted) - set(NAMES)):
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 64
    broken = 0
    for name in wanted:
        for figure in importlib.import_module(f"benchmarks.{name}").figures():
            state = "ok  " if figure.kept else "OVER"
            broken += not figure.kept
            print(f"{state} {figure.name}: {figure.value:.2f} {figure.unit} (budget {figure.budget:g})", flush=True)
            print(f"     {figure.detail}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
