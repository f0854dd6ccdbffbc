import onnx
import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.contracts.manifest import InputSpec
from auditor.fisher.units import execution_units
from auditor.loading.onnx_export import export_onnx
from auditor.targets.architectures import build_architecture
from auditor.targets.onnx_graph import interpret
from auditor.training import Step
from remediation.defenses import bido
from remediation.defenses.bido import BilateralLoss, coco, gaussian_kernel, hsic, label_kernel
from remediation.heads import find_head
from remediation.resolution_stages import stage_ends, watched_inputs

ROWS = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))


def centring(m):
    return torch.eye(m, dtype=torch.float64) - torch.ones(m, m, dtype=torch.float64) / m


def test_kernels_by_hand():
    kernel = gaussian_kernel(ROWS)
    expected = torch.exp(-torch.tensor((ROWS[1] - ROWS[4]).square().sum().item()) / (2 * 25 * 5)).double()
    torch.testing.assert_close(kernel[1, 4], expected, rtol=1e-5, atol=1e-7)
    assert label_kernel(torch.tensor([0, 2, 0])).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_hsic_is_the_trace_with_written_out_inverses():
    a, b, m = gaussian_kernel(ROWS), gaussian_kernel(ROWS.flip(0)), 12
    H, ridge = centring(m), 1e-5 * m * torch.eye(m, dtype=torch.float64)
    slow = [H @ k @ H @ torch.linalg.inv(H @ k @ H + ridge) for k in (a, b)]
    torch.testing.assert_close(hsic(a, b), torch.trace(slow[0] @ slow[1]), rtol=1e-6, atol=1e-9)


def test_coco_is_the_root_of_the_norm_of_the_centred_product():
    a, b, H = gaussian_kernel(ROWS), label_kernel(torch.arange(12) % 3), centring(12)
    slow = torch.linalg.matrix_norm((H @ a @ H) @ (H @ b @ H)).sqrt() / 12
    torch.testing.assert_close(coco(a, b), slow, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("measure", [hsic, coco])
def test_what_depends_measures_more_than_what_does_not(measure):
    labels = torch.arange(60) % 3
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(60, 2, generator=generator)
    depending = 6 * labels[:, None].float() + 0.1 * noise
    wanted = label_kernel(labels)
    assert float(measure(gaussian_kernel(depending), wanted)) > 1.5 * float(measure(gaussian_kernel(noise), wanted))


@pytest.mark.parametrize("measure", [hsic, coco])
def test_what_tells_nothing_measures_nothing(measure):
    assert float(measure(gaussian_kernel(ROWS), gaussian_kernel(torch.ones(12, 3)))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("measure", [hsic, coco])
@pytest.mark.parametrize("rows", [ROWS, ROWS.double(), ROWS[:1].repeat(12, 1), torch.zeros(12, 5)])
def test_slopes_are_finite_also_where_rows_are_equal(measure, rows):
    features = rows.clone().requires_grad_()
    measure(gaussian_kernel(ROWS), gaussian_kernel(features)).backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("measure", [hsic, coco])
def test_a_batch_of_one_class_has_a_slope_of_zero(measure):
    """A root has no slope at 0, which is what the dependence on one label is."""
    features = ROWS.clone().requires_grad_()
    measure(gaussian_kernel(features), label_kernel(torch.zeros(12, dtype=torch.int64))).backward()
    assert features.grad.isfinite().all()
    assert float(features.grad.abs().max()) < 1e-6


def ends(module, shape):
    example = torch.zeros(1, *shape)
    units = execution_units(module, example)
    return stage_ends(module, units, find_head(module, units, 3), example)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("small-cnn", ("features.7", "features.14", "head")),
        ("small-resnet", ("blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1", "head")),
        ("resnet18", ("layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1", "fc")),
        ("vgg11", ("features.3", "features.6", "features.11", "features.16", "classifier.0", "classifier.6")),
        ("swin_t", ("features.2.reduction", "features.4.reduction", "features.6.reduction", "head")),
    ],
)
def test_stages_end_where_the_resolution_falls(name, expected):
    """After a max-pool of a VGG, before the stride of a ResNet, before a patch merging, whose channels come last."""
    module = build_architecture(name, n_classes=3, channels=3)
    assert ends(module, (3, 64, 64)) == expected
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


def test_a_gate_that_pools_ends_no_stage():
    """Squeeze-and-excitation layers see one position, and the layer behind them all of them again."""
    found = ends(build_architecture("mobilenet_v3_small", n_classes=3, channels=3), (3, 64, 64))
    assert len(found) == 6
    assert not [path for path in found if ".fc" in path]


@pytest.mark.parametrize("name", ["small-cnn", "small-resnet"])
def test_an_interpreted_graph_has_the_stages_of_its_network(tmp_path, name):
    """A graph has no pooling modules to hook and no names to go by."""
    network = build_architecture(name, n_classes=3, channels=3).eval()
    export_onnx(network, InputSpec(channels=3, height=16, width=16), tmp_path / "m.onnx", n_classes=3)
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = []
    for module in (network, interpret(onnx.load(tmp_path / "m.onnx"), (3, 16, 16))):
        with watched_inputs(module, ends(module, (3, 16, 16))) as seen, torch.no_grad():
            module(images)
        found.append([torch.cat(calls).flatten(1) for calls in seen.values()])
    assert len(found[0]) == len(found[1]) > 2
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


def test_the_loss_is_the_formula_over_the_stages(tiny_network, tiny_data):
    network, images, labels = tiny_network.eval(), tiny_data.fit.images, tiny_data.fit.labels
    value = BilateralLoss(ends(network, (1, 16, 16)), hsic, 0.3, 0.7)(Step(network, images, images, labels, 0, 1))
    with torch.no_grad():
        expected = cross_entropy(network(images), labels)
        for features in (network.features[:7](images), network.features[:14](images), network.embed(images)):
            kernel = gaussian_kernel(features)
            expected += 0.3 * hsic(gaussian_kernel(images), kernel) - 0.7 * hsic(kernel, label_kernel(labels))
    torch.testing.assert_close(value.detach(), expected, rtol=1e-4, atol=1e-5)
    value.backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_what_is_frozen_is_not_measured(tiny_network, tiny_data):
    """The first stage gets no slope, so its dependence would be a constant paid for at every step."""
    measured = []

    def counting(a, b):
        measured.append(a)
        return hsic(a, b)

    tiny_network.features[:9].requires_grad_(False)
    stages = ends(tiny_network, (1, 16, 16))
    step = Step(tiny_network, tiny_data.fit.images, tiny_data.fit.images, tiny_data.fit.labels, 0, 1)
    BilateralLoss(stages, counting, 1.0, 1.0)(step)
    assert len(measured) == 2 * 2


def test_hooks_are_removed_when_the_network_fails(tiny_network):
    with pytest.raises(RuntimeError), watched_inputs(tiny_network, ["head"]):
        tiny_network(torch.zeros(1, 5, 16, 16))
    assert not tiny_network.head._forward_pre_hooks


@pytest.mark.parametrize("measure", ["hsic", "coco"])
def test_it_trains_leaves_no_hooks_and_keeps_a_frozen_front(defended, tiny_network, measure):
    """TL-DMI and BiDO together: what is frozen stays as it was bit by bit, and the rest moves."""
    repaired = defended("bido", boundary=2, measure=measure)
    assert repaired.freeze.digest_before == repaired.freeze.digest_after
    frozen, fresh = {*repaired.freeze.parameters, *repaired.freeze.buffers}, tiny_network.state_dict()
    same = {name for name, value in repaired.module.state_dict().items() if torch.equal(value, fresh[name])}
    assert frozen
    assert frozen == same
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in repaired.module.modules())
    assert torch.isfinite(repaired.module.head.weight).all()


@pytest.mark.parametrize(("kind", "measure", "weight"), [("hsic", hsic, 3.0), ("coco", coco, 300.0)])
def test_its_features_depend_less_on_the_image_than_plain_ones(defended, tiny_data, kind, measure, weight):
    images, found = tiny_data.fit.images, []
    for input_weight in (0.0, weight):
        module = defended("bido", epochs=30, measure=kind, input_weight=input_weight, label_weight=0.0).module
        with torch.no_grad():
            found.append(float(measure(gaussian_kernel(images), gaussian_kernel(module.features[:14](images)))))
    assert found[1] < 0.8 * found[0], found


def test_the_weights_default_to_the_authors_for_the_measure(monkeypatch, defended):
    made = []
    monkeypatch.setattr(bido, "BilateralLoss", lambda *given: made.append(given[1:]) or BilateralLoss(*given))
    for params in ({}, {"measure": "coco"}, {"measure": "coco", "input_weight": 0.0}):
        defended("bido", epochs=1, **params)
    assert made == [(hsic, 0.05, 0.5), (coco, 1.0, 50.0), (coco, 0.0, 50.0)]
