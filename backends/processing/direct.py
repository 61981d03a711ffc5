"""Beam's direct runner, in the step's own container."""

from __future__ import annotations

from backends.base import ProcessingBaseBackend
from backends.errors import ConfigError, Problem
from backends.processing.beam_options import as_flags, problems_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
"""What ``DirectRunner`` comes down to. That name would first look for a newer runner's program on the internet."""


class ProcessingDirectBackend(ProcessingBaseBackend):
    """Runs a ``beam`` step in its own container, with Beam's direct runner.

    Args:
        direct_num_workers: how many workers share the work; 0 for one a CPU, None for Beam's default, which is one.
        direct_running_mode: whether workers are threads or processes of their own; None for Beam's default, ``in_memory``.
        options: any other pipeline options by name, such as ``{"temp_location": "/tmp"}``; a ``runner`` among them takes the
            place of the direct one.
    """

    def __init__(
        self,
        direct_num_workers: int | None = None,
        direct_running_mode: Literal["in_memory", "multi_threading", "multi_processing"] | None = None,
        options: dict[str, str | int | float | bool | list[str] | None] | None = None,
    ) -> None:
        problems = problems_of(options, ("direct_num_workers", "direct_running_mode"))
        if direct_num_workers is not None and direct_num_workers < 0:
            problems.append(Problem("", "args.direct_num_workers", f"must be 0 (one a CPU) or more, not {direct_num_workers}"))
        if problems:
            raise ConfigError(problems)
        self.options = {
            "runner": RUNNER,
            "direct_num_workers": direct_num_workers,
            "direct_running_mode": direct_running_mode,
            **(options or {}),
        }

    def get_beam_args(self, pipeline_name: str, pipeline_root: str) -> list[str]:
        """Return the options as Beam's command line takes them."""
        return as_flags(self.options)
