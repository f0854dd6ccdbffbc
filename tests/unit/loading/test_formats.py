"""Which files are opened and which are refused, by content and with a recipe."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import external_data_helper
from safetensors.torch import save_file
from torch import nn

from auditor.contracts.manifest import InputSpec, ModelSpec
from auditor.contracts.submission import ModelFormat
from auditor.errors import InvalidInput, RefusedFile
from auditor.loading.external_data import gather_weights
from auditor.loading.inspection import inspect_model
from auditor.loading.limits import MAX_FILE_BYTES
from auditor.loading.problems import Problems
from auditor.loading.sniff import sniff
from auditor.targets.architectures import SmallCnn
from auditor.testing.onnx_models import exported, one_node, randomised

SPEC = ModelSpec(name="m", architecture="small-cnn", input=InputSpec(channels=3, height=16, width=16))


class Bomb:
    """A pickle that would run code."""

    def __reduce__(self) -> object:
        return (Path.touch, (Path("pwned"),))


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def whole_module(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)).save(str(path))


def exported_program(path: Path) -> None:
    zipped(path, {"m/archive_format": b"pt2", "m/models/model.json": b"{}", "m/data/weights/w": b""})


def torch_package(path: Path) -> None:
    zipped(path, {"m/.data/extern_modules": b"", "m/.data/version": b"1", "m/evil.py": b"", "m/m/m.pkl": b""})


def torchserve(path: Path) -> None:
    zipped(path, {"MAR-INF/MANIFEST.json": b"{}", "handler.py": b"import os"})


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb()))


def legacy_torch(path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


def hostile_state_dict(path: Path) -> None:
    torch.save({"w": Bomb()}, path)


def gzipped(path: Path) -> None:
    path.write_bytes(gzip.compress(b"model"))


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model"), io.BytesIO())


def deflated_bomb(path: Path) -> None:
    zipped(path, {"m/data.pkl": b"", "m/data/0": bytes(10**6)}, zipfile.ZIP_DEFLATED)


REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (whole_module, "whole module"),
    (torchscript, "TorchScript"),
    (exported_program, r"torch\.export"),
    (torch_package, r"torch\.package"),
    (torchserve, "TorchServe"),
    (bare_pickle, "bare pickle"),
    (legacy_torch, "bare pickle"),
    (hostile_state_dict, "could run code"),
    (gzipped, "gzip"),
    (tarred, "tar archive"),
    (deflated_bomb, "zip bomb"),
    (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), "Keras"),
    (lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(64)), "TensorFlow Lite"),
    (lambda p: p.write_text("import torch\n\nclass Net:\n    pass\n"), "Python source"),
    (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(30)), "cannot be read"),
    (lambda p: zipped(p, {"a.npy": b"x"}), "numpy archive"),
    (lambda p: zipped(p, {"readme": b"x"}), "holds no state dict"),
    (lambda p: p.write_bytes(b"nothing known at all"), "no model format"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_a_format_that_could_run_code_is_refused_with_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.onnx"  # the extension counts for nothing
    make(path)
    with pytest.raises(RefusedFile, match=reason) as caught:
        inspect_model(path, SPEC)
    assert any(word in caught.value.remedy for word in ("onnx", "ONNX", "safetensors", "Unpack", "Convert"))
    assert not (tmp_path / "pwned").exists()


def test_accepted_formats_are_told_by_their_content(tmp_path: Path) -> None:
    network = randomised(SmallCnn(4, 3, (4, 4)))
    state = network.state_dict()
    torch.save(state, tmp_path / "a.onnx")
    save_file(state, tmp_path / "b.pth")
    (tmp_path / "c.bin").write_bytes(exported(network, (3, 16, 16), opset=13, dynamo=False))
    found = [sniff(tmp_path / name, Problems()) for name in ("a.onnx", "b.pth", "c.bin")]
    assert found == [ModelFormat.STATE_DICT, ModelFormat.SAFETENSORS, ModelFormat.ONNX]


def test_a_file_that_is_not_there_empty_or_a_folder(tmp_path: Path) -> None:
    for path, message in [(tmp_path / "none", "no model file"), (tmp_path, "is no file")]:
        with pytest.raises(InvalidInput, match=message):
            inspect_model(path, SPEC)
    (tmp_path / "empty").touch()
    with pytest.raises(InvalidInput, match="is empty"):
        inspect_model(tmp_path / "empty", SPEC)


def test_an_oversized_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as handle:
        handle.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no room
    with pytest.raises(InvalidInput, match="the limit is"):
        inspect_model(path, SPEC)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd"])
def test_external_data_is_refused_wherever_it_lies(tmp_path: Path, location: str) -> None:
    proto = one_node("Gemm", ("n", 4), [np.ones((4, 3), np.float32)])
    tensor = proto.graph.initializer[0]
    external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    (tmp_path / "weights.bin").write_bytes(bytes(48))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(RefusedFile, match="external data") as caught:
        inspect_model(path, SPEC)
    assert "save_as_external_data=False" in caught.value.remedy


def beside(folder: Path, location: str, *, n_bytes: int = 48, **entries: int) -> Path:
    """A model whose weights are 48 bytes of the file `location`."""
    proto = one_node("Gemm", ("n", 4), [np.arange(12, dtype=np.float32).reshape(4, 3)])
    tensor = proto.graph.initializer[0]
    data = tensor.raw_data
    external_data_helper.set_external_data(tensor, location, **entries)
    tensor.ClearField("raw_data")
    if n_bytes and "/" not in location:
        (folder / location).write_bytes(bytes(entries.get("offset", 0)) + data[:n_bytes])
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("entries", [{}, {"offset": 64, "length": 48}])
def test_weights_beside_the_file_are_gathered_into_it(tmp_path: Path, entries: dict[str, int]) -> None:
    path = beside(tmp_path, "m.onnx.data", **entries)
    gathered = gather_weights(path, tmp_path / "one")
    assert gathered == tmp_path / "one"
    model = onnx.load(gathered, load_external_data=False)
    assert np.array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]).ravel(), np.arange(12))
    assert not model.graph.initializer[0].external_data


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_bytes": 0}, "is not beside it"),
        ({"n_bytes": 40}, "too short"),
        ({"length": 4}, "its shape needs 48"),
        ({"offset": 10, "length": 1 << 40}, "its shape needs 48"),
    ],
)
def test_weights_files_that_do_not_fit(tmp_path: Path, options: dict[str, int], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        gather_weights(beside(tmp_path, "w.bin", **options), tmp_path / "one")
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "link.bin", "linked/passwd", "C:/x", "", "a\\b"])
def test_weights_elsewhere_are_never_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "link.bin").symlink_to("/etc/passwd")
    (tmp_path / "linked").symlink_to("/etc")
    path = beside(tmp_path, location, n_bytes=0)
    assert gather_weights(path, tmp_path / "one") == path
    with pytest.raises(RefusedFile, match="external data"):
        inspect_model(path, SPEC)


def test_a_file_without_weights_elsewhere_stays_as_it_is(tmp_path: Path) -> None:
    for data in (one_node("Relu", ("n", 3, 16, 16)).SerializeToString(), b"no model at all", b""):
        path = tmp_path / "m"
        path.write_bytes(data)
        assert gather_weights(path, tmp_path / "one") == path
    assert gather_weights(tmp_path / "missing", tmp_path / "one") == tmp_path / "missing"


def test_external_data_in_an_attribute_is_found_too(tmp_path: Path) -> None:
    tensor = onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")
    nodes = [
        onnx.helper.make_node("Constant", [], ["w"], value=tensor),
        onnx.helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    proto = one_node("Relu", ("n", 4))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(RefusedFile, match="external data"):
        inspect_model(path, SPEC)


def test_custom_operators_are_refused_with_their_names(tmp_path: Path) -> None:
    proto = one_node("Relu", ("n", 3, 16, 16))
    proto.graph.node[0].domain = "com.evil"
    proto.opset_import.append(onnx.helper.make_opsetid("com.evil", 1))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(RefusedFile, match=r"com\.evil::Relu") as caught:
        inspect_model(path, SPEC)
    assert "standard ONNX domain" in caught.value.remedy


def test_a_tensor_that_claims_more_than_its_bytes_is_refused(tmp_path: Path) -> None:
    for dims in ([10**6, 10**6], [5, 5], [-3]):
        proto = one_node("Gemm", ("n", 4), [np.ones((4, 3), np.float32)])
        del proto.graph.initializer[0].dims[:]
        proto.graph.initializer[0].dims.extend(dims)
        path = tmp_path / "m.onnx"
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(RefusedFile, match=r"size budget|cannot be read"):
            inspect_model(path, SPEC)


def test_a_stride_trick_is_refused_though_the_file_is_tiny(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(1).as_strided((10**5, 10**5), (0, 0))}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(RefusedFile, match="claims 10000000000 values but is backed by 4 bytes"):
        inspect_model(path, SPEC)


def test_tensors_that_are_not_plain_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"w": torch.eye(3).to_sparse()}, path)
    with pytest.raises(RefusedFile, match="no plain dense tensor"):
        inspect_model(path, SPEC)
    torch.save({"w": torch.empty(3, device="meta")}, path)
    with pytest.raises(RefusedFile, match="no plain dense tensor"):
        inspect_model(path, SPEC)
