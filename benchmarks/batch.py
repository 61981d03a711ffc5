"""What the batch orchestrator costs its client: on moto's Batch without containers, behind a proxy that counts calls."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

from backends.orchestrator.batch import OrchestratorBatchBackend
from backends.store import open_store
from backends.store.base import Store
from benchmarks.measure import Figure, ratio
from tests.emulators.faulty_proxy import faulty_proxy
from tests.emulators.moto_batch import BUCKET, QUEUE, MotoBatch, moto_batch
from tests.support.configs import resolved

STEPS, LAYER = 1000, 50
BATCH_CALLS = ("SubmitJob", "DescribeJobs", "ListJobs", "DescribeJobQueues", "RegisterJobDefinition", "DescribeJobDefinitions")


def pipeline(count: int, store: str, layer: int) -> dict[str, Any]:
    """Return a resolved config of steps in layers; each waits for three of the layer before."""
    steps: dict[str, dict[str, Any]] = {}
    for number in range(count):
        row, place = divmod(number, layer)
        parents = sorted(f"s{(row - 1) * layer + (place + shift) % layer}" for shift in range(3)) if row else []
        steps[f"s{number}"] = {"after": parents}
    return resolved(steps, name="many", store=store)


def figures() -> Iterator[Figure]:
    """Measure render, the calls of one run, and submit against bare calls."""
    config = pipeline(STEPS, f"s3://{BUCKET}/calls", LAYER)
    backend = OrchestratorBatchBackend(queue=QUEUE)
    seconds = []
    for _ in range(9):
        begin = time.perf_counter()
        backend.render(config)
        seconds.append(time.perf_counter() - begin)
    detail = f"median of {len(seconds)}; as a reference into the store, since it is larger than the overrides"
    yield Figure(f"render {STEPS:,} steps for Batch", statistics.median(seconds) * 1000, "ms", 500, detail)
    with moto_batch(null=True, seconds_each=3.0) as server:
        yield from _calls(config, server)
    with moto_batch(null=True) as server:
        yield _against_bare_calls(server)


def _calls(config: dict[str, Any], server: MotoBatch) -> Iterator[Figure]:
    with faulty_proxy(server.url) as proxy:
        store = _open(server, proxy.url, config["store"])
        backend = OrchestratorBatchBackend(queue=QUEUE)
        handle = backend.submit(config, "r", store)
        name = f"calls of Batch to submit {STEPS:,} steps"
        yield Figure(name, _sum(proxy.calls), "calls", STEPS + 3, _shown(proxy.calls))
        proxy.clear()
        OrchestratorBatchBackend(queue=QUEUE).status(handle)
        name = f"calls of Batch for the status of {STEPS:,} steps"
        yield Figure(name, _sum(proxy.calls), "calls", STEPS / 100 + 1, _shown(proxy.calls))
        proxy.clear()
        begin = time.perf_counter()
        summary = backend.wait(handle)
        if summary["class"] != "success":
            raise RuntimeError(summary["message"])
        seconds = time.perf_counter() - begin
        detail = f"{seconds:.0f} s, {STEPS // LAYER} layers: {_shown(proxy.calls)}; the budget is one call a second"
        most = STEPS / 100 + seconds
        yield Figure(f"calls of Batch to wait for the end of {STEPS:,} steps", _sum(proxy.calls), "calls", most, detail)


def _against_bare_calls(server: MotoBatch) -> Figure:
    count = 500
    store = _open(server, server.url, f"s3://{BUCKET}/bare")
    config = pipeline(count, f"s3://{BUCKET}/bare", count)
    client = server.client("batch")
    documents = OrchestratorBatchBackend(queue=QUEUE).render(config)
    requests = [document["request"] for document in documents if document["api"] == "SubmitJob"]
    client.register_job_definition(**documents[0]["request"])
    backend = OrchestratorBatchBackend(queue=QUEUE)
    runs = iter(range(1000))

    def bare() -> float:
        begin = time.perf_counter()
        for request in requests:
            client.submit_job(**request)
        seconds = time.perf_counter() - begin
        time.sleep(0.5)  # the server's jobs end meanwhile
        return seconds

    def ours() -> float:
        begin = time.perf_counter()
        backend.submit(config, f"r{next(runs)}", store)
        seconds = time.perf_counter() - begin
        time.sleep(0.5)
        return seconds

    return ratio(f"submit {count:,} steps to Batch, against as many bare boto3 calls", ours, bare, 1.1, rounds=5, warmup=1)


def _open(server: MotoBatch, url: str, store: str) -> Store:
    """Open the store without a proxy, then let what comes after go through ``url``."""
    os.environ.update(server.environment())
    opened = open_store(store)
    os.environ.update(server.environment(url))
    return opened


def _sum(calls: dict[str, int]) -> int:
    return sum(calls[name] for name in BATCH_CALLS)


def _shown(calls: dict[str, int]) -> str:
    return ", ".join(f"{name} {calls[name]}" for name in BATCH_CALLS if calls[name])
