"""Checks of what the steps may use: memory, CPU, GPUs."""

from __future__ import annotations

import os

from backends import errors
from backends.text import memory_in_words
from entrypoint.cli.doctor.finding import NOT_APPLICABLE, OK, WARN, Finding, Place, read_or_empty
from entrypoint.runtime import cgroup
from entrypoint.runtime.gpu import inventory


def check_cgroup(place: Place) -> Finding:
    """Check whether the memory that steps ask for is within the control group's limit."""
    group = cgroup.memory()
    if group is None:
        fix = "mount /sys/fs/cgroup; without a memory group, running out of memory reads as a plain kill"
        return Finding("cgroup", WARN, "no memory group was found", fix)
    memory, cpu = group.limit(), _cpu_limit()
    cores = len(os.sched_getaffinity(0))
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    usable = min(memory or machine, machine)
    memory_words = f"{memory_in_words(memory)} limit" if memory else f"unlimited of {memory_in_words(machine)}"
    cpu_words = f"{cpu:g} limit" if cpu else f"unlimited of {cores} cores"
    detail = f"version {group.version}, memory {memory_words}, cpu {cpu_words}"
    if too_large := place.needing(lambda step: (step["resources"]["memory"] or 0) > usable):
        return Finding("cgroup", WARN, f"{detail}; {too_large} asks for more memory", "raise the limit, or run it elsewhere")
    return Finding("cgroup", OK, detail)


def check_gpu(place: Place) -> Finding:
    """Check whether there are the GPUs that steps ask for, and whether they can be used."""
    fix = "docker run --gpus all, with NVIDIA's container toolkit on the host"
    needed = place.needing(lambda step: step["resources"]["gpu"])
    try:
        stock = inventory.take_stock(place.environ)
    except errors.ZenRunnerError as error:
        why, _, cure = str(error).rpartition("; ")
        if needed:
            return Finding("gpu", WARN, f"no GPU here, and {needed} asks for one: {why}", cure)
        if inventory.nodes():
            return Finding("gpu", WARN, why, cure)
        return Finding("gpu", NOT_APPLICABLE, "no GPU here, and none is asked for")
    inventory.put_away()
    cuda = f"CUDA {stock.cuda[0]}.{stock.cuda[1]}" if stock.cuda else "CUDA unknown: no libcuda.so.1"
    parts = [
        *(gpu.describe() for gpu in stock.gpus),
        *(f"{label} is in MIG mode" for label, _ in stock.parents.values()),
        *(f"{label}: {error} (NVML error {error.value})" for label, error in stock.lost),
    ]
    detail = f"driver {stock.driver}, {cuda}; {'; '.join(parts) or 'no device'}"
    if stock.lost:
        return Finding("gpu", WARN, detail, "reset it (nvidia-smi --gpu-reset), or let this user open /dev/nvidia*")
    if more := place.needing(lambda step: step["resources"]["gpu"] > len(stock.gpus)):
        return Finding("gpu", WARN, f"{detail}; {more} asks for more", fix)
    if not stock.gpus:
        return Finding("gpu", WARN, detail, "make an instance (nvidia-smi mig -cgi PROFILE -C)" if stock.parents else fix)
    if stock.cuda is None:
        return Finding("gpu", WARN, detail, "add `compute` to NVIDIA_DRIVER_CAPABILITIES")
    return Finding("gpu", OK, detail)


def _cpu_limit() -> float | None:
    """Return the cgroup's limit in cores, or None.

    Source: the kernel's cgroup-v2.rst (cpu.max) and sched-bwc.rst (cpu.cfs_quota_us).
    """
    for line in read_or_empty("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller not in ("", "cpu"):
                continue
            base = os.path.join(cgroup.ROOT, controller).rstrip("/")
            # In a container the path can be the host's while only the container's own group is mounted.
            for directory in (base + path.rstrip("/"), base):
                quota, _, period = read_or_empty(f"{directory}/cpu.max").partition(" ")
                quota = quota or read_or_empty(f"{directory}/cpu.cfs_quota_us")
                period = period or read_or_empty(f"{directory}/cpu.cfs_period_us")
                if quota.isdigit() and period.isdigit():
                    return int(quota) / int(period)
    return None
