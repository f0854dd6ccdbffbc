"""More than a hundred broken and malicious files through the real upload and the real check: refused, never run."""

import io
import pickle
import struct
import tarfile
import zipfile
from functools import cache

import numpy as np
import onnx
import pytest
from api_house import good, installed
from onnx import TensorProto, helper

from auditor.bootstrap import UNIT_HANDLERS, unit_handlers
from auditor.contracts.people import Role
from auditor.settings import Settings
from auditor.testing.ports import InProcessRunner

pytestmark = pytest.mark.slow
SPEC = {"name": "hostile", "architecture": "small-cnn", "input": {"channels": 3, "height": 16, "width": 16}}


class Trap:
    """Unpickling it makes the canary file."""

    def __init__(self, canary, how):
        self.canary, self.how = str(canary), how

    def __reduce__(self):
        import builtins
        import os
        import subprocess

        return {
            "system": (os.system, (f"touch {self.canary}",)),
            "popen": (subprocess.Popen, (["touch", self.canary],)),
            "eval": (builtins.eval, (f"open({self.canary!r}, 'w')",)),
            "exec": (builtins.exec, (f"open({self.canary!r}, 'w').close()",)),
            "open": (builtins.open, (self.canary, "w")),
        }[self.how]


@cache
def sound_onnx():
    """A model that would be accepted, as bytes."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, (4, 3, 3, 3), np.full(108, 0.01, np.float32).tolist())
    head = helper.make_tensor("h", TensorProto.FLOAT, (4, 4), np.eye(4, dtype=np.float32).ravel().tolist())
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "h"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight, head])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def archive(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def pickles(canary):
    """Traps in every wrapping."""
    for how in ("system", "popen", "eval", "exec", "open"):
        for protocol in range(6):
            yield f"pickle-{how}-{protocol}", pickle.dumps(Trap(canary, how), protocol)
        bare = pickle.dumps({"weight": Trap(canary, how)}, 2)
        yield f"state-dict-{how}", archive({"a/data.pkl": bare, "a/version": "3\n", "a/byteorder": "little"})
        yield f"legacy-{how}", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + bare
        yield f"torchscript-{how}", archive({"a/data.pkl": bare, "a/constants.pkl": bare, "a/code/x.py": "import os"})
        yield f"pt2-{how}", archive({"archive_format": "pt2", "models/model.json": "{}", "data/sample.pt": bare})
        yield f"numpy-{how}", archive({"images.npy": bare})
        yield f"behind-onnx-{how}", sound_onnx()[:64] + bare


def archives():
    """Bombs, and names that point elsewhere."""
    zeros = b"\0" * (32 << 20)
    yield "bomb-deflate", archive({"a/data.pkl": zeros}, zipfile.ZIP_DEFLATED)
    yield "bomb-lzma", archive({"a/data.pkl": zeros}, zipfile.ZIP_LZMA)
    yield "bomb-nested", archive({"a.zip": archive({"b.zip": archive({"c": zeros}, zipfile.ZIP_DEFLATED)})})
    yield "bomb-members", archive({f"a/data/{number}": b"" for number in range(70_000)} | {"a/data.pkl": b"\x80\x02}."})
    for name in ("../../canary", "/tmp/canary", "..\\..\\canary", "a/../../canary"):  # noqa: S108
        yield f"traversal-{name}", archive({name: b"x", "a/data.pkl": b"\x80\x02}q\x00.", "a/version": "3"})
    yield "truncated-zip", archive({"a/data.pkl": b"\x80\x02}."})[:-30]
    yield "torch-package", archive({"p/.data/extern_modules": b"", "p/model.py": b"import os"})
    yield "torchserve", archive({"MAR-INF/MANIFEST.json": b"{}", "handler.py": b"import os"})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        info = tarfile.TarInfo("../../canary")
        file.addfile(info, io.BytesIO(b""))
    yield "tar", buffer.getvalue()


def safetensors_files():
    """Headers that lie."""

    def with_header(text, data=b""):
        return struct.pack("<Q", len(text)) + text + data

    yield "safetensors-length", struct.pack("<Q", 1 << 39) + b"{"
    yield "safetensors-no-json", with_header(b"{" * 100)
    shape = b'{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}'
    yield "safetensors-shape", with_header(shape, b"\0" * 8)
    yield "safetensors-offsets", with_header(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[-8,99]}}', b"\0" * 8)
    doubled = (
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    yield "safetensors-doubled", with_header(doubled, b"\0" * 4)
    yield "safetensors-dtype", with_header(b'{"w":{"dtype":"OBJECT","shape":[1],"data_offsets":[0,8]}}', b"\0" * 8)


def onnx_files():
    """Graphs that ask for too much, for files elsewhere, for code, and cut or flipped ones."""
    for name in ("../../../../etc/passwd", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "w.data"):
        model = onnx.load_from_string(sound_onnx())
        tensor = model.graph.initializer[0]
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=name)
        yield f"onnx-external-{name}", model.SerializeToString()
    model = onnx.load_from_string(sound_onnx())
    model.graph.node[0].domain = "evil.ops"
    model.opset_import.add(domain="evil.ops", version=1)
    yield "onnx-domain", model.SerializeToString()
    for side in (1 << 20, 1 << 31, -1):
        model = onnx.load_from_string(sound_onnx())
        for axis in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
        yield f"onnx-input-{side}", model.SerializeToString()
        model = onnx.load_from_string(sound_onnx())
        model.graph.initializer[0].dims[0] = side
        yield f"onnx-weight-{side}", model.SerializeToString()
    huge = helper.make_tensor("s", TensorProto.INT64, (2,), [1 << 30, 1 << 30])
    model = onnx.load_from_string(sound_onnx())
    model.graph.initializer.append(huge)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["s"], ["z"]))
    model.graph.node.append(helper.make_node("ReduceSum", ["z"], ["zz"]))
    model.graph.node.append(helper.make_node("Add", ["y", "zz"], ["out"]))
    model.graph.output[0].name = "out"
    yield "onnx-allocates", model.SerializeToString()
    for tenth in range(1, 10):
        yield f"onnx-cut-{tenth}", sound_onnx()[: len(sound_onnx()) * tenth // 10]
    rng = np.random.default_rng(0)
    for seed in range(12):
        data = bytearray(sound_onnx())
        for place in rng.integers(0, 60, 8):
            data[place] = rng.integers(0, 256)
        yield f"onnx-flipped-{seed}", bytes(data)


def others():
    """What is no model at all."""
    yield "python", b"import os\nos.system('touch canary')\n"
    yield "shell", b"#!/bin/sh\ntouch canary\n"
    yield "elf", b"\x7fELF" + b"\0" * 100
    yield "gzip", b"\x1f\x8b\x08" + b"\0" * 100
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + b"\0" * 100
    yield "html", b"<html><script>alert(1)</script></html>"
    yield "one-byte", b"\0"
    yield "noise", np.random.default_rng(1).bytes(5000)
    yield "polyglot-zip-at-the-end", b"\x08\x07" + b"x" * 100 + archive({"a/data.pkl": b"\x80\x02}."})
    yield "polyglot-png", b"\x89PNG\r\n\x1a\n" + archive({"a/data.pkl": b"\x80\x02}."})


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """With the real check, whose runner is a process of its own."""
    settings = Settings(
        home=tmp_path_factory.mktemp("home"), device="cpu", threads=1, requests_per_minute=1_000_000, unit_timeout_s=60
    )
    with installed(settings, handlers=UNIT_HANDLERS) as server:
        yield server


@pytest.fixture
def in_process(server, monkeypatch):
    """The same check, in this process: a hundred files in the time in which a process of torch's starts a few times."""
    runner = InProcessRunner(unit_handlers(), server.settings.home / "cache")
    monkeypatch.setattr(server.services.executor, "_runner", runner)


def refuse(server, files, canary):
    """Send every file; returns the names of those that were accepted. None may run, and each must get its reason."""
    accepted = []
    with server.client(Role.SUBMITTER) as client:
        for name, data in files.items():
            body = {"model": server.upload(client, data, name=f"../{name}.onnx"), "manifest": {"model": SPEC}}
            answer = client.post("/audits", json=body)
            assert not canary.exists(), name
            if answer.status_code < 300:
                accepted.append(name)
                continue
            told = answer.json()
            assert (answer.status_code, bool(told["problems"]), bool(told["remedy"])) == (422, True, True), (name, told)
            assert "defect" not in told["remedy"], name
        assert good(client.get("/health"))["status"] == "ok"
    return accepted


@pytest.mark.filterwarnings("ignore")
def test_every_hostile_file_is_refused_with_its_reason_and_none_is_run(server, in_process, tmp_path):
    canary = tmp_path / "canary"
    files = dict([*pickles(canary), *archives(), *safetensors_files(), *onnx_files(), *others()])
    assert len(files) >= 100
    accepted = refuse(server, files, canary)
    assert [name for name in accepted if not name.startswith("onnx-flipped")] == []
    assert len(accepted) <= 4, "letters of a name may flip without harm"


def test_the_traps_would_spring_if_they_were_opened(tmp_path):
    for how in ("system", "popen", "eval", "exec", "open"):
        canary = tmp_path / how
        made = pickle.loads(pickle.dumps(Trap(canary, how)))  # noqa: S301 - that is the point
        if how == "popen":
            made.wait()
        elif hasattr(made, "close"):
            made.close()
        assert canary.exists(), how


def test_the_runner_process_refuses_them_too_and_the_server_lives_on(server, tmp_path):
    canary = tmp_path / "canary"
    files = dict([*pickles(canary), *archives(), *onnx_files()])
    chosen = (
        "pickle-system-4",
        "state-dict-exec",
        "bomb-deflate",
        "onnx-allocates",
        "onnx-input-1048576",
        "onnx-cut-5",
    )
    assert refuse(server, {name: files[name] for name in chosen}, canary) == []
