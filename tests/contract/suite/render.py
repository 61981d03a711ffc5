"""What an orchestrator renders: pure, offline, and what its golden file says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar

from backends import wire
from backends.base import OrchestratorBaseBackend
from tests.contract.suite.backend import BackendContract, isolated

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


class RenderContract(BackendContract):
    """An orchestrator that renders without a platform.

    Attributes:
        cls: the class.
        options: the backend's arguments.
        secrets: those of the config, where the backend can't take the golden pipeline's own.
    """

    cls: ClassVar[type[OrchestratorBaseBackend]]
    options: ClassVar[dict[str, Any]] = {}
    secrets: ClassVar[dict[str, dict[str, str]] | None] = None

    def golden(self) -> dict[str, Any]:
        """Return the config that the golden file is rendered from; a fresh copy."""
        config: dict[str, Any] = json.loads((GOLDEN / "pipeline.json").read_text())
        return config if self.secrets is None else {**config, "secrets": self.secrets}

    def backend(self) -> OrchestratorBaseBackend:
        """Return the backend as the class has it: a test's own folders are no part of a golden file."""
        return self.cls(**type(self).options)

    def test_render_is_what_the_golden_file_says(self) -> None:
        text = json.dumps(self.backend().render(self.golden()), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        path = GOLDEN / f"orchestrator.{self.source.replace(':', '.')}.json"
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text)
        assert text == path.read_text()

    def test_render_is_pure_offline_and_deterministic(self) -> None:
        expression = f"BaseBackend.from_config({self.backend().to_config()!r}).render(wire.loads(sys.stdin.read()))"
        stdin = wire.dumps(self.golden())
        first, second = (isolated(expression, stdin, PYTHONHASHSEED=seed) for seed in ("1", "2"))
        assert first == second == wire.dumps(self.backend().render(self.golden())) + "\n"

    def test_render_leaves_the_config_alone(self) -> None:
        config = self.golden()
        self.backend().render(config)
        assert config == self.golden()
