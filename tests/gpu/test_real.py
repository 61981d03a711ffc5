"""The same on a real NVIDIA GPU: ``pytest -m gpu``. Skipped with the reason where there is none, also when CI=true."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import config, write
from tests.support.running import USER_PYTHON, results, run

MIB = 1 << 20

# Fills memory and sets it again and again for some seconds, through CUDA's driver API alone, so that it needs no framework.
# Source: NVIDIA's CUDA driver API reference.
DRIVER_API = """
import ctypes, time

def fit(model, size, seconds):
    cuda = ctypes.CDLL("libcuda.so.1")
    def call(name, *arguments):
        code = getattr(cuda, name)(*arguments)
        if code:
            raise RuntimeError(f"{name}: CUDA error {code}")
    device, context, count = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(count))
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
    memory = ctypes.c_uint64()
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
    until = time.monotonic() + seconds
    number = 0
    while time.monotonic() < until:
        for _ in range(50):
            call("cuMemsetD32_v2", memory, number, ctypes.c_size_t(size // 4))
            number += 1
        call("cuCtxSynchronize")
    first = ctypes.c_uint32()
    call("cuMemcpyDtoH_v2", ctypes.byref(first), memory, ctypes.c_size_t(4))
    model.write_text(f"{count.value} {first.value == number - 1}")
"""

# A regression by gradient descent: the loss must fall, on the GPU.
TORCH = """
import torch

def fit(model, steps):
    torch.manual_seed(0)
    x = torch.randn(4096, 256, device="cuda")
    y = x @ torch.randn(256, 1, device="cuda")
    net = torch.nn.Linear(256, 1).cuda()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    torch.save(net.state_dict(), model)
    return {"first": losses[0], "last": losses[-1], "device": str(next(net.parameters()).device)}
"""


@functools.cache
def devices() -> tuple[int, str]:
    """Return how many whole GPUs are here, and why there are none."""
    try:
        import pynvml

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason
        return 0, f"no NVIDIA GPU here: {error}"
    return count, "" if count else "no NVIDIA GPU here"


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not devices()[0], reason=devices()[1] or "-"), pytest.mark.xdist_group("gpu")]


def one(folder: Path, resources: dict[str, Any], **step: Any) -> Any:
    backend = {"type": "training", "source": "local"}
    path = config(folder, steps={"s": {"resources": resources, "backend": backend, **step}}, retry={"limit": 0})
    return run("--config", str(path), "--step", "s", cwd=folder, timeout=280, ZEN_RUNNER_RUN_ID="r")


def test_a_step_trains_and_its_record_tells_of_it(tmp_path: Path) -> None:
    write(tmp_path, train_py=DRIVER_API)
    done = one(
        tmp_path, {"gpu": 1, "gpu_memory": "1Gi"}, call="train:fit", args={"size": 512 * MIB, "seconds": 8}, outputs=["model"]
    )
    assert done.code == 0, done.errors
    [record] = results(tmp_path, "r", "s")
    assert (tmp_path / "store" / "runs" / "r" / "s" / "1" / "out" / "model").read_text() == "1 True"
    [device] = record["usage"]["gpus"]
    assert device["memory_peak"] >= 512 * MIB
    assert device["utilisation_peak"] is None or device["utilisation_peak"] > 0
    print(json.dumps(record["usage"], indent=2))


def test_a_step_trains_with_torch(tmp_path: Path) -> None:
    found = subprocess.run(
        [USER_PYTHON, "-c", "import torch; print(torch.cuda.is_available())"], capture_output=True, check=False
    )
    if found.stdout.strip() != b"True":
        pytest.skip("the steps' Python has no torch with CUDA")
    write(tmp_path, train_py=TORCH)
    done = one(tmp_path, {"gpu": 1}, call="train:fit", args={"steps": 200}, outputs=["model"])
    assert done.code == 0, done.errors
    values = results(tmp_path, "r", "s")[0]["values"]
    assert values["device"].startswith("cuda")
    assert values["last"] < values["first"] / 10


def test_who_asks_for_none_sees_none(tmp_path: Path) -> None:
    script = "import ctypes; cuda = ctypes.CDLL('libcuda.so.1'); print(cuda.cuInit(0))"
    done = one(tmp_path, {"gpu": 0}, run=[USER_PYTHON, "-c", script])
    assert (done.code, done.stdout.strip()) == (0, b"100"), done.errors  # CUDA_ERROR_NO_DEVICE


@pytest.mark.parametrize(
    ("resources", "env", "said"),
    [
        ({"gpu": 1000}, {}, "gpu asks for 1000"),
        ({"gpu": 1, "cuda": "99.0"}, {}, "cuda asks for CUDA 99.0"),
        ({"gpu": 1, "gpu_memory": "900Gi"}, {}, "gpu_memory asks for 900 GiB free on 1 GPU"),
        ({"gpu": 1}, {"CUDA_VISIBLE_DEVICES": ""}, "which hides all"),
        ({"gpu": 1}, {"CUDA_VERSION": "98.0"}, "the image has CUDA 98.0"),
    ],
)
def test_refusals(tmp_path: Path, resources: dict[str, Any], env: dict[str, str], said: str) -> None:
    path = config(tmp_path, steps={"s": {"run": ["true"], "resources": resources}})
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, env=env)
    assert (done.code, done.record["class"]) == (76, "placement"), done.errors
    assert said in done.record["message"]


def test_doctor(tmp_path: Path) -> None:
    done = run("doctor", "--output", "json", cwd=tmp_path)
    [finding] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "gpu"]
    assert "CUDA" in finding["detail"] and "free" in finding["detail"], finding
    print(finding["detail"])
