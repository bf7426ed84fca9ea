"""pipeline/foundation/device.py: what a GPU's errors mean, and which files are models."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from av.error import BugError
from onnx import TensorProto

from pipeline.foundation.device import (
    THREADS,
    BadModel,
    OnnxModel,
    is_broken,
    is_out_of_memory,
    only_model,
    required,
)
from pipeline.foundation.errors import Broken, Outage, unavailable_service
from tests.support.tiny_onnx import Graph

NATIVE = onnxruntime.capi.onnxruntime_pybind11_state
NO_ROOM = "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 1073741824"
ILLEGAL = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=gpu1"
FULL = "CUDA failure 2: out of memory ; GPU=0 ; hostname=gpu1"


def doubling(path: Path, opset: int = 17) -> Path:
    """A model that gives 2x."""
    graph = Graph()
    graph.add("Add", "x", "x", output="y")
    graph.save(path, {"x": (TensorProto.FLOAT, ["n"])}, "y", ["n"], opset)
    return path


@pytest.fixture
def model(tmp_path: Path) -> OnnxModel:
    return OnnxModel(doubling(tmp_path / "model.onnx"), None)


def fail(model: OnnxModel, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Have the model's session raise the error."""

    class Session:
        def run(self, *_: Any) -> Any:
            raise error

    monkeypatch.setattr(model, "_session", Session())


def problem(make: Callable[[], object]) -> str:
    """The one line that says why the model cannot be used."""
    with pytest.raises(BadModel) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "full", "broken"),
    [
        # CTranslate2
        (RuntimeError("CUDA failed with error out of memory"), True, False),
        (RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"), True, False),
        (RuntimeError("CUDA failed with error an illegal memory access was encountered"), False, True),
        (RuntimeError("cuBLAS failed with status CUBLAS_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("cuDNN failed with status CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("CUDA driver version is insufficient for CUDA runtime version"), False, True),
        (RuntimeError("CUDA failed with error unspecified launch failure"), False, True),
        (RuntimeError("cuBLAS failed with status CUBLAS_STATUS_INTERNAL_ERROR"), False, True),
        (RuntimeError("Library libcublas.so.12 is not found"), False, False),
        (ValueError("out of memory"), False, False),
        # onnxruntime
        (NATIVE.Fail(FULL), True, False),
        (NATIVE.Fail(NO_ROOM), True, False),
        (NATIVE.RuntimeException(NO_ROOM), True, False),
        (NATIVE.Fail("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"), True, False),
        (NATIVE.Fail(ILLEGAL), False, True),
        (NATIVE.RuntimeException(ILLEGAL), False, True),
        (NATIVE.EPFail(ILLEGAL), False, True),
        (NATIVE.Fail("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0"), False, True),
        (NATIVE.Fail("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0"), False, True),
        # said by this program
        (Broken("no word of the device"), False, True),
        (Outage("the GPU", FULL), False, False),
        (BadModel(ILLEGAL), False, False),
        # of the file, though its name holds such words
        (RuntimeError("something about this row"), False, False),
        (NATIVE.Fail("Non-zero status code returned while running Reshape node"), False, False),
        (NATIVE.InvalidArgument(ILLEGAL), False, False),
        (FileNotFoundError(2, "No such file", "CUDA out of memory.opus"), False, False),
        (ValueError(ILLEGAL), False, False),
        (KeyError("CUDA"), False, False),
        (BugError(1, "Internal bug", "/data/scratch/CUDA failed with error out of memory.opus"), False, False),
        (MemoryError("out of memory"), False, False),
    ],
)
def test_only_the_device_s_own_errors_tell_of_it(error: Exception, full: bool, broken: bool) -> None:
    assert is_out_of_memory(error) == full
    assert is_broken(error) == broken


@pytest.mark.parametrize("error", [NATIVE.Fail(NO_ROOM), NATIVE.RuntimeException(NO_ROOM), NATIVE.Fail(FULL)])
@pytest.mark.parametrize(("on_gpu", "place"), [(True, "the GPU"), (False, "memory")])
def test_no_room_is_an_outage_and_no_fault_of_the_file(
    model: OnnxModel, monkeypatch: pytest.MonkeyPatch, error: Exception, on_gpu: bool, place: str
) -> None:
    fail(model, monkeypatch, error)
    monkeypatch.setattr(model, "on_gpu", on_gpu)
    with pytest.raises(Outage) as caught:
        model.run({"x": np.ones(1, np.float32)})
    assert unavailable_service(caught.value) == place
    assert str(model.path) in str(caught.value)
    assert not is_broken(caught.value)


@pytest.mark.parametrize("error", [NATIVE.Fail(ILLEGAL), NATIVE.EPFail(ILLEGAL), RuntimeError(ILLEGAL)])
def test_a_failed_gpu_breaks_the_process(
    model: OnnxModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail(model, monkeypatch, error)
    with pytest.raises(Broken, match="illegal memory access") as caught:
        model.run({"x": np.ones(1, np.float32)})
    assert str(model.path) in str(caught.value)
    assert unavailable_service(caught.value) is None


@pytest.mark.parametrize(
    "error",
    [NATIVE.Fail("this node"), NATIVE.InvalidArgument("Unexpected input"), ValueError("CUDA"), KeyError("x")],
)
def test_any_other_error_stays_as_it_is(
    model: OnnxModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail(model, monkeypatch, error)
    with pytest.raises(type(error)) as caught:
        model.run({"x": np.ones(1, np.float32)})
    assert caught.value is error


def test_an_input_that_the_model_does_not_take_is_the_caller_s_error(model: OnnxModel) -> None:
    with pytest.raises(NATIVE.InvalidArgument):
        model.run({"x": np.ones((1, 1), np.float32)})


# --- models ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")  # onnxruntime warns of providers that it has not
@pytest.mark.parametrize("gpu", [None, 0])
def test_a_model_runs_without_a_gpu(tmp_path: Path, gpu: int | None) -> None:
    if gpu is not None and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has a GPU")
    model = OnnxModel(doubling(tmp_path / "model.onnx"), gpu)
    (result,) = model.run({"x": np.array([1, 2.5], np.float32)})
    assert result.tolist() == [2, 5]
    assert not model.on_gpu
    assert list(model.inputs) == ["x"]
    assert model.path == tmp_path / "model.onnx"


def test_several_threads_may_run_a_model_at_once(model: OnnxModel) -> None:
    wrong: list[int] = []

    def use(number: int) -> None:
        for _ in range(50):
            (result,) = model.run({"x": np.full(number + 1, number, np.float32)})
            if result.tolist() != [2 * number] * (number + 1):
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    "content", [b"", b"<html>\n<p>Sign in</p>\n</html>", b"version https://git-lfs\nsize 1\n"]
)
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert problem(lambda: OnnxModel(path, None)).startswith(f"{path} cannot be used: ")


def test_a_model_that_is_cut_is_named(tmp_path: Path) -> None:
    path = doubling(tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[:-9])
    assert str(path) in problem(lambda: OnnxModel(path, None))


@pytest.mark.parametrize("folder", ["models", "CUDA out of memory"])
def test_a_model_newer_than_onnxruntime_is_named(tmp_path: Path, folder: str) -> None:
    path = doubling(tmp_path / folder / "model.onnx", opset=9999)
    assert str(path) in problem(lambda: OnnxModel(path, None))


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.onnx"
    assert str(path) in problem(lambda: OnnxModel(path, None))


# --- the GPU -----------------------------------------------------------------------------------------------


class Loaded:
    """A session as onnxruntime gives it, without a device; it keeps what it was asked for."""

    asked: list[Any]
    threads: int

    def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
        type(self).asked, type(self).threads = providers, options.intra_op_num_threads

    def get_providers(self) -> list[str]:
        return [provider if isinstance(provider, str) else provider[0] for provider in self.asked]

    def get_inputs(self) -> list[Any]:
        return []


class FallenBack(Loaded):
    """Where the CUDA libraries are missing, onnxruntime goes on without them."""

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime that is made for CUDA."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)


@pytest.mark.usefixtures("with_cuda")
def test_the_given_gpu_is_used_with_no_more_memory_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Loaded)
    assert OnnxModel(Path("model.onnx"), 3).on_gpu
    (name, settings), *others = Loaded.asked
    assert name == "CUDAExecutionProvider"
    assert settings == {"device_id": 3, "arena_extend_strategy": "kSameAsRequested"}
    assert others == ["CPUExecutionProvider"]  # for operators that CUDA has not


@pytest.mark.usefixtures("with_cuda")
def test_no_gpu_is_used_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Loaded)
    assert not OnnxModel(Path("model.onnx"), None).on_gpu
    assert Loaded.asked == ["CPUExecutionProvider"]
    assert Loaded.threads == THREADS  # not all of the machine's, for each of several files


@pytest.mark.usefixtures("with_cuda")
def test_a_model_that_fell_back_to_the_cpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBack)
    assert not OnnxModel(Path("model.onnx"), 0).on_gpu


@pytest.mark.parametrize("message", [FULL, ILLEGAL])
def test_a_gpu_that_fails_while_a_model_is_loaded_is_not_the_model_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise NATIVE.Fail(message)

    monkeypatch.setattr(onnxruntime, "InferenceSession", load)
    with pytest.raises(Exception, match="CUDA failure") as caught:
        OnnxModel(tmp_path / "model.onnx", 0)
    assert not isinstance(caught.value, BadModel)


# --- model folders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx", "any name.onnx"])
def test_the_only_model_of_a_folder_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (tmp_path / "model.onnx_data").touch()
    (tmp_path / "other.onnx").mkdir()
    assert only_model(tmp_path) == path


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    message = problem(lambda: only_model(tmp_path))
    assert str(tmp_path) in message
    assert message.endswith("none")


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "audio-tagging"
    path.touch()
    assert str(path) in problem(lambda: only_model(path))


def test_a_choice_of_models_is_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("b.onnx", "a.onnx", "onnx/c.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    message = problem(lambda: only_model(tmp_path))
    assert str(tmp_path) in message
    assert message.endswith("a.onnx, b.onnx, onnx/c.onnx")


def test_the_text_of_a_file_is_read_as_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("Fußball\r\n猫".encode())
    assert required(path) == "Fußball\n猫"


@pytest.mark.parametrize("content", [b"caf\xe9", b"\xff\xfea\0"])
def test_text_of_another_encoding_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert problem(lambda: required(path)) == f"{path} cannot be read: it is not UTF-8"


def test_a_missing_text_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    assert problem(lambda: required(path)) == f"{path} cannot be read: No such file or directory"
    path.mkdir()
    assert problem(lambda: required(path)) == f"{path} cannot be read: Is a directory"


def test_the_byte_order_mark_of_a_windows_editor_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("football\n", encoding="utf-8-sig")
    assert required(path) == "football\n"
