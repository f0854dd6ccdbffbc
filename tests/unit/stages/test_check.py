"""The intake check, on real files: every bad submission gets a clear message, and all problems come at once."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import InputSpec
from auditor.errors import InvalidInput, RefusedFile
from auditor.loading.onnx_export import export_onnx
from auditor.service.stages import check
from auditor.service.workspace import Workspace
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext

SPEC = InputSpec(channels=3, height=16, width=16)
N_CLASSES = 4


def images(n_classes, per_class, seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), per_class)
    return rng.integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8), labels


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    network = build_architecture("small-cnn", n_classes=N_CLASSES, channels=3).eval()
    export_onnx(network, SPEC, folder / "model.onnx", n_classes=N_CLASSES)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    for seed, (role, n_classes) in enumerate({"private": N_CLASSES, "public": 6}.items()):
        pixels, labels = images(n_classes, 4, seed)
        np.savez(folder / f"{role}.npz", images=pixels, labels=labels)
    return folder


def manifest(**changes):
    base = {
        "model": {"name": "m", "input": SPEC.model_dump(mode="json"), "n_classes": N_CLASSES},
        "data": {"private": {"path": "private.npz"}, "public": {"path": "public.npz"}},
    }
    for key, value in changes.items():
        base[key] = base.get(key, {}) | value
    return base


def run(folder, tmp_path, file="model.onnx", **changes):
    unit = UnitSpec(
        kind="check",
        key="check",
        params={"model": str(folder / file), "base": str(folder), "manifest": manifest(**changes)},
    )
    workspace = Workspace(tmp_path / "ws", tmp_path / "cache")
    return check.run(unit, workspace, RunContext()), workspace


def test_a_good_submission_leaves_its_card_plan_and_bundles(good, tmp_path):
    value, workspace = run(good, tmp_path)
    assert value["target"]["n_classes"] == N_CLASSES
    for name in ("target.json", "plan.json", "private.npz", "public.npz"):
        assert workspace.output(name).exists()


def test_all_problems_come_at_once_and_nothing_is_written(good, tmp_path):
    with pytest.raises(InvalidInput) as caught:
        run(
            good,
            tmp_path,
            file="nowhere.onnx",
            data={"private": {"path": "missing.npz"}},
            plan={"attacks": [{"name": "pqa"}, {"name": "gmi", "params": {"stepz": 1}}], "priors": [{"name": "gan"}]},
        )
    text = "\n".join(caught.value.problems)
    for part in ("nowhere.onnx", "missing.npz", "unknown attack 'pqa'", "stepz", "unknown prior 'gan'"):
        assert part in text
    assert not (tmp_path / "ws" / "outputs").exists()


def spec(**changes):
    return {"name": "m", "input": SPEC.model_dump(mode="json"), "n_classes": N_CLASSES} | changes


def refusal(folder, tmp_path, file="model.onnx", **changes):
    unit = UnitSpec(
        kind="check",
        key="check",
        params={"model": str(folder / file), "base": str(folder), "manifest": manifest(**changes)},
    )
    with pytest.raises(InvalidInput) as caught:
        check.run(unit, Workspace(tmp_path / "ws", tmp_path / "cache"), RunContext())
    assert not (tmp_path / "ws" / "outputs").exists()
    return caught.value


def test_weights_for_a_repair_are_kept_and_unreadable_ones_refused(good, tmp_path):
    _, workspace = run(good, tmp_path, repair={"weights": "model.safetensors"})
    assert workspace.output("weights.safetensors").read_bytes() == (good / "model.safetensors").read_bytes()
    (tmp_path / "second").mkdir()
    refused = refusal(good, tmp_path / "second", repair={"weights": "model.onnx"})
    assert "repair.weights: the safetensors file cannot be read" in refused.message
    assert "no file at" in refusal(good, tmp_path / "second", repair={"weights": "nowhere.safetensors"}).message


def test_torchvisions_weights_are_named_and_nothing_is_kept(good, tmp_path):
    _, workspace = run(good, tmp_path, repair={"weights": "torchvision:ResNet18_Weights.IMAGENET1K_V1"})
    assert not workspace.output("weights.safetensors").exists()


def test_a_wrong_image_size(good, tmp_path):
    size = SPEC.model_dump(mode="json") | {"height": 24}
    assert "24" in refusal(good, tmp_path, model=spec(input=size)).message


def test_a_wrong_class_count(good, tmp_path):
    assert "5" in refusal(good, tmp_path, model=spec(n_classes=5)).message


def test_labels_outside_the_models_classes(good, tmp_path):
    pixels, labels = images(6, 4, 9)
    np.savez(tmp_path / "six.npz", images=pixels, labels=labels)
    error = refusal(good, tmp_path, data={"private": {"path": str(tmp_path / "six.npz")}})
    assert "5" in error.message


def test_one_class_only(good, tmp_path):
    np.savez(tmp_path / "one.npz", images=images(1, 8, 3)[0], labels=np.zeros(8, np.int64))
    assert "one class only" in refusal(good, tmp_path, data={"private": {"path": str(tmp_path / "one.npz")}}).message


def test_one_image_in_a_class(good, tmp_path):
    pixels, labels = images(4, 3, 3)
    np.savez(tmp_path / "few.npz", images=pixels[:-2], labels=labels[:-2])
    error = refusal(good, tmp_path, data={"private": {"path": str(tmp_path / "few.npz")}})
    assert "fewer than 2 images" in error.message


def test_private_images_among_the_public_ones(good, tmp_path):
    with np.load(good / "private.npz") as data:
        pixels = data["images"]
    np.savez(tmp_path / "leaky.npz", images=pixels[:5])
    error = refusal(good, tmp_path, data={"public": {"path": str(tmp_path / "leaky.npz")}})
    assert "5 of 16" in error.message
    assert "Take the private images out" in error.remedy


def test_a_whole_pickled_module(good, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    error = refusal(good, tmp_path, file=path, model=spec(architecture="small-cnn"))
    assert isinstance(error, RefusedFile)
    assert "onnx" in error.remedy.lower()


def test_torchscript(good, tmp_path):
    path = tmp_path / "model.pt"
    with pytest.warns(FutureWarning, match="jit.script"):
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    assert isinstance(refusal(good, tmp_path, file=path, model=spec(architecture="small-cnn")), RefusedFile)


def saved(model, path):
    path.write_bytes(model.SerializeToString())
    return path


def test_onnx_with_a_custom_domain(good, tmp_path):
    model = onnx.load(good / "model.onnx")
    model.graph.node[0].domain = "com.evil"
    error = refusal(good, tmp_path, file=saved(model, tmp_path / "custom.onnx"))
    assert isinstance(error, RefusedFile)
    assert "com.evil" in error.message


def test_onnx_with_data_outside_its_folder(good, tmp_path):
    model = onnx.load(good / "model.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    assert isinstance(refusal(good, tmp_path, file=saved(model, tmp_path / "outside.onnx")), RefusedFile)


def test_onnx_with_weights_in_a_file_beside_it_is_stored_as_one(good, tmp_path):
    """As torch's exporter writes it when nothing else is asked for."""
    proto = onnx.load(good / "model.onnx")
    onnx.save(proto, tmp_path / "two.onnx", save_as_external_data=True, location="two.onnx.data", size_threshold=0)
    value, workspace = run(good, tmp_path, file=tmp_path / "two.onnx")
    stored = onnx.load(workspace.output("model"), load_external_data=False)
    assert not any(tensor.external_data for tensor in stored.graph.initializer)
    assert value["target"]["weights_digest"] == run(good, tmp_path / "again")[0]["target"]["weights_digest"]


def test_weights_that_are_not_numbers(good, tmp_path):
    model = onnx.load(good / "model.onnx")
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim == 4:
            spoiled = np.full_like(array, np.nan)
            tensor.CopyFrom(onnx.numpy_helper.from_array(spoiled, tensor.name))
            break
    assert "nan" in refusal(good, tmp_path, file=saved(model, tmp_path / "nan.onnx")).message.lower()


def test_a_constant_output(good, tmp_path):
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    weight = onnx.numpy_helper.from_array(np.zeros((768, N_CLASSES), np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", N_CLASSES])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert "constant" in refusal(good, tmp_path, file=saved(model, tmp_path / "c.onnx")).message.lower()


def test_a_file_that_is_no_model(good, tmp_path):
    path = tmp_path / "notes.onnx"
    path.write_text("hello")
    refusal(good, tmp_path, file=path)


def test_bare_weights_need_an_architecture(good, tmp_path):
    assert "architecture" in refusal(good, tmp_path, file="model.safetensors").message


def test_an_attack_cannot_ask_for_a_prior_the_plan_lacks(good, tmp_path):
    error = refusal(good, tmp_path, plan={"attacks": [{"name": "ppa", "prior": "dcgan"}]})
    assert "dcgan" in error.message


def public_model(folder, first_changed):
    """Beside the submission: the weights it was fine-tuned from, as if it had been, from one layer on."""
    network = build_architecture("small-cnn", n_classes=9, channels=3).eval()
    torch.manual_seed(0)
    network.features = build_architecture("small-cnn", n_classes=N_CLASSES, channels=3).features
    with torch.no_grad():
        for parameter in network.features[first_changed:].parameters():
            parameter += 0.05
    export_onnx(network.eval(), SPEC, folder / "public.onnx", n_classes=9)


def test_a_public_model_says_which_layers_an_attacker_knows(good, tmp_path):
    public_model(good, 9)
    value, _ = run(good, tmp_path, model={"public_model": "public.onnx"})
    front = value["target"]["public_front"]
    assert front["shape"][1:] == [8, 8] or front["shape"][1:] == [4, 4]
    assert front["layer"] in value["target"]["inferred"]["public front"]
    assert not any("model.public_model" in warning for warning in value["warnings"])


def test_a_public_model_with_nothing_in_common_is_a_warning(good, tmp_path):
    public_model(good, 0)
    value, _ = run(good, tmp_path, model={"public_model": "public.onnx"})
    assert value["target"]["public_front"] is None
    assert any("model.public_model" in warning for warning in value["warnings"])


def test_a_public_model_that_cannot_be_read_is_named_beside_other_problems(good, tmp_path):
    problems = refusal(good, tmp_path, model={"public_model": "none.onnx"}, data={"private": {"path": "missing.npz"}})
    assert any(problem.startswith("model.public_model: ") for problem in problems.problems)
    assert any("missing.npz" in problem for problem in problems.problems)
