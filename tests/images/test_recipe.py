"""The recipe: the lock, the bake file, and what the build would do elsewhere. Needs no running engine."""

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

from tests.images.build_fixture import ROOT

LOCK = (ROOT / "images/requirements/cpu.txt").read_text()


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


def test_the_lock_pins_every_dependency_by_hash_and_names_no_index() -> None:
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^ *#.*\n", "", LOCK).strip())
    locked = {}
    for entry in entries:
        name, version = re.match(r"([a-z0-9._-]+)==(\S+)", entry).groups()  # type: ignore[union-attr]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name
        locked[name] = version
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(locked.get(wanted.name.lower(), "")), f"{line}: run images/lock"
    assert "://" not in LOCK
    assert not re.search(r"(?m)^\s*-", LOCK.replace("    --hash", "")), "an option, such as an index"


@pytest.mark.parametrize("path", ["images/Dockerfile", "docker-bake.hcl", "images/build", "images/make-base"])
def test_the_recipe_names_no_mirror_and_no_index(path: str) -> None:
    assert "://" not in (ROOT / path).read_text().replace("1970-01-01T00:00:00Z", "")


def test_nothing_fetches_a_frontend() -> None:
    assert not re.search(r"(?im)^#\s*syntax\s*=", (ROOT / "images/Dockerfile").read_text())


def test_bake_tags_the_image() -> None:
    assert bake()["cpu"]["tags"] == ["zen-runner:cpu", "zen-runner:latest"]


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
    release = bake("release", REPOSITORY="example/zen-runner", VERSION="1.2.3")["release"]
    assert release["platforms"] == ["linux/amd64", "linux/arm64"]
    assert release["attest"] == ["type=provenance,mode=max", "type=sbom"]
    assert "example/zen-runner:cpu-1.2.3" in release["tags"]


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
