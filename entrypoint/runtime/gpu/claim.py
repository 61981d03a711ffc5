"""The GPUs that a step asks for: looked at through NVML before its code loads, chosen, and watched while it runs.

Imported only where GPUs are asked for. NVML is the truth about devices; device nodes and the container runtime's variables only
explain why there are too few.

Source: NVIDIA's NVML API reference; "CUDA environment variables" in the CUDA C++ programming guide; the MIG user guide; NVIDIA
Container Toolkit, "environment variables"; "minor version compatibility" in the CUDA compatibility guide.
"""

from __future__ import annotations

import threading
from time import thread_time

from entrypoint.runtime.gpu.choice import choose, named, users
from entrypoint.runtime.gpu.inventory import LOST, RESET, VISIBLE, put_away, take_stock, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from entrypoint.runtime.child import Process
    from entrypoint.runtime.gpu.inventory import Gpu


EVERY = 1.0  # seconds between two looks at a device
SHARE = 200  # a look may cost a two-hundredth of the time until the next


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
        self._thread = threading.Thread(target=self._watch, args=(process,), name="zen-runner-gpu", daemon=True)
        self._thread.start()

    def _watch(self, process: Process) -> None:
        delay = EVERY
        while not self._over.wait(delay):
            began = thread_time()
            self._sample(process)
            delay = max(EVERY, (thread_time() - began) * SHARE)

    def _sample(self, process: Process) -> None:
        import pynvml

        for gpu in self.gpus:
            if gpu.lost is None:
                try:
                    self._sample_memory(gpu, process, pynvml)
                    self._sample_rate(gpu, pynvml)
                except pynvml.NVMLError as error:
                    gpu.lost = words(error)

    def _sample_memory(self, gpu: Gpu, process: Process, nvml: Any) -> None:
        memory = _quiet(nvml, nvml.nvmlDeviceGetMemoryInfo, gpu.handle)
        if memory is not None:
            gpu.used = max(gpu.used or 0, int(memory.used))
        tree = process.tree
        pids = tree.pids if tree is not None else (process.pid,)
        mine = [used for pid, used in users(gpu) if pid in pids and used is not None]
        if mine:
            gpu.peak = max(gpu.peak or 0, sum(mine))

    def _sample_rate(self, gpu: Gpu, nvml: Any) -> None:
        rates = _quiet(nvml, nvml.nvmlDeviceGetUtilizationRates, gpu.handle)  # not told of MIG instances
        if rates is not None:
            number, total, highest = gpu.rates
            gpu.rates = number + 1, total + rates.gpu, max(highest, rates.gpu)

    def lost(self, process: Process) -> str | None:
        """Look once more, and return which device was lost, in words; None if all are well."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(EVERY)
            if self._thread.is_alive():
                return f"{self.gpus[0].label}: its driver does not answer"
        self._sample(process)
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
        if error.value in (LOST, RESET):
            raise
        return None
