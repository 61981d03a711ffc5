"""One config, every orchestrator: examples/penguins gives the same artifacts, digest for digest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.orchestrator.kubeflow import OrchestratorKubeFlowBackend
from backends.shipping.shipment import ship, upload
from backends.store import open_store, records
from entrypoint.runtime.load import Source, load
from tests.emulators import kfp_local
from tests.emulators.moto_batch import BUCKET, QUEUE, MotoBatch, moto_batch
from tests.support import running

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("image")]

EXAMPLE = running.ROOT / "examples" / "penguins"


@pytest.fixture
def aws(cpu_image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MotoBatch]:
    """Batch and S3; this process's environment leads there."""
    with moto_batch() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def digests(store: str) -> dict[str, str]:
    """Return the digest of every output of run ``r``."""
    found = records.results(open_store(store), "r")
    assert {record["class"] for record in found.values()} == {"success"}
    return {f"{step}.{name}": made["digest"] for step, record in found.items() for name, made in record["outputs"].items()}


def test_penguins(tmp_path: Path, aws: MotoBatch, record_property: Any) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "penguins", ignore=shutil.ignore_patterns("runs", "__pycache__"))
    path = tmp_path / "penguins" / "pipeline.yaml"
    digest: dict[str, dict[str, str]] = {}

    def go(*arguments: str) -> None:
        ended = running.run(*arguments, "--config", str(path), "--run-id", "r", cwd=tmp_path, timeout=200, env=aws.environment())
        assert ended.code == 0, ended.errors

    for name in ("local", "docker"):
        store = str(tmp_path / name)
        go("run", "--backend", name, "--set", f"store={store}")
        digest[name] = digests(store)

    # What a platform's containers read has to be where they reach it.
    open_store(f"s3://{BUCKET}/data").upload("penguins.csv", str(EXAMPLE / "data" / "penguins.csv"))
    table = f"steps.ingest.inputs.source=s3://{BUCKET}/data/penguins.csv"

    store = f"s3://{BUCKET}/batch"
    block = json.dumps({"type": "orchestrator", "source": "batch", "args": {"queue": QUEUE}})
    go("submit", "--wait", "--backend", block, "--set", f"store={store}", "--set", table)
    digest["batch"] = digests(store)

    store = f"s3://{BUCKET}/kubeflow"
    config, _ = load(Source(path.read_bytes(), path.name, str(path.parent)), overrides=[f"store={store}", table], environ={})
    shipment = ship(config, str(tmp_path))
    upload(shipment, open_store(store))
    ended = kfp_local.run(OrchestratorKubeFlowBackend().render(shipment.config, "r"), tmp_path)
    assert ended.returncode == 0, ended.stdout
    digest["kubeflow"] = digests(store)

    record_property("digests", digest)
    assert set(digest["local"]) == {"ingest.raw", "clean.table", "train.model", "evaluate.report"}
    for name, found in digest.items():
        assert found == digest["local"], name
