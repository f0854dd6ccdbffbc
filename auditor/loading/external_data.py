"""ONNX weights beside the file, as torch's exporter writes them: gathered into one file, which one hash covers."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import helper

from auditor.errors import InvalidInput
from auditor.loading.limits import MAX_FILE_BYTES
from auditor.loading.onnx_file import all_tensors


def gather_weights(path: Path, out: Path) -> Path:
    """The model at `path` as one file: itself, or a copy at `out` that holds the weights of files beside it.

    Only plain files in the model's own folder (or below it) are read, never through links, and only as many bytes as
    the shapes ask for. What points elsewhere is left as it is, for `inspect_model` to refuse.

    Raises:
        InvalidInput: a weights file is missing or too short, or the whole would be over the size limit.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return path
        model = onnx.load_model_from_string(path.read_bytes())
        outside = [tensor for tensor in all_tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
        entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in outside]
        sizes = [_n_bytes(tensor) for tensor in outside]
    except Exception:  # no ONNX, or a broken one: `inspect_model` says what is wrong
        return path
    files = [_beside(path.parent, entry.get("location", "")) for entry in entries]
    if not outside or None in files:
        return path
    if path.stat().st_size + sum(sizes) > MAX_FILE_BYTES:
        raise InvalidInput(f"the model and its weights files are over {MAX_FILE_BYTES} bytes")
    for tensor, entry, file, size in zip(outside, entries, files, sizes, strict=True):
        assert file is not None  # noqa: S101 - checked above
        tensor.raw_data = _read(file, entry, size)
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.ClearField("external_data")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(model.SerializeToString())
    return out


def _n_bytes(tensor: onnx.TensorProto) -> int:
    if min(tensor.dims, default=1) < 0:
        raise ValueError("a negative dimension")
    n_bytes: int = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return n_bytes


def _beside(folder: Path, location: str) -> Path | None:
    """The file that `location` means, if it lies in `folder`."""
    parts = PurePosixPath(location).parts
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or "\\" in location
    if not parts or absolute or ".." in parts or "\0" in location:
        return None
    found = folder
    for part in parts:
        found = found / part
        if found.is_symlink():
            return None
    return found


def _read(file: Path, entry: dict[str, str], size: int) -> bytes:
    try:
        offset, length = int(entry.get("offset", 0)), int(entry.get("length", size))
        if offset < 0 or length != size:
            raise InvalidInput(f"the model claims {length} bytes at {offset} of '{file.name}', its shape needs {size}")
        if not file.is_file():
            raise InvalidInput(
                f"the model's weights file '{file.name}' is not beside it", remedy="Keep both files in one folder."
            )
        with file.open("rb") as handle:
            handle.seek(offset)
            data = handle.read(size)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"the model's weights file '{file.name}' cannot be read: {error}") from None
    if len(data) != size:
        raise InvalidInput(f"the model's weights file '{file.name}' is too short")
    return data
