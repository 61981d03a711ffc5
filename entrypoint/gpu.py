"""The GPUs that a step asks for: looked at through NVML before its code loads, chosen, and watched while it runs.

Imported only where GPUs are asked for. NVML is the truth about devices; device nodes and the container runtime's variables only
explain why there are too few.

Source: NVIDIA's NVML API reference; "CUDA environment variables" in the CUDA C++ programming guide; the MIG user guide; NVIDIA
Container Toolkit, "environment variables"; "minor version compatibility" in the CUDA compatibility guide.
"""

from __future__ import annotations

import os
import threading
from time import thread_time

from backends.errors import InfraError, PlacementError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from entrypoint.supervise import Process

VISIBLE = "CUDA_VISIBLE_DEVICES"
TOOLKIT = "NVIDIA_VISIBLE_DEVICES"
LIBRARY = "libnvidia-ml.so.1"
DRIVERS = {11: "450", 12: "525", 13: "580"}  # the first driver of each CUDA major that runs all of its minors
EVERY = 1.0  # seconds between two looks at a device
SHARE = 200  # a look may cost a two-hundredth of the time until the next
_GET_ONE = "docker run --gpus all, with NVIDIA's container toolkit on the host; on Kubernetes a limit of nvidia.com/gpu"
_MIB = 1 << 20

# NVML's error codes, by number: they are the same in all versions of the package.
_NOT_SUPPORTED, _NO_PERMISSION, _NO_DRIVER, _NO_LIBRARY, _NO_FUNCTION, _LOST, _RESET, _MISMATCH = 3, 4, 9, 12, 13, 15, 16, 18
# A broken machine, not a step in the wrong place: what another machine, or the same one later, may well do. So it is retried.
_BROKEN = frozenset((10, 11, _LOST, _RESET, 17, 20, 23, 27, 999))


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
        return f"{self.label} ({self.name}) has {size(self.free)} of {size(self.total)} free"


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


class Busy(PlacementError):
    """There are enough devices, but steps of this process have them for now."""


def size(number: int) -> str:
    """Return bytes in words."""
    return f"{number / (1 << 30):.3g} GiB" if number >= 1 << 30 else f"{number // _MIB} MiB"


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
        raise _class_of(error)(f"NVML does not answer: {_words(error)}; {_cure(error)}") from error
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
        raise _class_of(error)(_why_closed(error, environ)) from error
    return pynvml


def _why_closed(error: Any, environ: Mapping[str, str]) -> str:
    has_nodes = nodes()
    if error.value == _NO_LIBRARY:
        why = f"no {LIBRARY} here, which comes with NVIDIA's driver"
        why += f", though /dev has {', '.join(has_nodes)}" if has_nodes else " and there is no /dev/nvidia* either"
        wanted = environ.get("NVIDIA_DRIVER_CAPABILITIES", "")
        if has_nodes and wanted and not {"all", "utility"} & set(wanted.split(",")):
            return f"{why}; NVIDIA_DRIVER_CAPABILITIES is {wanted!r}: add `utility`, which brings that library, and `compute`"
        return f"{why}{_toolkit_says(environ)}; start it with a GPU: {_GET_ONE}"
    if error.value == _NO_DRIVER:
        if has_nodes:
            return f"{LIBRARY} is here but NVIDIA's driver is not loaded; load it on the host (modprobe nvidia)"
        why = f"{LIBRARY} is here but no driver, and there is no /dev/nvidia*"
        return f"{why}{_toolkit_says(environ)}; start it with a GPU: {_GET_ONE}"
    return f"NVML does not start: {_words(error)}; {_cure(error)}"


def nodes() -> list[str]:
    """Return the names of NVIDIA's device nodes."""
    try:
        return sorted(name for name in os.listdir("/dev") if name.startswith("nvidia"))
    except OSError:
        return []


def _toolkit_says(environ: Mapping[str, str]) -> str:
    """Return what the container runtime's variable has to do with it, as a part of a sentence."""
    given = environ.get(TOOLKIT)
    if given is None or given == "all":
        return ""
    return f", and ${TOOLKIT} is {given!r}"


def _words(error: Any) -> str:
    return f"{error} (NVML error {error.value})"


def _cure(error: Any) -> str:
    return {
        _NO_PERMISSION: "let this user open /dev/nvidia*",
        _MISMATCH: "the driver was updated while it was loaded: restart the container, or the host",
        _LOST: "the GPU fell off the bus: reset it, or use another machine",
        _RESET: "reset it (nvidia-smi --gpu-reset), or use another machine",
    }.get(error.value, "nvidia-smi on the host may tell more")


def _class_of(error: Any) -> type[PlacementError | InfraError]:
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
        gpu = Gpu(handle, label, uuid, name, *_memory(nvml, handle))
        found.gpus.append(gpu)
        found.indices[index] = gpu
        return
    found.parents[index] = label, uuid
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            its_uuid = nvml.nvmlDeviceGetUUID(instance)
            total, free = _memory(nvml, instance)
        except nvml.NVMLError as error:
            if error.value in _BROKEN:
                raise
            continue  # no instance has this number
        try:
            its_name = nvml.nvmlDeviceGetName(instance)
        except nvml.NVMLError:
            its_name = f"{name} MIG"
        found.gpus.append(Gpu(instance, f"{label} MIG {number}", its_uuid, its_name, total, free, is_mig=True))


def _memory(nvml: Any, handle: Any) -> tuple[int | None, int | None]:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        if error.value == _NOT_SUPPORTED:  # a GPU that shares the machine's memory has none to tell
            return None, None
        raise
    return int(memory.total), int(memory.free)


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
        f"{place}.gpu_memory asks for {size(need)} free on {count} GPU{'s' if count > 1 else ''}, and {len(free)} "
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
        what = "; ".join(f"{label}: {_words(error)}" for label, error in stock.lost)
        return _class_of(stock.lost[0][1])(
            f"{asks}, and {len(candidates)} of {len(whole) + len(stock.lost)} can be used: {what}; {_cure(stock.lost[0][1])}"
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
        return PlacementError(f"{here}, since ${TOOLKIT} is {given!r}, which hides them; start it with `all`: {_GET_ONE}")
    if given is not None and given != "all":
        return PlacementError(f"{here}{_toolkit_says(environ)}; give the container more, or ask for less")
    return PlacementError(
        f"{here}; " + ("use a larger machine, or ask for less" if whole else f"start it with a GPU: {_GET_ONE}")
    )


def _check_cuda(place: str, asked: str | None, stock: Inventory, environ: Mapping[str, str]) -> None:
    """Compare the driver with what the step asks for, and with the image's own CUDA.

    What is asked for counts to the minor version. The image's CUDA runs on any driver of its major version, as NVIDIA promises
    since CUDA 11 (minor version compatibility), and on every later driver.
    """
    image = version(environ.get("CUDA_VERSION", ""))
    wanted = version(asked) if asked else None
    driver = f"the driver here ({stock.driver})"
    error: Any = stock.cuda_error
    if error is not None and error.value == _NO_LIBRARY:
        given = environ.get("NVIDIA_DRIVER_CAPABILITIES")
        raise PlacementError(
            f"{place}.gpu: no libcuda.so.1 here, without which no CUDA program starts; NVIDIA_DRIVER_CAPABILITIES is "
            f"{'not set' if given is None else repr(given)}: add `compute`, and start the container anew"
        )
    if image is None and wanted is None:
        return
    if stock.cuda is None:
        raise PlacementError(f"{place}.gpu: {driver} does not say which CUDA it supports: {error and _words(error)}; update it")
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
        who = [f"pid {pid}{_program(pid)}{f' {size(used)}' if used else ''}" for pid, used in users(gpu)[:4]]
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
            if error.value in (_LOST, _RESET):
                raise
    return sorted(found.items(), key=lambda item: -(item[1] or 0))


def is_busy(step: str, wanted: Mapping[str, Any], visible: str | None, environ: Mapping[str, str], held: Iterable[str]) -> bool:
    """Tell whether a step has to wait for devices that other steps of this process have; every other trouble is for ``Claim``."""
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


class Claim:
    """The devices of one attempt, from the check to its end.

    Args:
        step: its name, for messages.
        wanted: its ``resources``.
        visible: ``CUDA_VISIBLE_DEVICES`` as the config or the container has it; None if neither does.
        is_own: the config sets it, so that the step keeps it as it is.
        environ: the container's environment.
        held: the UUIDs that steps of this process have; these devices' are added until ``release``.

    Raises:
        PlacementError: something that the step needs is not here.
        InfraError: it is here, and broken.
    """

    def __init__(
        self,
        step: str,
        wanted: Mapping[str, Any],
        visible: str | None,
        is_own: bool,
        environ: Mapping[str, str],
        held: set[str],
    ) -> None:
        stock = take_stock(environ)
        try:
            self.gpus = choose(step, wanted, stock, visible, environ, () if is_own else held)
            if is_own and visible is not None:
                self.gpus = named(visible, stock)  # the step sees all of them, whatever it asked for
        except BaseException:
            put_away()
            raise
        self._held = held
        self._mine = set() if is_own else {gpu.uuid for gpu in self.gpus}
        held |= self._mine
        self._process: Process | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def variables(self) -> dict[str, str]:
        """Return what makes CUDA see these devices and no others.

        By UUID, which means the same in every order; the order is for programs that compare CUDA's numbers with nvidia-smi's.
        """
        return {VISIBLE: ",".join(gpu.uuid for gpu in self.gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    def watch(self, process: Process) -> None:
        """Look at the devices once a second while the process runs.

        In a thread of its own: a driver in trouble can hold a call for minutes, and stops and timeouts must be served then, too.
        """
        self._process = process
        self._thread = threading.Thread(target=self._watch, name="zen-runner-gpu", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        delay = EVERY
        while not self._over.wait(delay):
            began = thread_time()
            self._sample()
            delay = max(EVERY, (thread_time() - began) * SHARE)

    def _sample(self) -> None:
        import pynvml

        for gpu in self.gpus:
            if gpu.lost is None:
                try:
                    self._sample_memory(gpu, pynvml)
                    self._sample_rate(gpu, pynvml)
                except pynvml.NVMLError as error:
                    gpu.lost = _words(error)

    def _sample_memory(self, gpu: Gpu, nvml: Any) -> None:
        assert self._process is not None
        memory = _quiet(nvml, nvml.nvmlDeviceGetMemoryInfo, gpu.handle)
        if memory is not None:
            gpu.used = max(gpu.used or 0, int(memory.used))
        tree = self._process.tree
        pids = tree.pids if tree is not None else (self._process.pid,)
        mine = [used for pid, used in users(gpu) if pid in pids and used is not None]
        if mine:
            gpu.peak = max(gpu.peak or 0, sum(mine))

    def _sample_rate(self, gpu: Gpu, nvml: Any) -> None:
        rates = _quiet(nvml, nvml.nvmlDeviceGetUtilizationRates, gpu.handle)  # not told of MIG instances
        if rates is not None:
            number, total, highest = gpu.rates
            gpu.rates = number + 1, total + rates.gpu, max(highest, rates.gpu)

    def lost(self) -> str | None:
        """Look once more, and return which device was lost, in words; None if all are well."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(EVERY)
            if self._thread.is_alive():
                return f"{self.gpus[0].label}: its driver does not answer"
        self._sample()
        return next((f"{gpu.label} ({gpu.uuid}): {gpu.lost}" for gpu in self.gpus if gpu.lost), None)

    def usage(self) -> list[dict[str, Any]]:
        """Return what each device was used for, so far."""
        return [
            {
                "uuid": gpu.uuid,
                "name": gpu.name,
                "memory_total": gpu.total,
                "memory_peak": gpu.used if gpu.peak is None else gpu.peak,
                "memory_of": "device" if gpu.peak is None else "step",
                "utilisation_mean": round(gpu.rates[1] / gpu.rates[0], 1) if gpu.rates[0] else None,
                "utilisation_peak": gpu.rates[2] if gpu.rates[0] else None,
                **({"lost": gpu.lost} if gpu.lost else {}),
            }
            for gpu in self.gpus
        ]

    def release(self) -> None:
        """Let other steps have the devices."""
        self._held -= self._mine
        self._mine = set()
        self._over.set()
        if self._thread is not None:
            self._thread.join(EVERY)
        if self._thread is None or not self._thread.is_alive():
            put_away()


def _quiet(nvml: Any, ask: Callable[[Any], Any], handle: Any) -> Any:
    """Return what NVML says, or None where it doesn't; a lost device is an error all the same."""
    try:
        return ask(handle)
    except nvml.NVMLError as error:
        if error.value in (_LOST, _RESET):
            raise
        return None
