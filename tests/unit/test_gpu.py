"""Versions, and what CUDA_VISIBLE_DEVICES means, on devices made by hand."""

from __future__ import annotations

import pytest

from backends.errors import PlacementError
from entrypoint.runtime.gpu import choice, inventory
from entrypoint.runtime.gpu.inventory import Gpu, Inventory

GIB = 1 << 30


def stock(*gpus: Gpu) -> Inventory:
    made = Inventory()
    made.gpus = list(gpus)
    made.indices = dict(enumerate(device for device in gpus if not device.is_mig))
    made.cuda, made.driver = (12, 4), "550.54.14"
    return made


def one(uuid: str, free: int = 80, is_mig: bool = False) -> Gpu:
    return Gpu(None, uuid, uuid, "Fake", 80 * GIB, free * GIB, is_mig)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("12.4", (12, 4)),
        ("12.4.1", (12, 4)),
        ("13", (13, 0)),
        ("12.10", (12, 10)),
        (" 11.8 ", (11, 8)),
        ("", None),
        ("unknown", None),
        ("12.x", None),
        ("12.", None),
    ],
)
def test_version(text: str, wanted: tuple[int, int] | None) -> None:
    assert inventory.version(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0,1", ["GPU-aa1", "GPU-ab2"]),
        (" 1 , 0 ", ["GPU-ab2", "GPU-aa1"]),
        ("GPU-ab", ["GPU-ab2"]),
        ("GPU-a", []),  # could be either
        ("GPU-", []),
        ("MIG-c3", ["MIG-c3"]),
        ("0,0", ["GPU-aa1"]),
        ("0,,1", ["GPU-aa1"]),
        ("7,0", []),
        ("-1,0", []),
        ("NoDevFiles", []),
        ("", []),
        ("²", []),
    ],
)
def test_what_cuda_visible_devices_names(text: str, wanted: list[str]) -> None:
    found = choice.named(text, stock(one("GPU-aa1"), one("GPU-ab2"), one("MIG-c3", is_mig=True)))
    assert [device.uuid for device in found] == wanted


def test_devices_of_others_are_waited_for_only_if_they_would_do() -> None:
    two = stock(one("GPU-a", free=1), one("GPU-b"))
    wanted = {"gpu": 1, "gpu_memory": 40 * GIB}
    with pytest.raises(choice.Busy):
        choice.choose("s", wanted, two, None, {}, {"GPU-b"})
    with pytest.raises(choice.Busy):  # GPU-a is full of what the step that has it holds, and has the room once that has ended
        choice.choose("s", {**wanted, "gpu": 2}, two, None, {}, {"GPU-a", "GPU-b"})
    with pytest.raises(PlacementError, match="1 has it") as error:
        choice.choose("s", {**wanted, "gpu": 2}, two, None, {}, ())
    assert not isinstance(error.value, choice.Busy)
    with pytest.raises(PlacementError, match="has 1 GiB of 80 GiB free"):
        choice.choose("s", {"gpu": 2, "gpu_memory": 90 * GIB}, two, None, {}, {"GPU-a", "GPU-b"})
    assert [device.uuid for device in choice.choose("s", wanted, two, None, {}, {"GPU-a"})] == ["GPU-b"]


def test_stored_resources_without_the_new_keys_are_read() -> None:
    assert len(choice.choose("s", {"cpu": None, "memory": None, "gpu": 1}, stock(one("GPU-a")), None, {})) == 1
