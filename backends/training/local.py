"""Training where the step is: in its own container or process, on the CPUs and GPUs that are there."""

from __future__ import annotations

from backends.base import TrainingBaseBackend


class TrainingLocalBackend(TrainingBaseBackend):
    """Trains in the step's own container.

    It takes no arguments: what a step trains on is its ``resources`` (``gpu``, ``gpu_memory``, ``cuda``), which the entrypoint
    checks in the container before the step's code loads, whichever orchestrator started it.
    """
