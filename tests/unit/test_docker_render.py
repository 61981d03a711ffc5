"""What the docker orchestrator asks the engine for; tests/contract/golden has one whole answer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backends.errors import ConfigError
from backends.orchestrator.docker import OrchestratorDockerBackend
from backends.orchestrator.docker.render import Renderer
from backends.orchestrator.driven.container_platform import Labels
from tests.support import configs

PLAIN = OrchestratorDockerBackend()


def resolved(folder: Path, steps: dict[str, Any], **document: Any) -> dict[str, Any]:
    return configs.resolved(steps, base=str(folder), **{"store": str(folder / "store"), **document})


def one(folder: Path, step: dict[str, Any], backend: OrchestratorDockerBackend = PLAIN, /, **document: Any) -> dict[str, Any]:
    """Return the only document of a pipeline of one step."""
    [found] = backend.render(resolved(folder, {"a": step}, **document))
    return found


def mounts(body: dict[str, Any]) -> list[tuple[str, bool]]:
    """Return the path of each mount and whether it can be written to."""
    for mount in body["HostConfig"]["Mounts"]:
        assert (mount["Type"], mount["Source"]) == ("bind", mount["Target"])
    return [(mount["Target"], not mount["ReadOnly"]) for mount in body["HostConfig"]["Mounts"]]


def body(
    config: dict[str, Any], step: str = "a", *, memory: int | None = None, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what a launcher would have created, in an environment."""
    renderer = Renderer(PLAIN, config)
    image = config["steps"][step]["image"]
    labels = Labels("r", step, "0", config["name"], renderer.sha, config["store"], image, "{}")
    made: dict[str, Any] = renderer.render(labels, memory, environ or {})["container"]
    return made


def test_only_the_store_can_be_written_and_code_inputs_and_secrets_are_mounted_beside_it(tmp_path: Path) -> None:
    step = {"inputs": {"near": "./data.csv", "far": "/srv/data.csv", "web": "https://example.org/x", "file": "file:///srv/b"}}
    found = one(tmp_path, step, code=".", secrets={"T": {"file": "/run/secrets/t"}})
    assert mounts(found["container"]) == [
        (f"{tmp_path}/store", True),
        (str(tmp_path), False),
        ("/srv/data.csv", False),
        ("/srv/b", False),
        ("/run/secrets/t", False),
    ]


def test_the_store_may_be_the_codes_own_directory(tmp_path: Path) -> None:
    assert mounts(one(tmp_path, {}, code=".", store=str(tmp_path))["container"]) == [(str(tmp_path), True)]


def test_a_link_in_the_code_that_leads_out_of_it_is_mounted_too(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    for name in ("inside", "outside"):
        (tmp_path / name).write_text(name)
    (tmp_path / "code/inside").write_text("")
    (tmp_path / "code/link").symlink_to(tmp_path / "outside")
    (tmp_path / "other").symlink_to(tmp_path / "code")
    inputs = {"inside": str(tmp_path / "other/inside"), "link": str(tmp_path / "other/link"), "gone": str(tmp_path / "gone")}
    config = resolved(tmp_path, {"a": {"run": ["true"], "inputs": inputs}}, code=str(tmp_path / "other"))
    assert [path for path, _ in mounts(body(config))[1:]] == [str(tmp_path / "other"), str(tmp_path / "other/link")]


@pytest.mark.parametrize("path", ["/", "/usr", "/etc", "/opt"])
@pytest.mark.parametrize("what", ["code", "store"])
def test_a_directory_that_would_hide_the_images_own_is_refused(tmp_path: Path, path: str, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{what}: {path} can't be mounted"):
        one(tmp_path, {}, **{what: path})


def test_resources(tmp_path: Path) -> None:
    # What a GPU must have is checked inside: the engine can only count them.
    resources = {"cpu": "500m", "memory": "1Gi", "gpu": 2, "gpu_memory": "16Gi", "cuda": "12.4"}
    host = one(tmp_path, {"resources": resources})["container"]["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 1 << 30, 1 << 30)
    assert host["DeviceRequests"] == [{"Count": 2, "Capabilities": [["gpu"]]}]
    host = one(tmp_path, {})["container"]["HostConfig"]
    assert not {"NanoCpus", "Memory", "MemorySwap", "DeviceRequests"} & set(host)


def test_the_drivers_memory_counts_and_not_the_configs(tmp_path: Path) -> None:
    config = resolved(tmp_path, {"a": {"run": ["true"], "resources": {"memory": "64Mi"}}})
    assert body(config, memory=128 << 20)["HostConfig"]["Memory"] == 128 << 20


def test_options(tmp_path: Path) -> None:
    backend = OrchestratorDockerBackend(network="none", user="7:8", read_only=False)
    found = one(tmp_path, {"grace_period": "1.5s"}, backend)["container"]
    assert (found["HostConfig"]["NetworkMode"], found["User"], found["StopTimeout"]) == ("none", "7:8", 7)
    assert found["HostConfig"]["ReadonlyRootfs"] is False and "Tmpfs" not in found["HostConfig"]


def test_a_mounted_tmp_is_no_tmpfs(tmp_path: Path) -> None:
    assert "Tmpfs" not in one(tmp_path, {}, code="/tmp")["container"]["HostConfig"]


@pytest.mark.parametrize(("args", "path"), [({"max_parallel": 0}, "max_parallel"), ({"engine_timeout": 0.0}, "engine_timeout")])
def test_options_that_make_no_sense(args: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError, match=rf"args\.{path}: must be"):
        OrchestratorDockerBackend(**args)


def variables(found: dict[str, Any]) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in found["Env"])


def test_credentials_go_only_where_a_bucket_is_read_or_written(tmp_path: Path) -> None:
    environ = {"AWS_ACCESS_KEY_ID": "me", "GOOGLE_CLOUD_PROJECT": "p", "AZURE_CLIENT_ID": "c", "HTTPS_PROXY": "p:1", "HOME": "/"}
    steps = {"plain": {"run": ["true"]}, "reads": {"run": ["true"], "inputs": {"x": "gs://b/x"}}}
    config = resolved(tmp_path, steps)
    cloud = {name for name in environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))}
    for step, expected in (("plain", {"HTTPS_PROXY"}), ("reads", {"HTTPS_PROXY"} | cloud)):
        assert set(variables(body(config, step, environ=environ))) & set(environ) == expected
    config = resolved(tmp_path, steps, store="s3://bucket/runs")
    assert set(variables(body(config, "plain", environ=environ))) >= cloud
    assert mounts(body(config, "plain", environ=environ)) == []


def test_what_a_passed_variable_names_is_mounted(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("x")
    found = body(
        resolved(tmp_path, {"a": {"run": ["true"]}}), environ={"SSL_CERT_FILE": str(bundle), "CURL_CA_BUNDLE": "/no/such.pem"}
    )
    assert variables(found)["SSL_CERT_FILE"] == str(bundle)
    assert mounts(found)[1:] == [(str(bundle), False)]


def test_secrets_are_passed_by_name_and_rendered_without_their_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hunter2")
    found = one(tmp_path, {}, secrets={"KEY": {"env": "TOKEN"}})
    assert "TOKEN" in found["passed"] and "hunter2" not in json.dumps(found)
    config = resolved(tmp_path, {"a": {"run": ["true"]}}, secrets={"KEY": {"env": "TOKEN"}})
    given = body(config, environ={"TOKEN": "hunter2"})
    assert variables(given)["TOKEN"] == "hunter2" and "hunter2" not in json.dumps(given["Labels"])


def test_the_config_goes_inline_then_packed_then_by_reference(tmp_path: Path) -> None:
    def way(size: int, **document: Any) -> tuple[str, str, str]:
        text = os.urandom(size // 2).hex()
        config = resolved(tmp_path, {"a": {"run": ["true"], "args": {"x": text}}}, **document)
        found = variables(body(config))
        [name] = [name for name in found if name.startswith("ZEN_RUNNER_CONFIG")]
        assert len(f"{name}={found[name]}") < 131_072
        return name, found[name], Renderer(PLAIN, config).sha

    assert way(100)[1].startswith("{")
    assert way(150_000)[1].startswith("gz:")
    name, value, sha = way(2_000_000)
    assert (name, value) == ("ZEN_RUNNER_CONFIG_FILE", f"{tmp_path}/store/configs/{sha}.json")
    name, value, sha = way(2_000_000, store="s3://bucket/runs")
    assert (name, value) == ("ZEN_RUNNER_CONFIG", f"ref:s3://bucket/runs/configs/{sha}.json#sha256={sha}")
