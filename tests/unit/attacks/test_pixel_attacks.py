"""What the cards of the attacks without public images ask for: MI-Face, pixel descent, DIP and DeepInversion."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn.functional import cross_entropy, softmax

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.deep_inversion import Beside, DeepInversion, DeepInversionConfig, Together, Unsplit
from auditor.attacks.dip import Dip, DipAttackConfig, NoisyLatents
from auditor.attacks.input_statistics import InputStatistics, moments
from auditor.attacks.mi_face import MiFace, MiFaceConfig, StandsStill, doubt
from auditor.attacks.objectives import Scene
from auditor.attacks.picture import jitter, rolled, total_variation
from auditor.attacks.pixel_tv import PixelTv, PixelTvConfig
from auditor.attacks.rows import RowStreams
from auditor.contracts.access import Access
from auditor.errors import Cancelled
from auditor.priors.catalog import PRIORS
from auditor.targets.onnx_graph import interpret
from auditor.targets.views import narrow
from auditor.tensors import ImageBatch, RunContext
from auditor.testing import ToyTarget, toy_card, toy_templates
from auditor.testing.onnx_models import model
from auditor.testing.toy_normalized import NormalizedToyTarget

TEMPLATES = toy_templates(6)
ROWS = Rows(torch.tensor([0, 0, 3, 3]), torch.tensor([0, 1, 0, 1]))
CTX = KeyedContext(attack_key="t")
STILL = {"shift": 0, "flip": False}


def prior(name, shape=(1, 8, 8), **params):
    return PRIORS.build(name, params).train(ImageBatch(torch.zeros(1, *shape)), RunContext())


def toy_view(templates=TEMPLATES, *, kind=ToyTarget, sharpness=2.0, **options):
    return narrow(kind(templates, sharpness=sharpness), Access.WHITE_BOX, **options)


class Indifferent:
    """A target that gives every picture the same logits, through the picture all the same."""

    n_classes, image_shape, module = 6, (1, 8, 8), nn.Identity()
    card = toy_card(n_classes=6)

    def logits(self, images):
        return 0.0 * images.flatten(1)[:, :6]


def scene(images, latents=None):
    empty = torch.zeros(1, len(images), 6)
    labels = torch.zeros(len(images), dtype=torch.int64)
    return Scene(images.flatten(1) if latents is None else latents, images, empty, labels, prior("pixels"))


# MI-Face


def test_doubt_is_one_minus_the_probability():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 1, 2, 2])
    expected = 1 - softmax(logits, dim=1)[torch.arange(5), labels]
    torch.testing.assert_close(doubt(logits, labels), expected)


def test_stopping_rule_by_hand():
    """Row 0 falls, row 1 stands still, row 2 is convinced at the third look, row 3 wavers but falls over the window."""
    costs = torch.tensor([[0.9, 0.5, 0.9, 0.8], [0.8, 0.5, 0.5, 0.9], [0.7, 0.5, 0.01, 0.85], [0.6, 0.5, 0.01, 0.8]])
    rule = StandsStill(4, below=0.01, window=2)
    done = [rule(row, torch.arange(4), step).tolist() for step, row in enumerate(costs)]
    assert done == [
        [False, False, False, False],
        [False, False, False, False],
        [False, True, True, False],
        [False, True, True, False],
    ]


def test_a_row_may_leave_and_the_others_keep_their_own_window():
    rule = StandsStill(3, below=0.0, window=1)
    rule(torch.tensor([0.9, 0.9, 0.9]), torch.arange(3), 0)
    assert rule(torch.tensor([0.8, 0.9]), torch.tensor([0, 2]), 1).tolist() == [False, True]


def test_the_best_so_far_never_becomes_less_likely():
    view = toy_view()
    config = MiFaceConfig(steps=60, lr=400.0, confidence=1.0, window=60)  # steps so long that it overshoots
    result = MiFace(config).invert(view, prior("pixels"), ROWS, CTX, (0.0, 0.1, 0.25, 0.5, 1.0))
    with torch.no_grad():
        along = torch.stack([doubt(view.logits(shot.images), ROWS.labels) for shot in result.snapshots])
    assert bool((along[1:] <= along[:-1] + 1e-6).all())
    assert float(along[-1].mean()) < float(along[0].mean())


def test_every_row_stops_at_the_wanted_confidence_and_costs_nothing_after_it():
    view = toy_view()
    result = MiFace(MiFaceConfig(steps=2000, lr=4.0, confidence=0.9)).invert(view, prior("pixels"), ROWS, CTX, ())
    with torch.no_grad():
        reached = 1 - doubt(view.logits(result.images), ROWS.labels)
    assert result.complete
    assert bool((reached >= 0.9).all())
    assert float(reached.max()) < 0.97
    assert view.counter.forward < 4 * 400


def test_a_convinced_target_is_asked_once_and_an_unconvinced_one_again():
    """The published conditions end a descent; read as conditions to go on they would do the opposite of both."""
    view = toy_view(sharpness=400.0)
    sure = Rows(softmax(view.logits(torch.full((1, 1, 8, 8), 0.5)), 1).argmax(1), torch.tensor([0]))
    view.counter.forward = 0
    MiFace(MiFaceConfig(noise=0.01)).invert(view, prior("pixels"), sure, CTX, ())
    assert view.counter.forward == 1
    many = narrow(ToyTarget(toy_templates(200), sharpness=0.5), Access.WHITE_BOX)
    MiFace(MiFaceConfig(steps=30)).invert(many, prior("pixels"), ROWS, CTX, ())
    assert many.counter.forward == 4 * 30


def test_no_progress_over_a_window_ends_it():
    view = narrow(Indifferent(), Access.WHITE_BOX)
    result = MiFace(MiFaceConfig(window=7)).invert(view, prior("pixels"), ROWS, CTX, ())
    assert view.counter.forward == 4 * 8
    assert result.complete
    torch.testing.assert_close(result.images, result.start)


def test_smoothing_makes_smoother_pictures_and_stays_in_range():
    roughness = []
    for smoothing in (0.0, 0.7):
        config = MiFaceConfig(steps=40, lr=16.0, smoothing=smoothing, confidence=1.0)
        images = MiFace(config).invert(toy_view(), prior("pixels"), ROWS, CTX, ()).images
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1
        roughness.append(total_variation(scene(images)))
    assert bool((roughness[1] < 0.7 * roughness[0]).all())


def test_without_noise_every_sample_of_a_class_is_alike():
    images = MiFace(MiFaceConfig(steps=5, noise=0.0)).invert(toy_view(), prior("pixels"), ROWS, CTX, ()).images
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


# Pixel descent


def test_total_variation_by_hand():
    images = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]], [[[0.3, 0.3], [0.3, 0.3]]]])
    expected = torch.tensor([(1 + 0) / 2 + (0.25 + 0.25) / 2, 0.0])
    torch.testing.assert_close(total_variation(scene(images)), expected)


def test_rolling_by_whole_pixels():
    images = torch.rand(3, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    draws = torch.tensor([[0.0, 0.99, 0.9], [0.5, 0.5, 0.1], [0.99, 0.0, 0.1]])
    moved = rolled(images, draws, 2, flip=True)
    assert torch.equal(moved[0], images[0].roll((-2, 2), (1, 2)))
    assert torch.equal(moved[1], images[1].flip(2))
    assert torch.equal(moved[2], images[2].flip(2).roll((2, -2), (1, 2)))
    assert torch.equal(rolled(images, draws, 2, flip=False)[1], images[1])


def test_rolling_has_a_gradient_that_rolls_back():
    images = torch.rand(2, 1, 4, 4, requires_grad=True)
    draws = torch.tensor([[0.1, 0.8, 0.2], [0.9, 0.3, 0.7]])
    weights = torch.rand(2, 1, 4, 4)
    (gradient,) = torch.autograd.grad((rolled(images, draws, 1, flip=True) * weights).sum(), images)
    torch.testing.assert_close(rolled(gradient, draws, 1, flip=True), weights)


def test_jitter_is_left_out_where_there_is_nothing_to_do():
    assert jitter(CTX, ROWS, 0, flip=False) is None
    augmenter = jitter(CTX, ROWS, 2, flip=True)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    first = augmenter(images, torch.arange(4), 0)
    assert first.shape == images.shape
    assert torch.equal(first.flatten(1).sort(dim=1).values, images.flatten(1).sort(dim=1).values)
    assert torch.equal(augmenter(images[2:], torch.tensor([2, 3]), 0), first[2:])
    assert not torch.equal(augmenter(images, torch.arange(4), 1), first)


def test_pictures_are_smoother_with_the_variation_term_than_without():
    roughness = [
        total_variation(
            scene(
                PixelTv(PixelTvConfig(steps=100, tv_weight=weight, **STILL))
                .invert(toy_view(), prior("pixels"), ROWS, CTX, ())
                .images
            )
        )
        for weight in (0.0, 10.0)
    ]
    assert bool((roughness[1] < 0.5 * roughness[0]).all())


def test_pictures_are_greyer_with_the_energy_term_than_without():
    contrast = [
        PixelTv(PixelTvConfig(steps=100, tv_weight=0, l2_weight=weight, **STILL))
        .invert(toy_view(), prior("pixels"), ROWS, CTX, ())
        .images.std()
        for weight in (0.0, 10.0)
    ]
    assert float(contrast[1]) < 0.7 * float(contrast[0])


@pytest.mark.parametrize("attack", [PixelTv(PixelTvConfig(steps=5, **STILL)), Dip(DipAttackConfig(steps=5, **STILL))])
@pytest.mark.parametrize("change", [{"shift": 1}, {"flip": True}])
def test_shift_and_mirror_are_live(attack, change):
    moved = type(attack)(attack.config.model_copy(update=change))
    made = prior(attack.default_prior)
    results = [one.invert(toy_view(), made, ROWS, CTX, ()).images for one in (attack, moved)]
    assert not torch.equal(*results)


# DIP


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (3, 33, 28), (1, 32, 64)])
def test_dip_takes_any_size(shape):
    templates = toy_templates(6, shape)
    view = toy_view(templates, sharpness=0.1)
    made = prior("dip", shape, width=4)
    result = Dip(DipAttackConfig(steps=25, lr=0.1, **STILL)).invert(view, made, ROWS, CTX, ())
    assert bool(torch.isfinite(result.images).all())
    with torch.no_grad():
        before, after = (cross_entropy(view.logits(images), ROWS.labels) for images in (result.start, result.images))
    assert float(after) < float(before)


def test_without_noise_dip_ends_elsewhere():
    made = prior("dip", width=4)
    results = [
        Dip(DipAttackConfig(steps=5, noise=noise, **STILL)).invert(toy_view(), made, ROWS, CTX, ()).images
        for noise in (0.0, 0.03)
    ]
    assert not torch.equal(*results)


class Recorded:
    """An objective that keeps what it was shown."""

    queries_per_row = 3

    def __init__(self):
        self.seen = []

    def __call__(self, latents, index, step):
        self.seen.append(latents)
        return latents.sum(dim=1)


def test_noise_is_of_the_row_and_the_step_whatever_the_chunks():
    inner = Recorded()
    noisy = NoisyLatents(inner, RowStreams(CTX, ROWS, "noise"), 0.5)
    assert noisy.queries_per_row == 3
    latents = torch.zeros(4, 300)
    noisy(latents, torch.arange(4), 0)
    noisy(latents[1:3], torch.tensor([1, 2]), 0)
    noisy(latents, torch.arange(4), 1)
    assert torch.equal(inner.seen[1], inner.seen[0][1:3])
    assert not torch.equal(inner.seen[2], inner.seen[0])
    assert float(inner.seen[0].std()) == pytest.approx(0.5, rel=0.1)
    alone = Recorded()
    last = Rows(ROWS.labels[3:], ROWS.sample[3:])
    NoisyLatents(alone, RowStreams(CTX, last, "noise"), 0.5)(latents[:1], torch.tensor([0]), 0)
    assert torch.equal(alone.seen[0], inner.seen[0][3:])


# DeepInversion


def norm_of(n_channels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(n_channels).eval()
    norm.running_mean = torch.randn(n_channels, generator=generator)
    norm.running_var = torch.rand(n_channels, generator=generator) + 0.1
    return norm


def slow_deviation(inputs, norm):
    """Of all of (B, C, H, W) together, channel by channel in double precision."""
    shifts, spreads = [], []
    for channel in range(inputs.shape[1]):
        values = inputs[:, channel].flatten().double().numpy()
        scale = float(norm.running_var[channel]) + norm.eps
        shifts.append((values.mean() - float(norm.running_mean[channel])) / scale**0.5)
        spreads.append((values.var() - float(norm.running_var[channel])) / scale)
    return np.sqrt(np.mean(np.square(shifts))) + np.sqrt(np.mean(np.square(spreads)))


def test_deviation_against_the_slow_way():
    norm = norm_of(3)
    inputs = 3 + torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    found = moments(inputs, norm)
    assert found.deviation().tolist() == pytest.approx([slow_deviation(row[None], norm) for row in inputs], rel=1e-4)
    assert found.pooled().deviation().tolist() == pytest.approx([slow_deviation(inputs, norm)], rel=1e-4)


def test_matching_statistics_deviate_by_nothing_and_have_a_finite_gradient():
    inputs = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    norm = norm_of(3)
    norm.running_mean = inputs.detach().mean(dim=(0, 2, 3))
    norm.running_var = inputs.detach().var(dim=(0, 2, 3), correction=0)
    found = moments(inputs, norm).deviation()
    assert float(found.detach()) < 1e-4
    (gradient,) = torch.autograd.grad(found.sum(), inputs)
    assert bool(torch.isfinite(gradient).all())


NORMED = NormalizedToyTarget(TEMPLATES, sharpness=2.0)


def layers_of(images):
    """What each batch norm of the toy is shown."""
    with torch.no_grad():
        cells = torch.nn.functional.pixel_unshuffle(NORMED.module.pixels(images), 2)
    return (images, NORMED.module.pixels), (cells, NORMED.module.cells)


def whole_deviation(images):
    """Of a batch, by the slow way: the first layer counts ten times."""
    first, second = (slow_deviation(inputs, norm) for inputs, norm in layers_of(images))
    return (10 * first + second) / 2


def test_a_batch_is_judged_together_and_a_row_as_one_more_member_of_it():
    batch, rows = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(0)).split([5, 4])
    with InputStatistics(tuple(NORMED.module.modules())) as statistics, torch.no_grad():
        together = Together(statistics, 10.0)
        NORMED.logits(batch)
        assert together(scene(batch)).tolist() == pytest.approx([whole_deviation(batch)] * 5, rel=1e-4)
        NORMED.logits(rows)
        beside = Beside(together, 5)(scene(rows))
    expected = [6 * whole_deviation(torch.cat([batch, row[None]])) for row in rows]
    assert beside.tolist() == pytest.approx(expected, rel=1e-4)


def test_a_row_that_joins_is_pulled_as_hard_as_a_member():
    batch = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with InputStatistics(tuple(NORMED.module.modules())) as statistics:
        together = Together(statistics, 10.0)
        NORMED.logits(batch)
        (member,) = torch.autograd.grad(together(scene(batch)).sum(), batch)
        others, last = batch.detach()[:4], batch.detach()[4:].requires_grad_()
        NORMED.logits(others)
        together(scene(others))
        NORMED.logits(last)
        (joined,) = torch.autograd.grad(Beside(together, 4)(scene(last)).sum(), last)
    torch.testing.assert_close(joined, member[4:], atol=1e-5, rtol=1e-3)


def test_a_model_without_batch_norms_is_told_apart_and_refused():
    attack = DeepInversion(DeepInversionConfig())
    assert "no BatchNorm2d" in attack.inapplicable(ToyTarget(TEMPLATES))
    assert attack.inapplicable(NORMED) == ""
    bare = NormalizedToyTarget(TEMPLATES)
    bare.module.pixels = nn.BatchNorm2d(1, track_running_stats=False)
    bare.module.cells = nn.Identity()
    assert "no BatchNorm2d" in attack.inapplicable(bare)
    assert "no BatchNorm2d" in attack.inapplicable(ToyTarget(TEMPLATES, access=(Access.SCORE,)))
    with pytest.raises(ValueError, match="no BatchNorm2d"):
        DeepInversion(DeepInversionConfig()).invert(toy_view(), prior("pixels"), ROWS, CTX, ())


def hooks_of(view):
    return sum(len(layer._forward_pre_hooks) + len(layer._forward_hooks) for layer in view.layers)


def test_hooks_are_gone_afterwards_whatever_happened():
    view = toy_view(kind=NormalizedToyTarget)
    attack = DeepInversion(DeepInversionConfig(steps=3, companions=4))
    attack.invert(view, prior("pixels"), ROWS, CTX, ())
    assert hooks_of(view) == 0
    seen = []
    cancelled = KeyedContext(attack_key="t", is_cancelled=lambda: seen.append(hooks_of(view)) or len(seen) > 1)
    with pytest.raises(Cancelled):
        attack.invert(view, prior("pixels"), ROWS, cancelled, ())
    assert seen[0] == 3
    assert hooks_of(view) == 0


def test_statistics_come_three_times_nearer_than_those_of_noise():
    every = Rows(torch.arange(6).repeat(2), torch.arange(2).repeat_interleave(6))
    view = toy_view(kind=NormalizedToyTarget)
    config = DeepInversionConfig(steps=200, companions=12, **STILL)
    result = DeepInversion(config).invert(view, prior("pixels"), every, CTX, ())
    noise, reached = whole_deviation(result.start), whole_deviation(result.images)
    assert reached < noise / 3
    without = DeepInversion(config.model_copy(update={"statistics_weight": 0.0}))
    assert reached < 0.5 * whole_deviation(without.invert(view, prior("pixels"), every, CTX, ()).images)


def test_the_order_of_the_rows_does_not_matter():
    swapped = Rows(ROWS.labels[[3, 1, 0, 2]], ROWS.sample[[3, 1, 0, 2]])
    attack = DeepInversion(DeepInversionConfig(steps=30, companions=6))
    view, made = toy_view(kind=NormalizedToyTarget), prior("pixels")
    first = attack.invert(view, made, ROWS, CTX, ()).images
    second = attack.invert(view, made, swapped, CTX, ()).images
    torch.testing.assert_close(second, first[[3, 1, 0, 2]], atol=1e-4, rtol=0)


def test_companions_are_of_every_class_before_any_comes_twice():
    rows = DeepInversion(DeepInversionConfig(companions=8))._companions(6, CTX)
    assert sorted(rows.labels[:6].tolist()) == list(range(6))
    assert torch.equal(rows.labels[6:], rows.labels[:2])
    assert rows.sample.tolist() == list(range(-1, -9, -1))


def test_a_budget_that_ends_among_the_companions_leaves_the_pictures_as_they_were():
    view = toy_view(kind=NormalizedToyTarget, max_queries=20)
    result = DeepInversion(DeepInversionConfig(companions=6)).invert(view, prior("pixels"), ROWS, CTX, (0.5,))
    assert view.counter.forward == 18
    assert not result.complete
    assert torch.equal(result.images, result.start)
    assert torch.equal(result.snapshots[0].images, result.start)


def test_companions_are_one_chunk_whatever_the_batch_size():
    slices = []
    Unsplit(KeyedContext(attack_key="t", batch_size=2)).map(9, slices.append)
    assert slices == [slice(0, 9)]


def test_the_step_size_rises_and_then_falls_to_nothing():
    attack = DeepInversion(DeepInversionConfig(warm_up=4))
    factors = [attack._schedule(step, 50) for step in range(50)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(later < earlier for earlier, later in pairwise(factors[4:]))
    assert 0 < factors[-1] < 0.01
    assert DeepInversion(DeepInversionConfig(warm_up=100))._schedule(0, 1) == 1.0


@pytest.mark.parametrize("fixed", [False, True])
def test_batch_norms_of_an_onnx_graph_are_read_even_where_it_runs_in_padded_pieces(fixed):
    constants = {"scale": np.ones(3), "shift": np.zeros(3), "m": np.array([0.2, 0.5, 0.7]), "v": np.full(3, 0.1)}
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    nodes = [helper.make_node("BatchNormalization", ["x", *constants], ["a"])]
    if fixed:  # channels into the batch and back, in shapes made for four rows
        tensors += [
            numpy_helper.from_array(np.array(shape), name) for name, shape in (("to", [12, 16]), ("back", [4, 48]))
        ]
        nodes += [helper.make_node("Reshape", ["a", "to"], ["b"]), helper.make_node("Relu", ["b"], ["c"])]
        nodes += [helper.make_node("Reshape", ["c", "back"], ["y"])]
    else:
        nodes += [helper.make_node("Flatten", ["a"], ["y"])]
    module = interpret(model(nodes, (4 if fixed else "n", 3, 4, 4), tensors), (3, 4, 4)).eval()
    assert module.program.fixed_batch == (4 if fixed else None)
    images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with InputStatistics(tuple(module.modules())) as statistics, torch.no_grad():
        module(images)
        (found,) = statistics.latest(len(images))
    (norm,) = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    torch.testing.assert_close(found.deviation(), moments(images, norm).deviation())
