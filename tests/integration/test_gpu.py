"""What a step that asks for GPUs meets: the real entrypoint and real steps on machines of a fake NVML library."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import config, write
from tests.support.fake_nvml import GIB, Machine, gpu, mig, mig_uuid, uuid
from tests.support.running import Ended, end, results, run, start
from tests.support.waiting import wait_until

SHOW = ["sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES|$CUDA_DEVICE_ORDER"']


def one(folder: Path, resources: dict[str, Any], **step: Any) -> Path:
    """Write a config with one step, called s."""
    return config(folder, steps={"s": {"run": SHOW, "resources": resources, **step}}, retry={"limit": 0})


def attempt(machine: Machine, folder: Path, resources: dict[str, Any], env: dict[str, str] | None = None, **step: Any) -> Ended:
    """Run the one step to its end."""
    path = one(folder, resources, **step)
    return run("--config", str(path), "--step", "s", cwd=folder, ZEN_RUNNER_RUN_ID="r", env={**machine.env, **(env or {})})


REFUSALS: list[tuple[str, list[str], dict[str, Any], dict[str, str], list[str]]] = [
    ("no devices", [], {"gpu": 1}, {}, ["gpu asks for 1, and 0 NVIDIA GPUs are here", "start it with a GPU"]),
    ("fewer", [gpu(0)], {"gpu": 2}, {}, ["gpu asks for 2, and 1 NVIDIA GPU is here", "use a larger machine"]),
    ("no driver", ["init 9"], {"gpu": 1}, {}, ["libnvidia-ml.so.1 is here but", "driver"]),
    ("no permission", ["init 4"], {"gpu": 1}, {}, ["Insufficient Permissions (NVML error 4)", "let this user open /dev/nvidia*"]),
    ("mismatch", ["init 18"], {"gpu": 1}, {}, ["version mismatch", "restart the container"]),
    ("unheard of", ["init 77"], {"gpu": 1}, {}, ["NVML does not start", "(NVML error 77)", "nvidia-smi"]),
    (
        "hidden from CUDA",
        [gpu(0), gpu(1)],
        {"gpu": 1},
        {"CUDA_VISIBLE_DEVICES": ""},
        ["$CUDA_VISIBLE_DEVICES is ''", "which hides all", "0 of the 2 devices", uuid(0)],
    ),
    (
        "hidden by a number that is none",
        [gpu(0), gpu(1)],
        {"gpu": 1},
        {"CUDA_VISIBLE_DEVICES": "-1"},
        ["$CUDA_VISIBLE_DEVICES is '-1'", "unset it, or name 1"],
    ),
    (
        "one hidden",
        [gpu(0), gpu(1)],
        {"gpu": 2},
        {"CUDA_VISIBLE_DEVICES": "1"},
        ["$CUDA_VISIBLE_DEVICES is '1'", "1 of the 2 devices here is visible"],
    ),
    (
        "hidden by the container",
        [],
        {"gpu": 1},
        {"NVIDIA_VISIBLE_DEVICES": "none"},
        ["$NVIDIA_VISIBLE_DEVICES is 'none'", "start it with `all`"],
    ),
    (
        "some hidden by the container",
        [gpu(0)],
        {"gpu": 2},
        {"NVIDIA_VISIBLE_DEVICES": "3"},
        ["1 NVIDIA GPU is here", "$NVIDIA_VISIBLE_DEVICES is '3'", "give the container more"],
    ),
    (
        "driver too old for the step",
        [gpu(0), "cuda 12020", "driver 535.104.05"],
        {"gpu": 1, "cuda": 12.4},
        {},
        ["cuda asks for CUDA 12.4", "the driver here (535.104.05) supports 12.2", "update the driver"],
    ),
    (
        "minor versions have two digits",
        [gpu(0), "cuda 12090"],
        {"gpu": 1, "cuda": "12.10"},
        {},
        ["cuda asks for CUDA 12.10", "supports 12.9"],
    ),
    (
        "driver too old for the image",
        [gpu(0), "cuda 12080", "driver 570.86.10"],
        {"gpu": 1},
        {"CUDA_VERSION": "13.0"},
        ["the image has CUDA 13.0 ($CUDA_VERSION)", "supports 12.8", "580 or later", "an image with CUDA 12"],
    ),
    (
        "no libcuda",
        [gpu(0), "cuda -12"],
        {"gpu": 1},
        {"NVIDIA_DRIVER_CAPABILITIES": "utility"},
        ["no libcuda.so.1", "NVIDIA_DRIVER_CAPABILITIES is 'utility': add `compute`"],
    ),
    (
        "a driver that tells no CUDA version",
        [gpu(0), "cuda -999"],
        {"gpu": 1, "cuda": "12.4"},
        {},
        ["does not say which CUDA it supports", "(NVML error 999)"],
    ),
    (
        "not enough free memory",
        [gpu(0, "pid=1:34359738368", free=48 * GIB), gpu(1, free=1 * GIB)],
        {"gpu": 2, "gpu_memory": "40Gi"},
        {},
        [
            "gpu_memory asks for 40 GiB free on 2 GPUs, and 1 has it",
            "GPU 0 (Fake H100) has 48 GiB of 80 GiB free, used by pid 1 (",
            ") 32 GiB",
            "GPU 1 (Fake H100) has 1 GiB of 80 GiB free",
        ],
    ),
    (
        "MIG without instances",
        [gpu(0, "mig")],
        {"gpu": 1},
        {},
        ["GPU 0 is in MIG mode, which can't be used whole, and has no instance", "nvidia-smi mig -cgi"],
    ),
    (
        "MIG instances don't add up unnamed",
        [gpu(0, "mig"), mig(0, 0), mig(0, 1)],
        {"gpu": 2},
        {},
        ["GPU 0 is in MIG mode", f"GPU 0 MIG 1 {mig_uuid(1)}", "name instances in $CUDA_VISIBLE_DEVICES"],
    ),
    (
        "MIG instance too small",
        [gpu(0, "mig"), mig(0, 0)],
        {"gpu": 1, "gpu_memory": "40Gi"},
        {},
        ["GPU 0 MIG 0 (Fake H100 MIG 2g.20gb) has 20 GiB of 20 GiB free"],
    ),
    (
        "the GPU that an instance is of, by number",
        [gpu(0, "mig"), mig(0, 0)],
        {"gpu": 1},
        {"CUDA_VISIBLE_DEVICES": "0"},
        ["$CUDA_VISIBLE_DEVICES is '0'", mig_uuid(0)],
    ),
    (
        "no access to one device",
        [gpu(0), gpu(1, "error=4")],
        {"gpu": 2},
        {},
        ["1 of 2 can be used: GPU 1: Insufficient Permissions", "let this user open /dev/nvidia*"],
    ),
]


@pytest.mark.parametrize(
    ("lines", "resources", "env", "said"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_refusals(
    machine: Machine, tmp_path: Path, lines: list[str], resources: dict[str, Any], env: dict[str, str], said: list[str]
) -> None:
    machine.has(*lines)
    done = attempt(machine, tmp_path, resources, env)
    assert (done.code, done.record["class"], done.stdout) == (76, "placement", b""), done.errors
    message = done.record["message"]
    assert [part for part in said if part not in message] == [], message
    assert "\n" not in message
    assert "Traceback" not in done.errors


def test_no_library(tmp_path: Path) -> None:
    done = run("--config", str(one(tmp_path, {"gpu": 1})), "--step", "s", cwd=tmp_path)
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("there is a real driver here")
    assert (done.code, done.record["class"]) == (76, "placement")
    assert "no libnvidia-ml.so.1 here" in done.record["message"]
    assert "there is no /dev/nvidia* either" in done.record["message"]


def test_no_package(machine: Machine, tmp_path: Path) -> None:
    machine.has(gpu(0))
    hidden = write(tmp_path / "hidden", {"pynvml.py": "raise ImportError('not installed')"})
    done = attempt(machine, tmp_path, {"gpu": 1}, {"PYTHONPATH": str(hidden)})
    assert (done.code, done.record["class"]) == (76, "placement")
    assert "nvidia-ml-py" in done.record["message"]


@pytest.mark.parametrize("code", [15, 16, 10, 999])
def test_a_broken_device_is_infra_since_another_machine_may_do(machine: Machine, tmp_path: Path, code: int) -> None:
    machine.has(gpu(0, f"error={code}"), gpu(1))
    done = attempt(machine, tmp_path, {"gpu": 2})
    assert (done.code, done.record["class"]) == (69, "infra")
    assert "1 of 2 can be used: GPU 0: " in done.record["message"]
    assert f"(NVML error {code})" in done.record["message"]


def test_a_broken_device_is_passed_over(machine: Machine, tmp_path: Path) -> None:
    machine.has(gpu(0, "error=15"), gpu(1))
    done = attempt(machine, tmp_path, {"gpu": 1})
    assert (done.code, done.stdout.decode().strip()) == (0, f"{uuid(1)}|PCI_BUS_ID"), done.errors


@pytest.mark.parametrize(
    ("lines", "resources", "env", "chosen"),
    [
        ([gpu(0)], {"gpu": 1}, {}, [uuid(0)]),
        ([gpu(0, free=GIB), gpu(1), gpu(2)], {"gpu": 1}, {}, [uuid(1)]),  # of equals the first
        ([gpu(0, free=5 * GIB), gpu(1, free=GIB), gpu(2)], {"gpu": 2}, {}, [uuid(0), uuid(2)]),  # in PCI order
        ([gpu(0, free=GIB), gpu(1, free=9 * GIB)], {"gpu": 1, "gpu_memory": "8Gi"}, {}, [uuid(1)]),
        ([gpu(0), gpu(1), gpu(2)], {"gpu": 1}, {"CUDA_VISIBLE_DEVICES": "2,1"}, [uuid(2)]),  # the first of these
        ([gpu(0), gpu(1)], {"gpu": 1}, {"CUDA_VISIBLE_DEVICES": "GPU-00000001"}, [uuid(1)]),
        ([gpu(0), gpu(1)], {"gpu": 1}, {"CUDA_VISIBLE_DEVICES": "1,9,0"}, [uuid(1)]),  # CUDA reads up to what is none
        ([gpu(0)], {"gpu": 1}, {"NVIDIA_VISIBLE_DEVICES": "void"}, [uuid(0)]),  # what CDI sets beside the devices it gives
        ([gpu(0)], {"gpu": 1}, {"NVIDIA_VISIBLE_DEVICES": "7"}, [uuid(0)]),  # the host's number
        ([gpu(0), "cuda 12020"], {"gpu": 1}, {"CUDA_VERSION": "12.8.1"}, [uuid(0)]),  # minor version compatibility
        ([gpu(0), "cuda 13000"], {"gpu": 1, "cuda": "12.4"}, {"CUDA_VERSION": "12.4"}, [uuid(0)]),
        ([gpu(0)], {"gpu": 1}, {"CUDA_VERSION": "unknown"}, [uuid(0)]),
        ([gpu(0, total=-1, free=-1)], {"gpu": 1, "gpu_memory": "8Gi"}, {}, [uuid(0)]),  # shares the machine's memory
        ([gpu(0, "mig"), mig(0, 0, free=GIB), mig(0, 1)], {"gpu": 1}, {}, [mig_uuid(1)]),
        ([gpu(0, "mig"), mig(0, 0), gpu(1, free=GIB)], {"gpu": 1}, {}, [uuid(1)]),  # a whole one first
        ([gpu(0, "mig"), mig(0, 0), mig(0, 1)], {"gpu": 1}, {"CUDA_VISIBLE_DEVICES": mig_uuid(0)}, [mig_uuid(0)]),
        (
            [gpu(0, "mig"), mig(0, 0), mig(0, 1), mig(0, 2)],
            {"gpu": 2, "gpu_memory": "20Gi"},
            {"NVIDIA_VISIBLE_DEVICES": f"{mig_uuid(2)},{mig_uuid(1)}"},
            [mig_uuid(1), mig_uuid(2)],
        ),
    ],
)
def test_which_devices_a_step_gets(
    machine: Machine, tmp_path: Path, lines: list[str], resources: dict[str, Any], env: dict[str, str], chosen: list[str]
) -> None:
    machine.has(*lines)
    done = attempt(machine, tmp_path, resources, env)
    assert done.code == 0, done.errors
    assert done.stdout.decode().strip() == f"{','.join(chosen)}|PCI_BUS_ID"
    [record] = results(tmp_path, "r", "s")
    assert [device["uuid"] for device in record["usage"]["gpus"]] == chosen


def test_who_asks_for_none_sees_none(machine: Machine, tmp_path: Path) -> None:
    machine.has(gpu(0))
    done = attempt(machine, tmp_path, {"gpu": 0}, {"CUDA_VISIBLE_DEVICES": "0"})
    assert (done.code, done.stdout) == (0, b"|\n")
    assert "gpus" not in results(tmp_path, "r", "s")[0]["usage"]


@pytest.mark.parametrize("where", ["step", "top"])
def test_the_config_may_say_itself_what_is_seen(machine: Machine, tmp_path: Path, where: str) -> None:
    machine.has(gpu(0), gpu(1))
    env = {"CUDA_VISIBLE_DEVICES": "1"}
    path = config(
        tmp_path,
        steps={
            "s": {"run": SHOW, **({"env": env} if where == "step" else {})},
            "t": {"run": SHOW, "resources": {"gpu": 1}, "env": env},
        },
        **({"env": env} if where == "top" else {}),
    )
    for step in ("s", "t"):
        done = run("--config", str(path), "--step", step, cwd=tmp_path, ZEN_RUNNER_RUN_ID="r", env=machine.env)
        assert (done.code, done.stdout.decode()[:2]) == (0, "1|"), done.errors
    assert [device["uuid"] for device in results(tmp_path, "r", "t")[0]["usage"]["gpus"]] == [uuid(1)]


def test_a_config_that_hides_what_its_step_asks_for(machine: Machine, tmp_path: Path) -> None:
    machine.has(gpu(0))
    path = one(tmp_path, {"gpu": 1}, env={"CUDA_VISIBLE_DEVICES": ""})
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, env=machine.env)
    assert (done.code, done.record["class"]) == (76, "placement")
    assert "$CUDA_VISIBLE_DEVICES is ''" in done.record["message"]


def test_a_call_step_with_the_training_backend(machine: Machine, tmp_path: Path) -> None:
    machine.has(gpu(0))
    write(tmp_path, train_py="import os\n\ndef fit(model):\n    model.write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n")
    backend = {"type": "training", "source": "local"}
    step = {"call": "train:fit", "outputs": ["model"], "resources": {"gpu": 1}, "backend": backend}
    path = config(tmp_path, steps={"fit": step, "show": {"run": ["cat", "{inputs.model}"], "inputs": {"model": "fit.model"}}})
    done = run("run", "--config", str(path), "--quiet", cwd=tmp_path, env=machine.env)
    assert done.code == 0, done.errors
    assert uuid(0) in done.stdout.decode()


def test_peaks_of_memory_and_utilisation_are_in_the_record(machine: Machine, tmp_path: Path) -> None:
    machine.has(gpu(0), gpu(1, free=GIB))
    record = tmp_path / "store" / "runs" / "r" / "s" / "1"
    path = one(tmp_path, {"gpu": 2}, run=["sleep", "60"], timeout=60)
    started = start("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r", **machine.env)
    wait_until(lambda: _child(started.pid), subject="the step")
    pid = _child(started.pid)

    def looks(lines: list[str], condition: Any) -> None:
        machine.has(*lines)
        wait_until(lambda: condition(_beat(record)), subject=f"a heartbeat after {lines}")

    looks(
        [gpu(0, f"pid={pid}:{30 * GIB}", "pid=1:5", free=40 * GIB, util=90), gpu(1, free=60 * GIB, util=10)],
        lambda gpus: gpus and gpus[0]["utilisation_peak"] == 90 and gpus[0]["memory_peak"] == 30 * GIB,
    )
    looks(
        [gpu(0, f"pid={pid}:{10 * GIB}", free=70 * GIB, util=20), gpu(1, "pid=1:7", free=75 * GIB, util=30)],
        lambda gpus: gpus[1]["utilisation_peak"] == 30,
    )
    os.kill(started.pid, signal.SIGTERM)
    assert end(started).code == 143
    [first, second] = results(tmp_path, "r", "s")[0]["usage"]["gpus"]
    assert (first["uuid"], first["name"], first["memory_total"]) == (uuid(0), "Fake H100", 80 * GIB)
    assert (first["memory_peak"], first["memory_of"], first["utilisation_peak"]) == (30 * GIB, "step", 90)
    assert 20 <= first["utilisation_mean"] < 90
    # Of the second, NVML names no process of the step, so its figure is the whole device's. It was full at the start.
    assert (second["memory_of"], second["utilisation_peak"]) == ("device", 30)
    assert second["memory_peak"] >= 20 * GIB


def _child(pid: int) -> int | None:
    """Return the process whose parent this is, by /proc."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                return int(entry.name)
        except OSError:
            continue  # it has ended meanwhile
    return None


def _beat(attempt: Path) -> list[dict[str, Any]]:
    """Return the devices of the last heartbeat."""
    try:
        found: list[dict[str, Any]] = json.loads((attempt / "heartbeat.json").read_text())["usage"]["gpus"]
    except (OSError, ValueError, KeyError):
        return []
    return found


def test_a_device_that_goes_away_while_the_step_runs(machine: Machine, tmp_path: Path) -> None:
    machine.has(gpu(0))
    body = f"open({str(machine.path)!r}, 'w').write({gpu(0, 'error=15')!r}); sys.exit(3)"
    path = one(tmp_path, {"gpu": 1}, run=["python3", "-c", f"import sys; {body}"])
    done = run("--config", str(path), "--step", "s", cwd=tmp_path, ZEN_RUNNER_RUN_ID="r", env=machine.env)
    assert (done.code, done.record["class"], done.record["status"]) == (69, "infra", 3)
    assert (
        f"the step lost GPU 0 ({uuid(0)}): GPU is lost (NVML error 15); it ended with: exited with status 3"
        in done.record["message"]
    )
    assert results(tmp_path, "r", "s")[0]["usage"]["gpus"][0]["lost"].startswith("GPU is lost")


def test_a_lost_device_is_retried_on_another(machine: Machine, tmp_path: Path) -> None:
    machine.has(gpu(0), gpu(1))
    broken = "\n".join([gpu(0, "error=15"), gpu(1)])
    script = f"import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES']); open({str(machine.path)!r}, 'w').write({broken!r}); "
    script += f"sys.exit(os.environ['CUDA_VISIBLE_DEVICES'] == {uuid(0)!r})"
    path = config(
        tmp_path, steps={"s": {"run": ["python3", "-c", script], "resources": {"gpu": 1}}}, retry={"limit": 1, "backoff": "10ms"}
    )
    done = run("run", "--config", str(path), "--quiet", "--run-id", "r", cwd=tmp_path, env=machine.env)
    assert done.code == 0, done.errors
    assert [record["class"] for record in results(tmp_path, "r", "s")] == ["infra", "success"]
    assert results(tmp_path, "r", "s")[1]["usage"]["gpus"][0]["uuid"] == uuid(1)


def test_side_by_side_steps_get_a_device_each_and_the_third_waits(machine: Machine, tmp_path: Path) -> None:
    machine.has(gpu(0), gpu(1))
    # Each says what it has, and the first two wait for each other: only steps that run at the same time can end.
    script = (
        'echo "$CUDA_VISIBLE_DEVICES" > "$0/$ZEN_STEP.seen"; i=0; '
        'while [ "$(ls "$0" | grep -c seen)" -lt 2 ] && [ $i -lt 600 ]; do sleep 0.05; i=$((i+1)); done; [ $i -lt 600 ]'
    )
    seen = tmp_path / "seen"
    seen.mkdir()
    steps = {name: {"run": ["sh", "-c", script, str(seen)], "resources": {"gpu": 1}} for name in ("a", "b", "c")}
    backend = {"type": "orchestrator", "source": "local", "args": {"max_parallel": 3}}
    path = config(tmp_path, steps=steps, backend=backend, retry={"limit": 0})
    done = run("run", "--config", str(path), "--quiet", "--run-id", "r", cwd=tmp_path, env=machine.env)
    assert done.code == 0, done.errors
    spans = {}
    for name in steps:
        [record] = results(tmp_path, "r", name)
        spans[name] = record["usage"]["gpus"][0]["uuid"], record["started"], record["ended"]
    assert {spans["a"][0], spans["b"][0]} == {uuid(0), uuid(1)}
    assert spans["c"][1] >= min(spans["a"][2], spans["b"][2])  # it began when one had ended


def test_a_step_that_waits_for_a_device_can_be_stopped(machine: Machine, tmp_path: Path) -> None:
    machine.has(gpu(0))
    go = tmp_path / "running"
    steps = {
        "a": {"run": ["sh", "-c", f"touch {go}; sleep 60"], "resources": {"gpu": 1}},
        "b": {"run": ["true"], "resources": {"gpu": 1}},
    }
    backend = {"type": "orchestrator", "source": "local", "args": {"max_parallel": 2}}
    path = config(tmp_path, steps=steps, backend=backend, retry={"limit": 0})
    started = start("run", "--config", str(path), "--output", "json", "--run-id", "r", cwd=tmp_path, **machine.env)
    wait_until(go.exists, subject="the first step")
    os.kill(started.pid, signal.SIGTERM)
    done = end(started)
    assert done.code == 143, done.errors
    assert results(tmp_path, "r", "b") == []  # it never began


def test_doctor_tells_of_the_devices(machine: Machine, tmp_path: Path) -> None:
    machine.has(gpu(0, free=9 * GIB), gpu(1, "mig"), mig(1, 0), gpu(2, "error=15"), "driver 580.65.06", "cuda 13000")
    done = run("doctor", "--output", "json", cwd=tmp_path, env=machine.env)
    [finding] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "gpu"]
    detail = finding["detail"]
    assert finding["state"] == "warn"
    for part in (
        "driver 580.65.06, CUDA 13.0",
        "GPU 0 (Fake H100) has 9 GiB of 80 GiB free",
        "GPU 1 is in MIG mode",
        "GPU 1 MIG 0 (Fake H100 MIG 2g.20gb) has 20 GiB",
        "GPU 2: GPU is lost (NVML error 15)",
    ):
        assert part in detail, detail
    machine.has(gpu(0))
    done = run("doctor", "--output", "json", "--config", str(one(tmp_path, {"gpu": 2})), cwd=tmp_path, env=machine.env)
    [finding] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "gpu"]
    assert (finding["state"], "step 's' asks for more" in finding["detail"]) == ("warn", True), finding


def test_nothing_of_nvml_is_loaded_where_no_gpu_is_asked_for(machine: Machine, tmp_path: Path) -> None:
    machine.has("init 9")
    trap = write(tmp_path / "trap", {"pynvml.py": "raise SystemExit('loaded')"})
    done = attempt(machine, tmp_path, {"gpu": 0}, {"PYTHONPATH": str(trap)})
    assert done.code == 0, done.errors
