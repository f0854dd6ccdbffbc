"""What a file is, by its content; the extension counts for nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

from auditor.contracts.submission import ModelFormat
from auditor.errors import InvalidInput
from auditor.loading.limits import MAX_FILE_BYTES, MAX_PICKLE_BYTES, MAX_ZIP_MEMBERS
from auditor.loading.problems import RECIPE, SAFETENSORS_RECIPE, Problems

_HEAD_BYTES = 4096
_KERAS_RECIPE = "Convert it with `python -m tf2onnx.convert --keras model.h5 --output model.onnx`."
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 (Keras) file", _KERAS_RECIPE),
    (4, b"TFL3", "a TensorFlow Lite file", "Run `python -m tf2onnx.convert --tflite m.tflite --output m.onnx`."),
    (4, b"ORTM", "an onnxruntime `.ort` file", "Submit the ONNX file it was made from."),
    (0, b"\x1f\x8b", "a gzip archive", "Unpack it and submit the model file alone."),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it and submit the model file alone."),
    (257, b"ustar", "a tar archive (old torch, or a bundle)", RECIPE),
    (0, b"\x7fELF", "a native library", RECIPE),
)  # fmt: skip


def sniff(path: Path, problems: Problems) -> ModelFormat | None:
    """The format of the file at `path`; None after a refusal was put into `problems`.

    Raises:
        InvalidInput: the file is missing, unreadable, empty, or larger than the budget.
    """
    head = _read_head(path)
    for offset, magic, what, recipe in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            problems.refuse(f"the file is {what}, which is not accepted", recipe)
            return None
    if head[:4] == b"PK\x03\x04":
        return _sniff_zip(path, problems)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return ModelFormat.SAFETENSORS
    if head[:1] == b"\x80" and head[1:2] in b"\x01\x02\x03\x04\x05" and len(head) > 2:
        problems.refuse(
            "the file is a bare pickle (a whole module, or weights of torch before 1.6): reading it could run code",
            RECIPE,
        )
        return None
    if _looks_like_python(head):
        problems.refuse("the file is Python source: the auditor never runs submitted code", RECIPE)
        return None
    return ModelFormat.ONNX


def _read_head(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InvalidInput(f"there is no model file at '{path}'" if not path.exists() else f"'{path}' is no file")
        size = path.stat().st_size
        if size == 0:
            raise InvalidInput(f"the model file '{path.name}' is empty")
        if size > MAX_FILE_BYTES:
            raise InvalidInput(f"the model file has {size} bytes; the limit is {MAX_FILE_BYTES}")
        with path.open("rb") as handle:
            return handle.read(_HEAD_BYTES)
    except OSError as error:
        raise InvalidInput(f"the model file '{path}' cannot be read: {error.strerror}") from error


def _looks_like_python(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode()
    return any(line.startswith(("import ", "from ", "def ", "class ", "#!/")) for line in text.splitlines())


def _sniff_zip(path: Path, problems: Problems) -> ModelFormat | None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        IndexError,
        UnicodeError,
    ) as error:
        problems.refuse(f"the file starts like a zip archive but cannot be read as one: {error}")
        return None
    names = [member.filename for member in members]
    inner = {name.split("/", 1)[1] if "/" in name else name for name in names}
    what = _zip_kind(names, inner)
    if what is not None:
        problems.refuse(*what)
        return None
    return ModelFormat.STATE_DICT if _sound_archive(members, path.stat().st_size, problems) else None


def _zip_kind(names: list[str], inner: set[str]) -> tuple[str, str] | None:
    """What a zip archive is when it is not a state dict, and what to do about it."""
    if any(name.startswith("MAR-INF/") for name in names):
        return "the file is a TorchServe archive (.mar): it carries Python code", RECIPE
    if any(name.endswith((".data/extern_modules", ".py")) for name in names) and "constants.pkl" not in inner:
        return "the file is a torch.package: opening it runs the Python source inside", RECIPE
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "the file is TorchScript, which has no safe way of loading", RECIPE
    if inner & {"archive_format", "serialized_exported_program.json", "serialized_exported_program.pt"} or any(
        name.startswith(("models/", "data/aotinductor/")) for name in inner
    ):
        return "the file is a torch.export program (.pt2): its loader runs code from a crafted file", RECIPE
    if "config.json" in names and any(name.endswith(".weights.h5") for name in names):
        return "the file is a Keras archive", _KERAS_RECIPE
    if any(name.endswith(".npy") for name in names):
        return "the file is a numpy archive (.npz), not a model", RECIPE
    if "data.pkl" not in inner:
        return "the file is a zip archive that holds no state dict", "Unpack it and submit the model file alone."
    return None


def _sound_archive(members: list[zipfile.ZipInfo], size: int, problems: Problems) -> bool:
    """Torch stores members uncompressed and once: anything else is a trick or a bomb."""
    recipe = f"Save it again with a current torch: `torch.save(model.state_dict(), path)`. {SAFETENSORS_RECIPE}"
    names = [member.filename for member in members]
    found = []
    if len(members) > MAX_ZIP_MEMBERS:
        found.append(f"the archive has {len(members)} members")
    if len(set(names)) != len(names):
        found.append("the archive holds several members of one name")
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        found.append("the archive has compressed or encrypted members, which torch never writes (a zip bomb?)")
    if sum(member.file_size for member in members) > size:
        found.append("the archive's members claim more bytes than the file has")
    if any(member.file_size > MAX_PICKLE_BYTES for member in members if member.filename.endswith(".pkl")):
        found.append(f"the archive's pickle is larger than {MAX_PICKLE_BYTES} bytes")
    for problem in found:
        problems.refuse(problem, recipe)
    return not found
