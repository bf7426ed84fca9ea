"""The accelerator: what its errors mean, and ONNX models on it."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from pipeline.foundation.errors import Broken, Outage

_OUT_OF_MEMORY = ("out of memory", "status_alloc_failed", "failed to allocate memory")
_OF_THE_DEVICE = ("cuda", "cublas failed", "cublas_status", "cudnn")  # not: a library is not found
# What CTranslate2 and onnxruntime raise, and no class derived from it: other libraries have such, with names of
# files in their messages. These two are given numbers and models alone: their words are their own.
_NATIVE_ERRORS = (
    RuntimeError,
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
    onnxruntime.capi.onnxruntime_pybind11_state.EPFail,
    onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException,
)
THREADS = 2  # of a model on the CPU: several files are labelled at a time


class BadModel(Exception):
    """A model folder cannot be used: one line says why."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the GPU has no room for the batch; it works on with a smaller one."""
    return _says(error, _OUT_OF_MEMORY)


def is_broken(error: BaseException) -> bool:
    """Whether the GPU is of no more use to this process: every later call would fail too."""
    return isinstance(error, Broken) or (_says(error, _OF_THE_DEVICE) and not is_out_of_memory(error))


def _says(error: BaseException, words: tuple[str, ...], path: str = "") -> bool:
    """Whether one of the libraries says one of these words, other than in the path of its model."""
    return type(error) in _NATIVE_ERRORS and any(
        word in str(error).replace(path or "\0", "").lower() for word in words
    )


class OnnxModel:
    """A model of onnxruntime, for several threads: on the GPU where onnxruntime can use one, else on the CPU."""

    def __init__(self, path: Path, gpu: int | None) -> None:
        """`gpu`: the number of the GPU, None for the CPU. `BadModel` where the file is not a model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.log_severity_level = 3
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu is not None and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            onnxruntime.preload_dlls()  # the CUDA libraries of PyPI, where they are
            # Whisper's own memory lies on the same GPU: take no more than is asked for.
            cuda = {"device_id": gpu, "arena_extend_strategy": "kSameAsRequested"}
            providers.insert(0, ("CUDAExecutionProvider", cuda))
        with trial(path):
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self.path, self.on_gpu = path, self._session.get_providers()[0] == "CUDAExecutionProvider"
        self.inputs = {given.name: given for given in self._session.get_inputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The model's outputs.

        `Outage` where the GPU has no room: the file waits, and is not to blame. `Broken` where the GPU has failed.
        """
        try:
            return self._session.run(None, dict(inputs))
        except Exception as error:
            if is_out_of_memory(error):
                place = "the GPU" if self.on_gpu else "memory"
                raise Outage(place, f"{self.path} found no room: {error}") from error
            if is_broken(error):
                raise Broken(f"{self.path}: the GPU has failed: {error}") from error
            raise


@contextlib.contextmanager
def trial(path: Path) -> Iterator[None]:
    """Around the first use of a model's file: `BadModel` with what is wrong, unless that is the device."""
    try:
        yield
    except (BadModel, Broken, Outage):
        raise
    except Exception as error:
        if _says(error, (*_OUT_OF_MEMORY, *_OF_THE_DEVICE), str(path)):
            raise
        said = str(error).replace(str(path), "it")
        raise BadModel(f"{path} cannot be used: {' '.join(said.split())[:300]}") from None


def only_model(folder: Path) -> Path:
    """The ONNX file in a model folder. `BadModel` where there is no such file, or several."""
    found = sorted(path for path in folder.glob("**/*.onnx") if path.is_file())
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found) or "none"
        raise BadModel(f"{folder} must hold one .onnx file, and holds {names}")
    return found[0]


def required(path: Path) -> str:
    """The text of a file beside a model. `BadModel` where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadModel(f"{path} cannot be read: {reason}") from None
