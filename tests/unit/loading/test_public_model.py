"""Up to where a model is the public one it was fine-tuned from, whatever the files' formats and names."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from auditor.contracts.access import Access
from auditor.contracts.manifest import InputSpec, ModelSpec
from auditor.errors import InvalidInput
from auditor.loading.inspection import inspect_model
from auditor.loading.public_model import find_public_front
from auditor.loading.target_loading import load_target
from auditor.targets.architectures import build_architecture
from auditor.targets.torch_target import TorchTarget
from auditor.testing import ToyTarget, toy_templates
from auditor.testing.onnx_models import exported, randomised
from auditor.testing.toy import toy_card

SHAPE = (3, 16, 16)
INPUT = InputSpec(channels=3, height=16, width=16)
SPEC = ModelSpec(name="faces", architecture="small-cnn", input=INPUT)
N_CLASSES, N_PUBLIC = 5, 9


def public():
    torch.manual_seed(0)
    return randomised(build_architecture("small-cnn", n_classes=N_PUBLIC, channels=3)).eval()


def tuned(first_changed):
    """The public network with another head, its layers changed from `features[first_changed]` on."""
    network = build_architecture("small-cnn", n_classes=N_CLASSES, channels=3).eval()
    network.features = copy.deepcopy(public().features)
    with torch.no_grad():
        for layer in network.features[first_changed:]:
            for parameter in layer.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return network.eval()


def write(network, folder, kind):
    if kind == "safetensors":
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "m.safetensors")
        return folder / "m.safetensors"
    (folder / "m.onnx").write_bytes(exported(network, SHAPE, opset=17, dynamo=kind == "dynamo"))
    return folder / "m.onnx"


def target_of(network):
    return TorchTarget(network, toy_card(n_classes=N_CLASSES, image_shape=SHAPE))


def test_the_front_ends_before_the_first_layer_that_was_tuned(tmp_path):
    path = write(public(), tmp_path, "safetensors")
    ends = [find_public_front(target_of(tuned(first)), path, SPEC) for first in (4, 9, 100)]
    network = tuned(4)
    names = [name for name, _ in network.named_modules()]
    places = [names.index(end.layer) for end in ends]
    assert places == sorted(set(places))
    assert names.index("features.3") <= places[0] < names.index("features.6")
    assert ends[2].layer == "pool"


def test_a_model_tuned_from_its_first_layer_on_has_none(tmp_path):
    assert find_public_front(target_of(tuned(0)), write(public(), tmp_path, "safetensors"), SPEC) is None


@pytest.mark.parametrize("submitted", ["safetensors", "legacy", "dynamo"])
@pytest.mark.parametrize("given", ["safetensors", "legacy", "dynamo"])
def test_formats_exporters_and_folded_norms_do_not_matter(tmp_path, submitted, given):
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
    path = write(tuned(9), folders[0], submitted)
    target = load_target(path, inspect_model(path, SPEC), torch.device("cpu"))
    front = find_public_front(target, write(public(), folders[1], given), SPEC)
    native = find_public_front(target_of(tuned(9)), write(public(), folders[1], "safetensors"), SPEC)
    assert front.shape == native.shape


@pytest.mark.parametrize("kind", ["safetensors", "legacy"])
def test_the_submission_itself_is_not_what_it_was_tuned_from(tmp_path, kind):
    network = tuned(4)
    path = write(network, tmp_path, kind)
    with pytest.raises(InvalidInput, match="same answers"):
        find_public_front(target_of(network), path, SPEC)


def test_nothing_is_compared_where_only_scores_can_be_had(tmp_path):
    target = ToyTarget(toy_templates(N_CLASSES, SHAPE), access=(Access.SCORE, Access.LABEL))
    assert find_public_front(target, write(public(), tmp_path, "safetensors"), SPEC) is None


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = write(public(), tmp_path, "safetensors")
    with pytest.raises(InvalidInput, match="lack"):
        find_public_front(target_of(tuned(4)), path, SPEC.model_copy(update={"architecture": "small-resnet"}))
