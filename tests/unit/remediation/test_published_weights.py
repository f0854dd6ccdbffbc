import hashlib
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torchvision import models

from auditor.contracts.jobs import UnitSpec
from auditor.errors import InvalidInput
from auditor.service.workspace import Workspace
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext
from remediation.published_weights import fetch_weights, run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def publish(folder, monkeypatch, *, keep, served=True):
    """Publish weights of the small network in torchvision's way: the file's name ends with its hash."""
    module = build_architecture("small-cnn", n_classes=7, channels=3)
    path = folder / "written.pth"
    torch.save(module.state_dict(), path)
    name = f"small-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
    server = folder.parent / "server"
    server.mkdir()
    if served:
        (server / name).write_bytes(path.read_bytes())
    if keep:
        (folder / name).write_bytes(path.read_bytes())
    weights = models.Weights(url=(server / name).as_uri(), transforms=partial(dict), meta={})
    enumeration = models.WeightsEnum("SmallCnn_Weights", {"PUBLIC_V1": weights})
    monkeypatch.setattr(models, "get_model_weights", lambda _name: enumeration)
    return module, folder / name


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", ["SmallCnn_Weights.PUBLIC_V1", "PUBLIC_V1"])
def test_published_weights_are_fetched_once_and_described(folder, monkeypatch, keep, name):
    module, path = publish(folder, monkeypatch, keep=keep)
    tensors, described = fetch_weights(name, "small-cnn", 3)
    assert all(torch.equal(tensors[key], value) for key, value in module.state_dict().items())
    assert "SmallCnn_Weights.PUBLIC_V1" in described
    assert hashlib.sha256(path.read_bytes()).hexdigest() in described


def test_densenets_first_names_are_read(folder, monkeypatch):
    publish(folder, monkeypatch, keep=False)
    state = {"features.denseblock1.denselayer2.norm.1.weight": torch.ones(2), "classifier.weight": torch.ones(2)}
    monkeypatch.setattr("remediation.published_weights.read_weights", lambda *_args: state)
    assert set(fetch_weights("PUBLIC_V1", "small-cnn", 3)[0]) == {
        "features.denseblock1.denselayer2.norm1.weight", "classifier.weight",
    }  # fmt: skip


def test_a_kept_file_that_was_changed_is_refused(folder, monkeypatch):
    _, path = publish(folder, monkeypatch, keep=True)
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(InvalidInput, match="not the file that torchvision published"):
        fetch_weights("PUBLIC_V1", "small-cnn", 3)


def test_weights_out_of_reach_say_what_to_do(folder, monkeypatch):
    publish(folder, monkeypatch, keep=False, served=False)
    with pytest.raises(InvalidInput, match="cannot be fetched") as caught:
        fetch_weights("PUBLIC_V1", "small-cnn", 3)
    assert "--weights FILE" in caught.value.remedy


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InvalidInput, match=r"torchvision:ResNet18_Weights\.IMAGENET1K_V1"):
        fetch_weights("ResNet18_Weights.IMAGENET9K", "resnet18", 3)
    with pytest.raises(InvalidInput, match="three channels"):
        fetch_weights("ResNet18_Weights.IMAGENET1K_V1", "resnet18", 1)
    with pytest.raises(InvalidInput, match="no weights of 'submitted graph'"):
        fetch_weights("ResNet18_Weights.IMAGENET1K_V1", "submitted graph", 3)


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "vit_b_16", "convnext_tiny", "swin_t"])
def test_every_address_of_torchvision_holds_a_hash(folder, name, monkeypatch):
    def unreachable(*_args, **_options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    for member in models.get_model_weights(name):
        with pytest.raises(InvalidInput, match="cannot be fetched"):
            fetch_weights(str(member), name, 3)


def test_the_unit_leaves_the_weights_and_says_where_they_are_from(folder, monkeypatch, tmp_path):
    module, _ = publish(folder, monkeypatch, keep=False)
    workspace = Workspace(tmp_path / "unit", tmp_path / "cache")
    params = {"weights": "PUBLIC_V1", "architecture": "small-cnn", "channels": 3}
    value = run(UnitSpec(kind="repair-fetch", key="fetch", params=params), workspace, RunContext())
    tensors = load_file(workspace.output("weights.safetensors"))
    assert all(torch.equal(tensors[key], tensor) for key, tensor in module.state_dict().items())
    assert workspace.output("weights.txt").read_text() == value["origin"]
    assert "PUBLIC_V1" in value["origin"]
