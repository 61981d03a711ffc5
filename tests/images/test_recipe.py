"""The recipe: the locks, the bake file, and what the build would do elsewhere. Needs no running engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.support.running import ROOT

LOCKS = ("cpu", "beam", "spark", "build", "cuda")
VARIANTS = ("cpu", "beam", "spark", "cuda")


def bake(*targets: str, **env: str) -> dict[str, Any]:
    """Return the targets as buildx reads them."""
    if not shutil.which("docker"):
        pytest.skip("docker's command line is not installed")
    done = subprocess.run(
        ["docker", "buildx", "bake", "--print", *targets], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True
    )
    if "is not a docker command" in done.stderr:
        pytest.skip("docker's buildx plugin is not installed")
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)["target"]
    return printed


def asked_for(lock: str) -> list[Requirement]:
    """Return what a lock is made of."""
    if lock == "cpu":
        lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    else:
        lines = (ROOT / f"images/requirements/{lock}.in").read_text().splitlines()
    return [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0]]


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_pins_every_dependency_by_hash_and_names_no_index(lock: str) -> None:
    text = (ROOT / f"images/requirements/{lock}.txt").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^ *#.*\n", "", text).strip())
    locked: dict[str, set[str]] = {}
    for entry in entries:
        name, version = re.match(r"([a-z0-9._-]+)==(\S+)", entry).groups()  # type: ignore[union-attr]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name
        locked.setdefault(name, set()).add(version)
    for wanted in asked_for(lock):
        versions = locked.get(wanted.name.lower(), {""})
        assert all(wanted.specifier.contains(version) for version in versions), f"{wanted}: run images/lock"
    assert "://" not in text
    assert not re.search(r"(?m)^\s*-", text.replace("    --hash", "")), "an option, such as an index"


def test_pyspark_alone_is_built_from_source() -> None:
    recipe = (ROOT / "images/Dockerfile").read_text()
    assert re.findall(r"--no-binary (\S+)", recipe) == ["pyspark"]
    assert recipe.count("--only-binary :all:") == recipe.count("pip install --quiet")
    assert recipe.count("--require-hashes") == recipe.count("pip install --quiet")


@pytest.mark.parametrize(
    "path", ["images/Dockerfile", "docker-bake.hcl", "images/build", "images/make-base", "images/unpack", "images/libraries"]
)
def test_the_recipe_names_no_mirror_and_no_index(path: str) -> None:
    text = (ROOT / path).read_text().replace("1970-01-01T00:00:00Z", "")
    assert "://" not in text.replace("docker-image://", "")


def test_nothing_fetches_a_frontend() -> None:
    assert not re.search(r"(?im)^#\s*syntax\s*=", (ROOT / "images/Dockerfile").read_text())


def test_bake_tags_the_images() -> None:
    made = bake()
    assert set(made) == set(VARIANTS)
    assert made["cpu"]["tags"] == ["zen-runner:cpu", "zen-runner:latest"]
    assert [made[name]["tags"] for name in VARIANTS[1:]] == [["zen-runner:beam"], ["zen-runner:spark"], ["zen-runner:cuda"]]


def test_the_boot_program_is_of_the_locked_beam_and_may_be_left_out(tmp_path: Path) -> None:
    (version,) = (str(wanted.specifier).removeprefix("==") for wanted in asked_for("beam"))
    default = bake("beam")["beam"]
    assert default["contexts"]["beam_sdk"].startswith("docker-image://apache/beam_python")
    assert default["contexts"]["beam_sdk"].endswith(f":{version}")
    given = bake("beam", BEAM_SDK=str(tmp_path))["beam"]
    assert given["contexts"] == {"beam_sdk": str(tmp_path)}
    for target in (default, given):
        assert target["args"]["BEAM_BOOT"] == target["labels"]["org.zen-runner.beam.boot"] == "present"
    without = bake("beam", BEAM_SDK="")["beam"]
    assert "contexts" not in without
    assert without["args"]["BEAM_BOOT"] == without["labels"]["org.zen-runner.beam.boot"] == "absent"


def test_cudas_version_is_the_locked_one() -> None:
    toolkit = next(wanted for wanted in asked_for("cuda") if wanted.name == "cuda-toolkit")
    cuda = bake("cuda")["cuda"]
    assert str(toolkit.specifier).startswith(f"=={cuda['args']['CUDA_VERSION']}.")
    assert cuda["labels"]["org.zen-runner.cuda"] == cuda["args"]["CUDA_VERSION"]


def test_the_base_is_a_variable() -> None:
    digest = "python@sha256:" + "0" * 64
    cpu = bake("cpu", BASE=digest)["cpu"]
    assert cpu["args"]["BASE"] == cpu["labels"]["org.opencontainers.image.base.name"] == digest


def test_secrets_are_secrets_and_optional(tmp_path: Path) -> None:
    assert "secret" not in bake("cpu", CA_BUNDLE="", PIP_CONF="")["cpu"]
    ca, pip = tmp_path / "ca.pem", tmp_path / "pip.conf"
    ca.touch()
    pip.touch()
    given = bake("cpu", CA_BUNDLE=str(ca), PIP_CONF=str(pip))["cpu"]
    assert given["secret"] == [f"id=ca,src={ca}", f"id=pip,src={pip}"]
    assert set(given["args"]) == {"BASE", "SOURCE_DATE_EPOCH"}


def test_a_release_is_for_both_architectures_and_attested() -> None:
    made = bake("release", REPOSITORY="example/zen-runner", VERSION="1.2.3")
    assert set(made) == {f"release-{name}" for name in VARIANTS}
    for name in VARIANTS:
        release = made[f"release-{name}"]
        assert release["target"] == name
        assert release["platforms"] == ["linux/amd64", "linux/arm64"]
        assert release["attest"] == ["type=provenance,mode=max", "type=sbom"]
        assert f"example/zen-runner:{name}-1.2.3" in release["tags"]
    assert "example/zen-runner:latest" in made["release-cpu"]["tags"]
    assert made["release-beam"]["args"]["BEAM_BOOT"] == "present"


def test_only_what_the_image_holds_is_sent_to_the_builder() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule for rule in rules if rule.startswith("!")} == {
        "!entrypoint",
        "!backends",
        "!images",
        "!pyproject.toml",
        "!LICENSE",
    }
