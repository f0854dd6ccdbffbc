"""The evaluator: independent of the target, stored bit for bit, and its card."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from auditor.contracts.cards import ClassifierCard
from auditor.contracts.plan import EvaluatorSpec
from auditor.contracts.scores import Measured, NotMeasured
from auditor.errors import InvalidInput
from auditor.evaluation.cards import evaluator_card
from auditor.evaluation.evaluator import choose_architecture, require_independent, train_evaluator
from auditor.evaluation.evaluator_file import load_evaluator, save_evaluator
from auditor.evaluation.fingerprints import parameters_digest, shape_fingerprint
from auditor.evaluation.intervals import Bootstrap
from auditor.targets.architectures import build_architecture
from auditor.tensors import ImageBatch, RunContext
from auditor.testing.toy import toy_card

from .conftest import N_CLASSES, SHAPE, SmallAudit

BOOTSTRAP = Bootstrap(200, 0)


def card(architecture: str, weights_digest: str = "0" * 64):
    return toy_card(n_classes=N_CLASSES, image_shape=SHAPE, architecture=architecture, weights_digest=weights_digest)


def network(name: str) -> torch.nn.Module:
    return build_architecture(name, n_classes=N_CLASSES, channels=SHAPE[0])


@pytest.mark.parametrize(
    ("target", "chosen"),
    [("small-cnn", "small-resnet"), ("small-resnet", "small-cnn-wide"), ("small-cnn-wide", "small-resnet")],
)
def test_auto_takes_another_family(target: str, chosen: str):
    assert choose_architecture(EvaluatorSpec(), card(target)) == chosen


def test_auto_looks_at_the_shapes_of_an_unnamed_graph():
    resnet = shape_fingerprint(network("small-resnet").parameters())
    assert choose_architecture(EvaluatorSpec(), card("onnx:abc"), target_shapes=resnet) == "small-cnn-wide"
    assert choose_architecture(EvaluatorSpec(), card("onnx:abc"), target_shapes="other") == "small-resnet"


def test_folding_norms_and_transposing_keep_the_fingerprint():
    net = network("small-resnet")
    exported = [p.T if p.ndim == 2 else p for p in reversed(list(net.parameters())) if p.ndim >= 2]
    assert shape_fingerprint(exported) == shape_fingerprint(net.parameters())
    assert shape_fingerprint(network("small-cnn").parameters()) != shape_fingerprint(net.parameters())


def test_the_target_itself_is_refused(small_audit: SmallAudit):
    evaluator = small_audit.evaluator
    require_independent(evaluator, card("small-cnn"), target_shapes="other")
    with pytest.raises(InvalidInput, match="the target's architecture"):
        require_independent(evaluator, card(evaluator.architecture))
    for digest in (evaluator.digest, parameters_digest(evaluator.module)):
        with pytest.raises(InvalidInput, match="the target's weights"):
            require_independent(evaluator, card("onnx:abc", digest))
    shapes = shape_fingerprint(evaluator.module.parameters())
    with pytest.raises(InvalidInput, match="the shape of the target's"):
        require_independent(evaluator, card("onnx:abc"), target_shapes=shapes)


def test_training_the_targets_architecture_is_refused(small_audit: SmallAudit, ctx: RunContext):
    spec = EvaluatorSpec(architecture="small-cnn", epochs=1)
    with pytest.raises(InvalidInput, match="the target's architecture"):
        train_evaluator(card("small-cnn"), small_audit.fit, spec, ctx)


def test_training_needs_labels(small_audit: SmallAudit, ctx: RunContext):
    with pytest.raises(InvalidInput, match="labelled"):
        train_evaluator(card("small-cnn"), ImageBatch(small_audit.fit.images), EvaluatorSpec(epochs=1), ctx)


def test_it_knows_the_classes_also_when_blurred(small_audit: SmallAudit):
    heldout, evaluator = small_audit.heldout, small_audit.evaluator
    coarse = torch.nn.functional.avg_pool2d(heldout.images, 2)
    blurred = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    for images in (heldout.images, blurred):
        assert float((evaluator.logits(images).argmax(1) == heldout.labels).float().mean()) > 0.8


def test_same_seed_same_weights_and_another_seed_others(small_audit: SmallAudit):
    spec = EvaluatorSpec(epochs=1)
    first, second, other = (
        train_evaluator(small_audit.target.card, small_audit.fit, spec, RunContext(seed=seed)) for seed in (0, 0, 1)
    )
    assert first.digest == second.digest != other.digest


def test_features_feed_the_last_layer(small_audit: SmallAudit):
    evaluator, images = small_audit.evaluator, small_audit.heldout.images[:5]
    features = evaluator.features(images)
    assert torch.allclose(evaluator.module.head(features), evaluator.logits(images), atol=1e-5)
    vgg = replace(evaluator, module=build_architecture("squeezenet1_0", n_classes=7, channels=3).eval())
    assert vgg.features(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_storage_is_exact(small_audit: SmallAudit, tmp_path, ctx: RunContext):
    path = tmp_path / "evaluator.safetensors"
    digest = save_evaluator(small_audit.evaluator, path)
    loaded = load_evaluator(path, ctx.device)
    assert loaded.digest == digest == small_audit.evaluator.digest
    images = small_audit.heldout.images
    with torch.no_grad():
        assert torch.equal(loaded.logits(images), small_audit.evaluator.logits(images))
    first = path.read_bytes()
    save_evaluator(loaded, path)
    assert path.read_bytes() == first
    path.write_bytes(first[:-8] + bytes(8))
    with pytest.raises(InvalidInput, match="altered"):
        load_evaluator(path, ctx.device)
    path.write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="no evaluator file"):
        load_evaluator(path, ctx.device)


def test_card(small_audit: SmallAudit, ctx: RunContext):
    def made(target_card, heldout=small_audit.heldout) -> ClassifierCard:
        return evaluator_card(
            small_audit.evaluator, target_card, heldout, ctx, BOOTSTRAP,
            target_logits=small_audit.target.logits, split="two thirds of the private images",
        )  # fmt: skip

    result = made(small_audit.target.card)
    assert result.independent
    assert isinstance(result.heldout_accuracy, Measured)
    assert not result.heldout_accuracy.higher_is_riskier
    assert result.heldout_accuracy.low <= result.heldout_accuracy.value <= result.heldout_accuracy.high
    assert isinstance(result.target_heldout_accuracy, Measured)
    assert result.target_heldout_accuracy.value == 1.0
    assert not made(card(small_audit.evaluator.architecture)).independent
    nothing = ImageBatch(small_audit.heldout.images[:0], small_audit.heldout.labels[:0])
    assert isinstance(made(small_audit.target.card, nothing).heldout_accuracy, NotMeasured)
