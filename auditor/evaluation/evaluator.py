"""The evaluator: a classifier of the private classes, independent of the target, that scores reconstructions.

Independence follows the protocol of Zhang et al. (GMI, CVPR 2020, arXiv 1911.07135) and Struppek et al. (PPA, ICML
2022, arXiv 2201.12179): another architecture, other weights. We also refuse the target itself, and any network whose
layers have the target's shapes, which the reference code of neither does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from auditor.contracts.plan import EvaluatorSpec
from auditor.contracts.submission import TargetCard
from auditor.errors import InvalidInput
from auditor.evaluation.degradation import degrade, smoothing_components
from auditor.evaluation.fingerprints import batch_digest, module_digest, parameters_digest, shape_fingerprint
from auditor.evaluation.mirroring import mirrors_fit
from auditor.targets.architectures import build_architecture
from auditor.tensors import ImageBatch, RunContext
from auditor.training import TrainConfig, fit_classifier

_CANDIDATES = ("small-resnet", "small-cnn-wide")
"""What `auto` chooses from: two families, so one always differs from the target."""


@dataclass(frozen=True)
class TrainedEvaluator:
    """A trained classifier of the private classes.

    Attributes:
        module: normalised images to (B, K) logits, in eval mode.
        architecture: allow-list name.
        n_classes: K.
        image_shape: (C, H, W).
        digest: sha256 over architecture and weights.
        seed: of the plan that trained it.
        epochs: passes over the data.
        training_data_digest: of the images it was fitted on.
    """

    module: nn.Module
    architecture: str
    n_classes: int
    image_shape: tuple[int, int, int]
    digest: str
    seed: int
    epochs: int
    training_data_digest: str

    @property
    def n_parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def logits(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, K)."""
        scores: Tensor = self.module(_normalise(images))
        return scores

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to the (B, F) input of the last linear layer."""
        return _penultimate(self.module, _normalise(images))

    def to(self, device: torch.device) -> TrainedEvaluator:
        """The same evaluator on `device`."""
        return replace(self, module=self.module.to(device))


def _normalise(images: Tensor) -> Tensor:
    return (images - 0.5) * 4


def _penultimate(module: nn.Module, inputs: Tensor) -> Tensor:
    """(B, F) what the last linear layer is given; the logits themselves where there is none."""
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        scores: Tensor = module(inputs)
        return scores
    seen: list[Tensor] = []
    hook = linear[-1].register_forward_pre_hook(lambda _layer, arguments: seen.append(arguments[0]))
    try:
        module(inputs)
    finally:
        hook.remove()
    return seen[-1].flatten(1)


def choose_architecture(spec: EvaluatorSpec, target_card: TargetCard, *, target_shapes: str | None = None) -> str:
    """The architecture to train: the one asked for, or the first of another family than the target's.

    Args:
        spec: the plan's wish.
        target_card: the target's architecture and size.
        target_shapes: `shape_fingerprint` of the target's module, where there is one.
    """
    if spec.architecture != "auto":
        return spec.architecture
    channels, n_classes = target_card.input.channels, target_card.n_classes
    for name in _CANDIDATES:
        candidate = build_architecture(name, n_classes=n_classes, channels=channels)
        if not _resembles(name, candidate, target_card, target_shapes):
            return name
    raise InvalidInput("no evaluator architecture differs from the target's; name one in the plan")


def _resembles(name: str, module: nn.Module, target_card: TargetCard, target_shapes: str | None) -> bool:
    """Same declared family, or layers of the same shapes."""
    family = target_card.architecture.removesuffix("-wide")
    return name.removesuffix("-wide") == family or shape_fingerprint(module.parameters()) == target_shapes


def train_evaluator(
    target_card: TargetCard,
    fit: ImageBatch,
    spec: EvaluatorSpec,
    ctx: RunContext,
    *,
    training_data_digest: str = "",
    target_shapes: str | None = None,
) -> TrainedEvaluator:
    """Train an evaluator on the private fit split; nothing is chosen on held-out images, so accuracy there is honest.

    Args:
        target_card: what it must differ from; gives the number of classes and the image shape.
        fit: private images in [0, 1] with labels.
        spec: architecture and epochs.
        ctx: device, seed, progress.
        training_data_digest: digest of `fit` as the report names it; computed here when empty.
        target_shapes: `shape_fingerprint` of the target's module (white-box targets, ONNX above all).

    Raises:
        InvalidInput: the evaluator would be the target over again.
    """
    if fit.labels is None:
        raise InvalidInput("the evaluator needs labelled private images")
    architecture = choose_architecture(spec, target_card, target_shapes=target_shapes)
    module = build_architecture(architecture, n_classes=target_card.n_classes, channels=fit.images.shape[1])
    initialise(module, ctx.rng("evaluator", architecture, "weights"))
    config = TrainConfig(epochs=spec.epochs, batch_size=64, lr=3e-3, label_smoothing=0.1)
    components = smoothing_components(fit.images, ctx.rng("evaluator", "smoothing"))
    fit_classifier(
        module,
        fit,
        None,
        config,
        ctx,
        stage="evaluator",
        prepare=_normalise,
        flip=mirrors_fit(fit, ctx),
        degrade=partial(degrade, components=components),
    )
    evaluator = TrainedEvaluator(
        module=module,
        architecture=architecture,
        n_classes=target_card.n_classes,
        image_shape=(fit.images.shape[1], fit.images.shape[2], fit.images.shape[3]),
        digest=module_digest(architecture, module),
        seed=ctx.seed,
        epochs=spec.epochs,
        training_data_digest=training_data_digest or batch_digest(fit),
    )
    require_independent(evaluator, target_card, target_shapes=target_shapes)
    return evaluator


def require_independent(
    evaluator: TrainedEvaluator, target_card: TargetCard, *, target_shapes: str | None = None
) -> None:
    """Refuse an evaluator that is the target, has its architecture, or has layers of exactly its shapes.

    Raises:
        InvalidInput: with every reason found.
    """
    problems = []
    if evaluator.architecture == target_card.architecture:
        problems.append(f"the evaluator has the target's architecture, '{evaluator.architecture}'")
    own = {evaluator.digest, parameters_digest(evaluator.module)}
    if own & {target_card.digest, target_card.weights_digest}:
        problems.append("the evaluator has the target's weights")
    if target_shapes is not None and shape_fingerprint(evaluator.module.parameters()) == target_shapes:
        problems.append("every layer of the evaluator has the shape of the target's")
    if problems:
        raise InvalidInput(
            problems, remedy="Name another evaluator architecture in the plan (`evaluator.architecture`)."
        )


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every convolution and linear weight anew from `generator` (He et al., ICCV 2015, arXiv 1502.01852)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            gain = 2.0 if isinstance(layer, nn.Conv2d) else 1.0
            with torch.no_grad():
                draw = torch.randn(layer.weight.shape, generator=generator)
                layer.weight.copy_(draw * (gain / fan_in) ** 0.5)
                if layer.bias is not None:
                    layer.bias.zero_()
