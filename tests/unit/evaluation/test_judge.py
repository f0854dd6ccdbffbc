"""The judge: trained on public images alone, it identifies classes it never saw."""

from __future__ import annotations

import pytest
import torch

from auditor.contracts.plan import JudgeTraining
from auditor.contracts.scores import Measured, NotMeasured
from auditor.errors import InvalidInput
from auditor.evaluation.cards import judge_card
from auditor.evaluation.degradation import degrade, gaussian_blur, smooth, smoothing_components
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.judge import index_judge, load_judge, save_judge, supplied_judge
from auditor.evaluation.judge_training import (
    METRIC_LEARNING,
    SELF_SUPERVISED,
    choose_objective,
    cosface_loss,
    nt_xent_loss,
    train_judge,
    within_whitening,
)
from auditor.evaluation.mirroring import mirrors_fit
from auditor.tensors import ImageBatch, RunContext
from auditor.testing.builders import toy_images
from auditor.testing.toy import toy_templates

from .conftest import N_CLASSES, SHAPE, SmallAudit

BOOTSTRAP = Bootstrap(200, 0)


def identification(audit: SmallAudit, judge, ctx: RunContext, images=None) -> float:
    index = index_judge(judge, audit.fit, N_CLASSES, ctx)
    chosen = index.similarities(audit.heldout.images if images is None else images, ctx).argmax(dim=1)
    return float((chosen == audit.heldout.labels).float().mean())


def test_it_identifies_classes_it_never_saw(small_audit: SmallAudit, ctx: RunContext):
    assert small_audit.judge.objective == METRIC_LEARNING
    assert identification(small_audit, small_audit.judge, ctx) > 0.8
    blurred = gaussian_blur(small_audit.heldout.images, 0.6)
    assert identification(small_audit, small_audit.judge, ctx, blurred) > 0.8


def test_without_labels_it_contrasts_views(small_audit: SmallAudit, ctx: RunContext):
    judge = train_judge(ImageBatch(small_audit.public.images), JudgeTraining(epochs=3, embedding_dim=32), ctx)
    assert judge.objective == SELF_SUPERVISED
    assert identification(small_audit, judge, ctx) > 0.5


def test_one_image_each_is_no_ground_for_metric_learning():
    images = torch.rand(200, 1, 8, 8)
    singles = ImageBatch(images, torch.arange(200))
    pairs = ImageBatch(images, torch.arange(200) // 2)
    few = ImageBatch(images, torch.cat([torch.zeros(20), torch.arange(1, 181)]).long())
    assert [choose_objective(batch) for batch in (singles, pairs, few)] == [
        SELF_SUPERVISED,
        METRIC_LEARNING,
        SELF_SUPERVISED,
    ]


def test_too_little_public_data(ctx: RunContext):
    with pytest.raises(InvalidInput, match="3 public images"):
        train_judge(ImageBatch(torch.rand(3, 1, 8, 8)), JudgeTraining(epochs=1), ctx)


def test_same_seed_same_judge_whatever_the_batch_of_embedding(small_audit: SmallAudit):
    spec = JudgeTraining(epochs=1, embedding_dim=16)
    first, second, other = (train_judge(small_audit.public, spec, RunContext(seed=seed)) for seed in (0, 0, 1))
    assert first.digest == second.digest != other.digest
    images = small_audit.heldout.images
    small, large = (first.embed(images, RunContext(batch_size=size)) for size in (7, 512))
    assert torch.allclose(small, large, atol=1e-5)
    assert torch.allclose(small.norm(dim=1), torch.ones(len(images)), atol=1e-5)


def test_storage_is_exact(small_audit: SmallAudit, tmp_path, ctx: RunContext):
    path = tmp_path / "judge.safetensors"
    digest = save_judge(small_audit.judge, path)
    loaded = load_judge(path, ctx.device)
    assert loaded.digest == digest
    assert (loaded.source, loaded.objective, loaded.training_data_digest) == (
        small_audit.judge.source,
        small_audit.judge.objective,
        small_audit.judge.training_data_digest,
    )
    images = small_audit.heldout.images
    assert torch.equal(loaded.embed(images, ctx), small_audit.judge.embed(images, ctx))
    data = path.read_bytes()
    path.write_bytes(data[:-8] + bytes(8))
    with pytest.raises(InvalidInput, match="altered"):
        load_judge(path, ctx.device)
    path.write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="no judge file"):
        load_judge(path, ctx.device)


def test_a_supplied_embedder(small_audit: SmallAudit, ctx: RunContext):
    judge = supplied_judge(lambda images: images.flatten(1) - 0.5, "f" * 64)
    assert (judge.source, judge.objective) == ("supplied", "supplied")
    assert identification(small_audit, judge, ctx) > 0.9
    with pytest.raises(InvalidInput, match="only a trained judge"):
        save_judge(judge, small_audit.target)  # type: ignore[arg-type]


def test_classes_without_a_reference_are_never_chosen(small_audit: SmallAudit, ctx: RunContext):
    kept = small_audit.fit.select(small_audit.fit.labels != 3)
    index = index_judge(small_audit.judge, kept, N_CLASSES, ctx)
    assert not index.present[3]
    assert torch.isinf(index.similarities(small_audit.heldout.images, ctx)[:, 3]).all()
    card = judge_card(index, small_audit.heldout, ctx, BOOTSTRAP)
    assert isinstance(card.heldout_top1, NotMeasured)


def test_bad_references(small_audit: SmallAudit, ctx: RunContext):
    with pytest.raises(InvalidInput, match="labelled"):
        index_judge(small_audit.judge, ImageBatch(small_audit.fit.images), N_CLASSES, ctx)
    with pytest.raises(InvalidInput, match=r"0\.\.4"):
        index_judge(small_audit.judge, small_audit.fit, 5, ctx)


def test_card(small_audit: SmallAudit, ctx: RunContext):
    assert small_audit.reference.judge is not None
    card = judge_card(small_audit.reference.judge, small_audit.heldout, ctx, BOOTSTRAP, cached=True)
    assert isinstance(card.heldout_top1, Measured)
    assert (card.heldout_top1.metric, card.heldout_top1.n, card.cached) == ("heldout_top1", 48, True)
    nothing = ImageBatch(small_audit.heldout.images[:0], small_audit.heldout.labels[:0])
    empty = judge_card(small_audit.reference.judge, nothing, ctx, BOOTSTRAP)
    assert isinstance(empty.heldout_top1, NotMeasured)


def test_whitening_removes_what_differs_within_an_owner():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(200, 6, generator=generator)
    nuisance = torch.tensor([5.0, 1.0, 1.0, 1.0, 1.0, 0.2])
    owners = torch.arange(200).repeat(5)
    rows = centres[owners] + nuisance * torch.randn(1000, 6, generator=generator)
    matrix = within_whitening(rows, owners, shrinkage=0.0)
    white = (rows - rows.mean(0)) @ matrix
    means = torch.zeros(200, 6).index_add_(0, owners, white) / 5
    residual = (white - means[owners]) * (5 / 4) ** 0.5
    scatter = residual.T @ residual / len(residual)
    assert torch.allclose(scatter, torch.eye(6), atol=1e-3)


def test_losses_against_slow_versions():
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1)
    similarities = rows @ rows.T / 0.1
    slow = 0.0
    for i in range(6):
        others = [similarities[i, j] for j in range(6) if j != i]
        slow += float(torch.logsumexp(torch.stack(others), 0) - similarities[i, (i + 3) % 6]) / 6
    assert float(nt_xent_loss(rows)) == pytest.approx(slow, rel=1e-5)
    head, labels = torch.eye(4), torch.tensor([0, 1, 2, 3, 0, 1])
    wide, narrow = cosface_loss(rows, 7 * head, labels), cosface_loss(rows, head, labels)
    assert float(wide) == pytest.approx(float(narrow))
    perfect, wrong = cosface_loss(head, head, torch.arange(4)), cosface_loss(head, head, torch.arange(4).roll(1))
    assert float(perfect) < 1e-3 < float(wrong)


def test_degradation_keeps_range_and_half_of_the_images():
    images = toy_images(toy_templates(8, SHAPE), 16).images
    found = smoothing_components(images, torch.Generator().manual_seed(0))
    changed = degrade(images, torch.Generator().manual_seed(1), components=found)
    again = degrade(images, torch.Generator().manual_seed(1), components=found)
    assert torch.equal(changed, again)
    assert changed.min() >= 0
    assert changed.max() <= 1
    same = (changed == images).flatten(1).all(dim=1).float().mean()
    assert 0.05 < float(same) < 0.6
    whole = smooth(images, found, found.directions.shape[1])
    coarse = smooth(images, found, 4)
    assert (whole - images).square().mean() < (coarse - images).square().mean()


def test_blur_against_a_slow_version():
    image = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    kernel = torch.exp(-torch.arange(-3, 4).float().square() / 2)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    padded = torch.nn.functional.pad(image, (3, 3, 3, 3), mode="reflect")[0, 0]
    slow = torch.stack([(padded[y : y + 7, x : x + 7] * kernel).sum() for y in range(9) for x in range(9)]).view(9, 9)
    assert torch.allclose(gaussian_blur(image, 1.0)[0, 0], slow, atol=1e-6)


def test_mirrors(ctx: RunContext):
    lopsided = toy_images(toy_templates(12, SHAPE), 10).images
    symmetric = toy_images(toy_templates(200, SHAPE, seed=5), 5).images
    symmetric = torch.cat([symmetric, symmetric.flip(3)])
    assert not mirrors_fit(ImageBatch(lopsided), ctx)
    assert mirrors_fit(ImageBatch(symmetric), ctx)
    assert not mirrors_fit(ImageBatch(symmetric[:30]), ctx)
