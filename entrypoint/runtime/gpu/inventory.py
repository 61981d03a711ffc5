"""Which GPUs there are."""

from __future__ import annotations

import os

from backends.errors import InfraError, PlacementError
from backends.text import memory_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


VISIBLE = "CUDA_VISIBLE_DEVICES"
TOOLKIT = "NVIDIA_VISIBLE_DEVICES"
LIBRARY = "libnvidia-ml.so.1"
DRIVERS = {11: "450", 12: "525", 13: "580"}  # the first driver of each CUDA major that runs all of its minors
GET_ONE = "docker run --gpus all, with NVIDIA's container toolkit on the host; on Kubernetes a limit of nvidia.com/gpu"
# NVML's error codes, by number: they are the same in all versions of the package.
_NOT_SUPPORTED, _NO_PERMISSION, _NO_DRIVER, NO_LIBRARY, _NO_FUNCTION, LOST, RESET, _MISMATCH = 3, 4, 9, 12, 13, 15, 16, 18
# A broken machine, not a step in the wrong place: what another machine, or the same one later, may well do. So it is retried.
_BROKEN = frozenset((10, 11, LOST, RESET, 17, 20, 23, 27, 999))


class Gpu:
    """One device that a step can be given: a whole GPU, or a MIG instance of one.

    Args:
        handle: NVML's.
        label: how people know it: ``GPU 0``, or ``GPU 0 MIG 1``.
        uuid: as CUDA takes it.
        name: the model.
        total: bytes of memory; None where NVML doesn't say.
        free: bytes of it that are free now; None where NVML doesn't say.
        is_mig: it is an instance.
    """

    __slots__ = ("free", "handle", "is_mig", "label", "lost", "name", "peak", "rates", "total", "used", "uuid")

    def __init__(
        self, handle: Any, label: str, uuid: str, name: str, total: int | None, free: int | None, is_mig: bool = False
    ) -> None:
        self.handle = handle
        self.label = label
        self.uuid = uuid
        self.name = name
        self.total = total
        self.free = free
        self.is_mig = is_mig
        self.lost: str | None = None
        self.peak: int | None = None  # bytes that the step's own processes had at most
        self.used: int | None = None  # bytes that anybody had at most
        self.rates: tuple[int, int, int] = (0, 0, 0)  # how many, their sum, the highest; percent

    def describe(self) -> str:
        """Return the device in words."""
        if self.total is None or self.free is None:
            return f"{self.label} ({self.name})"
        return f"{self.label} ({self.name}) has {memory_in_words(self.free)} of {memory_in_words(self.total)} free"


class Inventory:
    """What NVML shows.

    Attributes:
        driver: the driver's version, such as ``550.54.14``.
        cuda: the CUDA version that it supports as (major, minor); None if it doesn't say.
        cuda_error: why it doesn't.
        gpus: the devices in PCI order, instances after the GPUs.
        parents: GPUs in MIG mode, by index: label and UUID.
        lost: label and error of every device that could not be read.
    """

    def __init__(self) -> None:
        self.driver = ""
        self.cuda: tuple[int, int] | None = None
        self.cuda_error: BaseException | None = None
        self.gpus: list[Gpu] = []
        self.indices: dict[int, Gpu] = {}
        self.parents: dict[int, tuple[str, str]] = {}
        self.lost: list[tuple[str, Any]] = []


def version(text: str) -> tuple[int, int] | None:
    """Return ``12.4`` or ``12.4.1`` as (12, 4), and None for what is no version."""
    parts = text.strip().split(".")
    if not all(part.isascii() and part.isdigit() for part in parts[:2]):
        return None
    return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0


def take_stock(environ: Mapping[str, str]) -> Inventory:
    """Return what NVML shows; it stays open, and ``put_away`` closes it.

    Args:
        environ: the container's environment, for the reasons.

    Raises:
        PlacementError: there is no NVML, no driver, or no access.
        InfraError: they are there, and broken.
    """
    nvml = _open(environ)
    found = Inventory()
    try:
        found.driver = nvml.nvmlSystemGetDriverVersion()
        _ask_cuda(nvml, found)
        for index in range(nvml.nvmlDeviceGetCount()):
            label = f"GPU {index}"
            try:
                _look_at(nvml, found, index, label)
            except nvml.NVMLError as error:
                found.lost.append((label, error))
    except nvml.NVMLError as error:
        put_away()
        raise class_of(error)(f"NVML does not answer: {words(error)}; {cure(error)}") from error
    found.gpus.sort(key=lambda gpu: gpu.is_mig)
    return found


def put_away() -> None:
    """Close NVML once more; the last of as many as were opened ends it."""
    import pynvml

    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        pass  # it is gone either way


def _open(environ: Mapping[str, str]) -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise PlacementError(
            "GPUs are looked at through the package nvidia-ml-py, which is not installed beside zen-runner; install it"
        ) from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise class_of(error)(_why_closed(error, environ)) from error
    return pynvml


def _why_closed(error: Any, environ: Mapping[str, str]) -> str:
    has_nodes = nodes()
    if error.value == NO_LIBRARY:
        why = f"no {LIBRARY} here, which comes with NVIDIA's driver"
        why += f", though /dev has {', '.join(has_nodes)}" if has_nodes else " and there is no /dev/nvidia* either"
        wanted = environ.get("NVIDIA_DRIVER_CAPABILITIES", "")
        if has_nodes and wanted and not {"all", "utility"} & set(wanted.split(",")):
            return f"{why}; NVIDIA_DRIVER_CAPABILITIES is {wanted!r}: add `utility`, which brings that library, and `compute`"
        return f"{why}{toolkit_says(environ)}; start it with a GPU: {GET_ONE}"
    if error.value == _NO_DRIVER:
        if has_nodes:
            return f"{LIBRARY} is here but NVIDIA's driver is not loaded; load it on the host (modprobe nvidia)"
        why = f"{LIBRARY} is here but no driver, and there is no /dev/nvidia*"
        return f"{why}{toolkit_says(environ)}; start it with a GPU: {GET_ONE}"
    return f"NVML does not start: {words(error)}; {cure(error)}"


def nodes() -> list[str]:
    """Return the names of NVIDIA's device nodes."""
    try:
        return sorted(name for name in os.listdir("/dev") if name.startswith("nvidia"))
    except OSError:
        return []


def toolkit_says(environ: Mapping[str, str]) -> str:
    """Return what the container runtime's variable has to do with it, as a part of a sentence."""
    given = environ.get(TOOLKIT)
    if given is None or given == "all":
        return ""
    return f", and ${TOOLKIT} is {given!r}"


def words(error: Any) -> str:
    return f"{error} (NVML error {error.value})"


def cure(error: Any) -> str:
    return {
        _NO_PERMISSION: "let this user open /dev/nvidia*",
        _MISMATCH: "the driver was updated while it was loaded: restart the container, or the host",
        LOST: "the GPU fell off the bus: reset it, or use another machine",
        RESET: "reset it (nvidia-smi --gpu-reset), or use another machine",
    }.get(error.value, "nvidia-smi on the host may tell more")


def class_of(error: Any) -> type[PlacementError | InfraError]:
    return InfraError if error.value in _BROKEN else PlacementError


def _ask_cuda(nvml: Any, found: Inventory) -> None:
    """Ask for the CUDA version: that of libcuda as a program here would load it, forward compatibility packages included."""
    number = 0
    try:
        number = nvml.nvmlSystemGetCudaDriverVersion_v2()
    except nvml.NVMLError as error:
        if error.value == _NO_FUNCTION:  # drivers before 418
            number = nvml.nvmlSystemGetCudaDriverVersion()
        else:
            found.cuda_error = error
    if number:
        found.cuda = number // 1000, number % 1000 // 10


def _look_at(nvml: Any, found: Inventory, index: int, label: str) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
    try:
        is_parent = nvml.nvmlDeviceGetMigMode(handle)[0] == 1
    except nvml.NVMLError as error:
        if error.value not in (_NOT_SUPPORTED, _NO_FUNCTION):
            raise
        is_parent = False
    if not is_parent:
        gpu = Gpu(handle, label, uuid, name, *memory(nvml, handle))
        found.gpus.append(gpu)
        found.indices[index] = gpu
        return
    found.parents[index] = label, uuid
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            its_uuid = nvml.nvmlDeviceGetUUID(instance)
            total, free = memory(nvml, instance)
        except nvml.NVMLError as error:
            if error.value in _BROKEN:
                raise
            continue  # no instance has this number
        try:
            its_name = nvml.nvmlDeviceGetName(instance)
        except nvml.NVMLError:
            its_name = f"{name} MIG"
        found.gpus.append(Gpu(instance, f"{label} MIG {number}", its_uuid, its_name, total, free, is_mig=True))


def memory(nvml: Any, handle: Any) -> tuple[int | None, int | None]:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        if error.value == _NOT_SUPPORTED:  # a GPU that shares the machine's memory has none to tell
            return None, None
        raise
    return int(memory.total), int(memory.free)
