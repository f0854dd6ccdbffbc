"""PSNR, SSIM and the perceptual distance against slow and obvious ones, and what their controls say."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from auditor.contracts.scores import Measured, NotMeasured
from auditor.evaluation.base import Reference
from auditor.evaluation.evaluator import TrainedEvaluator
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.judge import Judge, JudgeIndex
from auditor.evaluation.judge_network import JudgeNetwork, JudgeShape
from auditor.evaluation.split_metrics import (
    Pairs,
    PerceptualDistance,
    another_class,
    exchanged_rates,
    fidelity_scores,
    perceptual_distance,
    psnr,
    ssim,
)
from auditor.tensors import RunContext
from auditor.testing import toy_templates

BOOTSTRAP = Bootstrap(200, 0)
CTX = RunContext()


def pictures(n, shape=(3, 20, 24), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def noisy(images, amount, seed=1):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + amount * noise).clamp(0, 1)


def ssim_by_loops(x, y):
    """The definition, window by window, in plain numpy: one image (C, H, W)."""
    C, H, W = x.shape
    size = min(11, H if H % 2 else H - 1, W if W % 2 else W - 1)
    offsets = np.arange(size) - size // 2
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for c in range(C):
        for top in range(H - size + 1):
            for left in range(W - size + 1):
                a = x[c, top : top + size, left : left + size].astype(np.float64)
                b = y[c, top : top + size, left : left + size].astype(np.float64)
                ma, mb = (weights * a).sum(), (weights * b).sum()
                va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
                vab = (weights * (a - ma) * (b - mb)).sum()
                top_part = (2 * ma * mb + 1e-4) * (2 * vab + 9e-4)
                found.append(top_part / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return float(np.mean(found))


def test_psnr_by_hand():
    black = torch.zeros(3, 1, 4, 4)
    other = torch.stack([torch.full((1, 4, 4), value) for value in (0.0, 0.1, 1.0)])
    assert psnr(black, other).tolist() == pytest.approx([10 * math.log10(12 * 255**2), 20.0, 0.0], abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 24), (1, 11, 30), (3, 10, 16)])
def test_ssim_is_the_definition(shape):
    x = pictures(3, shape)
    y = torch.stack([noisy(x[0], 0.1), x[1].flip(1), x[2] * 0.5])
    expected = [ssim_by_loops(a.numpy(), b.numpy()) for a, b in zip(x, y, strict=True)]
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=1e-6)


# scikit-image 0.26.0, structural_similarity(x, y, channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5,
# use_sample_covariance=False) on the arrays below
SCIKIT_IMAGE = (0.8633938986, 0.9290990046, 0.0076606336)


def test_ssim_gives_the_numbers_of_scikit_image():
    i, j = np.meshgrid(np.arange(20), np.arange(24), indexing="ij")
    x = np.stack([(np.sin(0.3 * i + c) * np.cos(0.2 * j) + 1) / 2 for c in range(3)]).astype(np.float32)
    others = (
        np.roll(x, 2, axis=2),
        np.clip(x * 0.7 + 0.1, 0, 1),
        ((7 * i + 13 * j) % 17 / 16)[None] * np.ones((3, 1, 1)),
    )
    values = [float(ssim(torch.tensor(x)[None], torch.tensor(y, dtype=torch.float32)[None])) for y in others]
    assert values == pytest.approx(SCIKIT_IMAGE, abs=1e-5)


def test_a_perfect_copy_has_ssim_one_and_distance_zero():
    x = pictures(2)
    torch.testing.assert_close(ssim(x, x), torch.ones(2))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    assert PerceptualDistance(network, network)(x, x, CTX).tolist() == [0, 0]


def test_the_perceptual_distance_is_its_definition():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2))
    x, y = pictures(3), pictures(3, seed=9)
    expected = []
    with torch.no_grad():
        for a, b in zip(x, y, strict=True):
            layers = []
            first = [network[0](image[None])[0] for image in (a, b)]
            second = [network[2](map_.relu()[None])[0] for map_ in first]
            for u, v in (first, second):
                places = [
                    float(((u[:, i, j] / u[:, i, j].norm() - v[:, i, j] / v[:, i, j].norm()) ** 2).sum())
                    for i in range(u.shape[1])
                    for j in range(u.shape[2])
                ]
                layers.append(sum(places) / len(places))
            expected.append(sum(layers) / 2)
    distance = PerceptualDistance(network, network)
    assert distance(x, y, CTX).tolist() == pytest.approx(expected, rel=1e-4)
    assert distance(x, y, RunContext(batch_size=2)).tolist() == pytest.approx(expected, rel=1e-4)
    assert not any(layer._forward_hooks for layer in network)


def test_the_distance_grows_with_noise_and_with_blur():
    torch.manual_seed(0)
    judge = JudgeNetwork(JudgeShape(channels=3, height=32, width=32, base_width=8)).eval()
    x = toy_templates(6, (3, 32, 32))
    distance = PerceptualDistance(judge, judge)
    by_noise = [float(distance(noisy(x, s), x, CTX).mean()) for s in (0.02, 0.1, 0.3)]
    sharp = noisy(x, 0.2)
    blurred = [interpolate(avg_pool2d(sharp, k), (32, 32), mode="bilinear") for k in (2, 8)]
    by_blur = [float(distance(y, sharp, CTX).mean()) for y in blurred]
    assert by_noise == sorted(by_noise)
    assert by_noise[0] < by_noise[2] / 2
    assert by_blur[0] < by_blur[1]


class Nearest(nn.Module):
    """Logits of the nearest template, through a convolution, so that there are feature maps too."""

    def __init__(self, templates):
        super().__init__()
        self.register_buffer("templates", templates)
        self.look = nn.Conv2d(templates.shape[1], 4, 3)

    def forward(self, images):
        self.look(images)
        return -((images[:, None] - self.templates[None]) ** 2).flatten(2).sum(dim=2)


def reference(templates):
    """An evaluator and a judge that both recognise the nearest template."""
    K, shape = len(templates), tuple(templates.shape[1:])
    torch.manual_seed(0)
    evaluator = TrainedEvaluator(Nearest((templates - 0.5) * 4), "nearest", K, shape, "d", 0, 1, "t")
    judge = Judge(lambda images: images.flatten(1) - 0.5, "supplied", "supplied", "pixels", "j")
    centroids = nn.functional.normalize(templates.flatten(1) - 0.5, dim=1)
    return Reference(evaluator, JudgeIndex(judge, centroids, torch.ones(K, dtype=torch.bool)))


TEMPLATES = toy_templates(6, (1, 8, 8))
LABELS = np.repeat(np.arange(6), 3)


def as_bytes(images):
    return (images * 255).round().to(torch.uint8).numpy()


TRUTH = as_bytes(noisy(TEMPLATES[torch.from_numpy(LABELS)], 0.02))


def scores_of(images, mean_image=None, labels=LABELS, truth=TRUTH):
    pairs = Pairs(images, truth, labels, mean_image)
    return {score.metric: score for score in fidelity_scores(pairs, reference(TEMPLATES), BOOTSTRAP, CTX)}


def test_every_score_has_its_two_controls():
    found = scores_of(TRUTH, mean_image=as_bytes(TEMPLATES.mean(dim=0)))
    names = {prefix + metric for metric in ("psnr", "ssim", "perceptual") for prefix in ("", "control_", "mean_image_")}
    assert set(found) == names
    assert all(isinstance(score, Measured) for score in found.values())
    assert found["psnr"].unit == "dB"
    assert found["psnr"].value == pytest.approx(10 * math.log10(12 * 255**2))
    assert found["ssim"].value == pytest.approx(1)
    assert found["perceptual"].value == 0
    assert not found["perceptual"].higher_is_riskier
    for control in ("control_", "mean_image_"):
        assert found[f"{control}psnr"].high < 30
        assert found[f"{control}ssim"].high < 0.9
        assert found[f"{control}perceptual"].low > 0


def test_an_attack_that_always_draws_the_same_is_no_better_than_its_control():
    constant = np.repeat(as_bytes(TEMPLATES.mean(dim=0))[None], len(LABELS), axis=0)
    found = scores_of(constant, mean_image=constant[0])
    for metric in ("psnr", "ssim", "perceptual"):
        assert found[metric].value == found[f"control_{metric}"].value == found[f"mean_image_{metric}"].value


def test_what_is_missing_is_said():
    found = scores_of(TRUTH)
    assert "public" in found["mean_image_psnr"].reason
    one_class = scores_of(TRUTH[:3], labels=LABELS[:3], truth=TRUTH[:3])
    assert "one class" in one_class["control_ssim"].reason
    nobody = fidelity_scores(Pairs(TRUTH, TRUTH, LABELS, None), Reference(None, None), BOOTSTRAP, CTX)
    table = {score.metric: score for score in nobody}
    assert isinstance(table["perceptual"], NotMeasured)
    assert isinstance(table["psnr"], Measured)


def test_intervals_resample_classes():
    """Twice as many images of each class, all alike, say nothing more about other classes."""
    rebuilt = as_bytes(noisy(torch.from_numpy(TRUTH).float() / 255, 0.1))
    few = scores_of(rebuilt)["psnr"]
    twice = scores_of(np.tile(rebuilt, (2, 1, 1, 1)), labels=np.tile(LABELS, 2), truth=np.tile(TRUTH, (2, 1, 1, 1)))
    assert twice["psnr"].n == 2 * few.n
    assert (twice["psnr"].low, twice["psnr"].high) == pytest.approx((few.low, few.high))


def test_another_class_is_another_class_and_the_same_every_time():
    other = another_class(LABELS, BOOTSTRAP)
    assert (LABELS[other] != LABELS).all()
    assert (other == another_class(LABELS, BOOTSTRAP)).all()
    assert another_class(np.zeros(4, np.int64), BOOTSTRAP) is None


def test_the_control_of_identification_is_low_for_true_copies_and_full_for_one_picture_for_all():
    copies = exchanged_rates(TRUTH, LABELS, reference(TEMPLATES), CTX)
    assert copies.both.tolist() == [0] * 6
    assert copies.n.tolist() == [15] * 6
    same = exchanged_rates(as_bytes(TEMPLATES[2:3]).repeat(len(LABELS), 0), LABELS, reference(TEMPLATES), CTX)
    assert same.both.tolist() == [0, 0, 1, 0, 0, 0]
    assert isinstance(exchanged_rates(TRUTH[:3], LABELS[:3], reference(TEMPLATES), CTX), NotMeasured)


def test_the_judge_s_network_is_preferred_and_the_evaluator_s_stands_in():
    given = reference(TEMPLATES)
    assert perceptual_distance(given)._layers == [given.evaluator.module.look]
    network = JudgeNetwork(JudgeShape(channels=1, height=8, width=8, base_width=4))
    trained = Judge(network, "trained", "self-supervised", "a", "d")
    index = JudgeIndex(trained, given.judge.centroids, given.judge.present)
    own = perceptual_distance(Reference(given.evaluator, index))
    assert own._layers == [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert perceptual_distance(Reference(None, None)) is None
