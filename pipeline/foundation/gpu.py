"""The GPU of this process as the driver (NVML) sees it: its name and its memory.

Without NVML the worker works as well; then the memory is not known.
"""

import contextlib
import logging
import os

import pynvml

log = logging.getLogger(__name__)


class Gpu:
    """One GPU."""

    def __init__(self, number: int) -> None:
        """`number`: as CUDA counts them, which NVML may do otherwise: the one that this process computes on is
        taken, once it does."""
        self._number = number
        self._handle: object = None
        self.name = f"GPU {number}"
        try:
            pynvml.nvmlInit()
            self._handle = self._find()
            self.name = pynvml.nvmlDeviceGetName(self._handle)
        except pynvml.NVMLError as error:
            log.warning("the memory of %s cannot be read: %s", self.name, error)

    def _find(self) -> object:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            with contextlib.suppress(pynvml.NVMLError):  # some drivers do not say who computes there
                if any(user.pid == os.getpid() for user in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)):
                    return handle
        return pynvml.nvmlDeviceGetHandleByIndex(self._number)

    def memory(self) -> tuple[int, int] | None:
        """Bytes in use, by whomever, and in all; None if they are unknown."""
        if self._handle is None:
            return None
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
        except pynvml.NVMLError as error:
            log.warning("the memory of %s cannot be read: %s", self.name, error)
            self._handle = None
            return None
        return int(memory.used), int(memory.total)
