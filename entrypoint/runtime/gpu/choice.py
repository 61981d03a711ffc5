"""Which GPUs a step gets."""

from __future__ import annotations

from backends.errors import InfraError, PlacementError
from backends.text import memory_in_words
from entrypoint.runtime.gpu.inventory import (
    DRIVERS,
    GET_ONE,
    LOST,
    NO_LIBRARY,
    RESET,
    TOOLKIT,
    VISIBLE,
    class_of,
    cure,
    put_away,
    take_stock,
    toolkit_says,
    version,
    words,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from entrypoint.runtime.gpu.inventory import Gpu, Inventory


class Busy(PlacementError):
    """There are enough devices, but steps of this process have them for now."""


def named(text: str, stock: Inventory) -> list[Gpu]:
    """Return the devices that a value of ``CUDA_VISIBLE_DEVICES`` names, as CUDA reads it: up to the first that is none.

    A number counts the GPUs in PCI order.
    """
    found: list[Gpu] = []
    for entry in text.split(","):
        entry = entry.strip()
        if entry.isascii() and entry.isdigit():
            one = stock.indices.get(int(entry))
        else:
            fitting = [gpu for gpu in stock.gpus if gpu.uuid.startswith(entry)] if entry.startswith(("GPU-", "MIG-")) else []
            one = fitting[0] if len(fitting) == 1 else None
        if one is None or one in found:
            break
        found.append(one)
    return found


def choose(
    step: str,
    wanted: Mapping[str, Any],
    stock: Inventory,
    visible: str | None,
    environ: Mapping[str, str],
    held: Iterable[str] = (),
) -> list[Gpu]:
    """Return the devices for a step, in PCI order: of those that fit the ones with the most free memory.

    Args:
        step: its name, for messages.
        wanted: its ``resources``.
        stock: what NVML shows.
        visible: ``CUDA_VISIBLE_DEVICES`` as the step would see it; None if it is not set.
        environ: the container's environment.
        held: the UUIDs that steps of this process have.

    Raises:
        PlacementError: something that it needs is not here.
        InfraError: too few devices are left because some are broken.
        Busy: it would be here, if other steps of this process had not got it.
    """
    count, place = wanted["gpu"], f"steps.{step}.resources"
    asks = f"{place}.gpu asks for {count}"
    candidates = _candidates(count, stock, visible, environ)
    if len(candidates) < count:
        raise _too_few(asks, count, candidates, stock, visible, environ)
    _check_cuda(place, wanted.get("cuda"), stock, environ)
    need = wanted.get("gpu_memory") or 0
    fitting = [gpu for gpu in candidates if gpu.free is None or gpu.free >= need]
    taken = frozenset(held)
    free = [gpu for gpu in fitting if gpu.uuid not in taken]
    if len(free) >= count:
        best = sorted(free, key=lambda gpu: (gpu.is_mig, -(gpu.free or 0)))[:count]
        return [gpu for gpu in stock.gpus if gpu in best]
    later = [gpu for gpu in candidates if gpu.uuid in taken and (gpu.total is None or gpu.total >= need)]
    if len(free) + len(later) >= count:
        raise Busy(f"{asks}, and other steps of this run have them")
    raise PlacementError(
        f"{place}.gpu_memory asks for {memory_in_words(need)} free on {count} GPU{'s' if count > 1 else ''}, and {len(free)} "
        f"{'has' if len(free) == 1 else 'have'} it: {'; '.join(_describe(gpu) for gpu in candidates)}"
        "; wait for who uses it, use a larger GPU, or ask for less"
    )


def _candidates(count: int, stock: Inventory, visible: str | None, environ: Mapping[str, str]) -> list[Gpu]:
    if visible is not None:
        return named(visible, stock)
    given = [entry.strip() for entry in environ.get(TOOLKIT, "").split(",")]
    if any(entry.startswith("MIG-") for entry in given):  # by UUID, which means the same inside the container and outside
        return [gpu for gpu in stock.gpus if gpu.uuid in given]
    # CUDA gives a process one instance and no more, so nobody is given several who did not name them.
    return [gpu for gpu in stock.gpus if count == 1 or not gpu.is_mig]


def _too_few(
    asks: str, count: int, candidates: list[Gpu], stock: Inventory, visible: str | None, environ: Mapping[str, str]
) -> PlacementError | InfraError:
    """Return the error that says where the missing devices are."""
    whole = [gpu for gpu in stock.gpus if not gpu.is_mig]
    instances = [gpu for gpu in stock.gpus if gpu.is_mig]
    if visible is not None and len(_candidates(count, stock, None, environ)) >= count:
        lost = "" if visible.strip() else ", which hides all"
        return PlacementError(
            f"{asks}, and ${VISIBLE} is {visible!r}{lost}: {len(candidates)} of the {len(whole) + len(instances)} devices here "
            f"{'is' if len(candidates) == 1 else 'are'} visible; unset it, or name {count} that are here: "
            + ", ".join(gpu.uuid for gpu in stock.gpus[:8])
        )
    if stock.lost and len(whole) + len(stock.lost) >= count:
        what = "; ".join(f"{label}: {words(error)}" for label, error in stock.lost)
        return class_of(stock.lost[0][1])(
            f"{asks}, and {len(candidates)} of {len(whole) + len(stock.lost)} can be used: {what}; {cure(stock.lost[0][1])}"
        )
    here = f"{asks}, and {len(whole)} NVIDIA GPU{' is' if len(whole) == 1 else 's are'} here"
    if stock.parents:
        labels = ", ".join(label for label, _ in stock.parents.values())
        mode = f"{here}; {labels} {'is' if len(stock.parents) == 1 else 'are'} in MIG mode, which can't be used whole"
        if instances:
            names = ", ".join(f"{gpu.label} {gpu.uuid}" for gpu in instances)
            return PlacementError(f"{mode}; ask for one GPU, or name instances in ${VISIBLE}: {names}")
        return PlacementError(
            f"{mode}, and has no instance that is visible here; make one (nvidia-smi mig -cgi PROFILE -C), "
            "or end the mode (nvidia-smi -mig 0)"
        )
    given = environ.get(TOOLKIT)
    if given is not None and given != "all" and not whole:
        return PlacementError(f"{here}, since ${TOOLKIT} is {given!r}, which hides them; start it with `all`: {GET_ONE}")
    if given is not None and given != "all":
        return PlacementError(f"{here}{toolkit_says(environ)}; give the container more, or ask for less")
    return PlacementError(f"{here}; " + ("use a larger machine, or ask for less" if whole else f"start it with a GPU: {GET_ONE}"))


def _check_cuda(place: str, asked: str | None, stock: Inventory, environ: Mapping[str, str]) -> None:
    """Compare the driver with what the step asks for, and with the image's own CUDA.

    What is asked for counts to the minor version. The image's CUDA runs on any driver of its major version, as NVIDIA promises
    since CUDA 11 (minor version compatibility), and on every later driver.
    """
    image = version(environ.get("CUDA_VERSION", ""))
    wanted = version(asked) if asked else None
    driver = f"the driver here ({stock.driver})"
    error: Any = stock.cuda_error
    if error is not None and error.value == NO_LIBRARY:
        given = environ.get("NVIDIA_DRIVER_CAPABILITIES")
        raise PlacementError(
            f"{place}.gpu: no libcuda.so.1 here, without which no CUDA program starts; NVIDIA_DRIVER_CAPABILITIES is "
            f"{'not set' if given is None else repr(given)}: add `compute`, and start the container anew"
        )
    if image is None and wanted is None:
        return
    if stock.cuda is None:
        raise PlacementError(f"{place}.gpu: {driver} does not say which CUDA it supports: {error and words(error)}; update it")
    supports = f"{stock.cuda[0]}.{stock.cuda[1]}"
    if wanted is not None and stock.cuda < wanted:
        raise PlacementError(
            f"{place}.cuda asks for CUDA {asked}, and {driver} supports {supports}; update the driver, or ask for {supports}"
        )
    if image is not None and stock.cuda[0] < image[0]:
        least = DRIVERS.get(image[0])
        raise PlacementError(
            f"{place}.gpu: the image has CUDA {image[0]}.{image[1]} ($CUDA_VERSION), and {driver} supports {supports}; "
            f"update the driver{f' to {least} or later' if least else ''}, or use an image with CUDA {stock.cuda[0]}"
        )


def _describe(gpu: Gpu) -> str:
    import pynvml

    try:
        who = [f"pid {pid}{_program(pid)}{f' {memory_in_words(used)}' if used else ''}" for pid, used in users(gpu)[:4]]
    except pynvml.NVMLError:
        who = []
    return gpu.describe() + (f", used by {', '.join(who)}" if who else "")


def _program(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f" ({file.read().strip()})"
    except OSError:
        return ""  # of another container


def users(gpu: Gpu) -> list[tuple[int, int | None]]:
    """Return (pid, bytes or None) of the processes on a device, largest first, as far as NVML tells from here."""
    import pynvml

    found: dict[int, int | None] = {}
    for ask in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            for process in ask(gpu.handle):
                found[process.pid] = process.usedGpuMemory if process.usedGpuMemory is not None else found.get(process.pid)
        except pynvml.NVMLError as error:
            if error.value in (LOST, RESET):
                raise
    return sorted(found.items(), key=lambda item: -(item[1] or 0))


def is_busy(step: str, wanted: Mapping[str, Any], visible: str | None, environ: Mapping[str, str], held: Iterable[str]) -> bool:
    """Return whether a step has to wait for devices that other steps here have; every other trouble is for ``Claim``."""
    try:
        stock = take_stock(environ)
    except (PlacementError, InfraError):
        return False
    try:
        choose(step, wanted, stock, visible, environ, held)
    except Busy:
        return True
    except (PlacementError, InfraError):
        return False
    finally:
        put_away()
    return False
