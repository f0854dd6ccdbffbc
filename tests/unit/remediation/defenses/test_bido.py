import pytest
import torch

from auditor.fisher.units import execution_units
from auditor.targets.architectures import build_architecture
from remediation.defenses.bido import coco, gaussian_kernel, hsic, label_kernel
from remediation.resolution_stages import stage_ends

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


@pytest.mark.parametrize(
    ("name", "size", "n_ends"), [("small-cnn", 16, 3), ("small-resnet", 16, 4), ("resnet18", 64, 5)]
)
def test_stages_end_where_the_resolution_falls(name, size, n_ends):
    module = build_architecture(name, n_classes=3, channels=3)
    example = torch.zeros(1, 3, size, size)
    units = execution_units(module, example)
    head = "fc" if name == "resnet18" else "head"
    ends = stage_ends(module, units, head, example)
    assert ends[-1] == head
    assert len(ends) in (n_ends - 1, n_ends, n_ends + 1)
    assert all(not module.get_submodule(path)._forward_hooks for path in ends)


@pytest.mark.parametrize("measure", ["hsic", "coco"])
def test_it_trains_leaves_no_hooks_and_keeps_a_frozen_front(defended, measure):
    """TL-DMI and BiDO together: the base class proves that the frozen units did not move."""
    repaired = defended("bido", boundary=2, measure=measure)
    assert repaired.freeze.digest_before == repaired.freeze.digest_after
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in repaired.module.modules())
    assert torch.isfinite(repaired.module.head.weight).all()


def test_its_features_depend_less_on_the_image_than_plain_ones(defended, tiny_data):
    images = tiny_data.fit.images
    found = []
    for weight in (0.0, 3.0):
        module = defended("bido", epochs=30, input_weight=weight, label_weight=0.0).module
        with torch.no_grad():
            found.append(float(hsic(gaussian_kernel(images), gaussian_kernel(module.embed(images)))))
    assert found[1] < found[0], found
