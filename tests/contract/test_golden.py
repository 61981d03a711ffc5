"""The pipeline that the golden files are rendered from is one that ``resolve`` would write."""

from __future__ import annotations

from pathlib import Path

from backends import wire
from tests.contract.suite import GOLDEN
from tests.support import running


def test_the_golden_pipeline_is_a_resolved_config(tmp_path: Path) -> None:
    path = GOLDEN / "pipeline.json"
    # An override makes it go through validation again, which a resolved document otherwise skips.
    ended = running.run("resolve", "--config", str(path), "--set", "name=golden", "--output", "json", cwd=tmp_path)
    assert ended.code == 0, ended.errors
    assert wire.loads(ended.stdout) == wire.loads(path.read_bytes())
