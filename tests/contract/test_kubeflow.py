"""The kubeflow orchestrator: its config and what it renders. No Kubeflow is at hand, so no pipeline runs through its API here.

What the rendered pipeline does is in tests/integration/test_kubeflow.py, with kfp's own local runner on a real engine.
"""

from __future__ import annotations

from hypothesis import strategies as st

from backends.orchestrator.kubeflow import OrchestratorKubeFlowBackend
from tests.contract.suite import RenderContract

NAMES = st.sampled_from(["ml", "team-a"])


class TestKubeflow(RenderContract):
    cls = OrchestratorKubeFlowBackend
    source = "kubeflow"
    arguments = st.fixed_dictionaries(
        {},
        optional={
            "host": st.none() | st.just("https://kubeflow.example.com/pipeline"),
            "namespace": st.none() | NAMES,
            "token": st.none() | st.just({"env": "KFP_TOKEN"}) | st.just({"file": "/run/secrets/kfp"}),
            "experiment": NAMES,
            "service_account": st.none() | NAMES,
            "parameters": st.none() | st.lists(st.just("train.epochs")),
            "env": st.none() | st.dictionaries(st.sampled_from(["AWS_ENDPOINT_URL", "ZONE"]), NAMES),
            "image_pull_policy": st.none() | st.sampled_from(["Always", "IfNotPresent", "Never"]),
            "image_pull_secrets": st.none() | st.lists(NAMES),
            "gpu_type": st.sampled_from(["nvidia.com/gpu", "amd.com/gpu"]),
            "ca_bundle": st.none() | st.just("/etc/ssl/ca.pem"),
            "request_timeout": st.floats(1, 1e3),
            "startup_timeout": st.none() | st.floats(1, 1e6),
            "deadline": st.none() | st.floats(1, 1e6),
        },
    )
    options = {"parameters": ["report.level"], "image_pull_policy": "Always"}  # noqa: RUF012 - a ClassVar in the base
