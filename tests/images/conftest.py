"""Containers of the images under test, and what their layers hold."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest

from tests.support.images import Ended, Layer


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=120)
    yield client
    client.close()


@pytest.fixture(scope="session")
def run(engine: docker.DockerClient, cpu_image: str) -> Callable[..., Ended]:
    """Run a container to its end, one of the cpu image by default; keywords are the docker SDK's."""

    def run_container(*command: str, image: str = cpu_image, **options: Any) -> Ended:
        container = engine.containers.create(image, list(command), **{"network_mode": "none", **options})
        try:
            container.start()
            code = container.wait(timeout=100)["StatusCode"]
            out, err = (container.logs(stdout=o, stderr=not o).decode() for o in (True, False))
        finally:
            container.remove(force=True)
        return Ended(code, out, err)

    return run_container


@pytest.fixture(scope="session")
def saved(engine: docker.DockerClient, cpu_image: str) -> tuple[dict[str, Any], list[Layer]]:
    """The cpu image's configuration, and its layers above its base."""
    image = engine.images.get(cpu_image)
    base = engine.images.get(image.labels["org.opencontainers.image.base.name"])
    below = base.attrs["RootFS"]["Layers"]
    assert image.attrs["RootFS"]["Layers"][: len(below)] == below
    with tempfile.TemporaryFile() as file:
        file.writelines(image.save())
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            manifest = json.loads(content(archive, "manifest.json"))[0]
            config = json.loads(content(archive, manifest["Config"]))
            blobs = [content(archive, name) for name in manifest["Layers"][len(below) :]]
    layers = []
    for blob in blobs:
        with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
            members = {member.name: member for member in archive}
            files = {name: content(archive, name) for name, member in members.items() if member.isfile()}
        layers.append(Layer(blob, members, files))
    return config, layers


def content(archive: tarfile.TarFile, name: str) -> bytes:
    """Return what a file in an archive holds."""
    file = archive.extractfile(name)
    assert file, f"{name} is not a file"
    return file.read()
