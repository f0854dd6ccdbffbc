"""What knowing the public weights is worth: PPA with growing `front_weight` on a model tuned behind a frozen front.

    python -m benchmarks.public_front faces|digits [--frozen 13] [--classes 40] [--samples 3]

A `small-cnn` learns the public classes, its first `--frozen` layers are kept as they are, and the rest learns the
private ones. An independent network, taught the private classes, judges: the share of pictures it takes for the class
(evaluator), and the mean squared distance of its features to the nearest private picture of the class (KNN).
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from auditor.attacks.ppa import Ppa, PpaConfig
from auditor.contracts.access import Access
from auditor.contracts.manifest import InputSpec
from auditor.contracts.submission import ModelFormat, Output, SplitPoint, TargetCard
from auditor.priors.vae import VaeBuilder, VaeConfig
from auditor.targets.architectures import SmallCnn, build_architecture
from auditor.targets.torch_target import TorchTarget
from auditor.targets.views import narrow
from auditor.tensors import ImageBatch, RunContext
from auditor.training import TrainConfig, fit_classifier, top_k_accuracy
from benchmarks.real_data import digit_sets, face_sets

WEIGHTS = (0.0, 0.1, 1.0, 10.0)
LEAST_PICTURES = 3
"""Of a public person, for the public training."""


def public_classes(batch: ImageBatch) -> tuple[ImageBatch, int]:
    """Public images of classes with enough of them, labelled from 0, and how many classes that are."""
    if batch.labels is None:
        raise ValueError("the public images need labels")
    _, place, count = torch.unique(batch.labels, return_inverse=True, return_counts=True)
    rows = (count[place] >= LEAST_PICTURES).nonzero().squeeze(1)
    kept, labels = torch.unique(place[rows], return_inverse=True)
    return ImageBatch(batch.images[rows], labels), len(kept)


def fitted(network: nn.Module, images: ImageBatch, epochs: int, frozen: nn.Module | None = None) -> nn.Module:
    """`network` after training; `frozen`, a part of it, stays as it is."""

    def mode(model: nn.Module) -> None:
        model.train()
        if frozen is not None:
            frozen.eval()

    if frozen is not None:
        frozen.requires_grad_(False)
    config = TrainConfig(epochs=epochs, label_smoothing=0.0)
    fit_classifier(network, images, None, config, RunContext(), stage="target", set_mode=mode)
    return network.eval()


def features_of(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) logits and (N, F) features before the head."""
    seen: list[Tensor] = []
    handle = network.get_submodule("head").register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        logits = network(images)
    handle.remove()
    return logits, seen[0]


def main() -> None:
    """Train, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("faces", "digits"))
    parser.add_argument("--frozen", type=int, default=13, help="layers of `features` that stay public")
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--samples", type=int, default=3)
    args = parser.parse_args()
    private, heldout, public = face_sets(32) if args.what == "faces" else digit_sets()
    many = args.what == "faces"
    shape = (private.images.shape[3], 32, 32)
    n_classes, images = len(private.class_names), public.batch(shape)
    ctx = RunContext(batch_size=256)
    torch.manual_seed(0)
    known, n_known = public_classes(images)
    base = build_architecture("small-cnn", n_classes=n_known, channels=shape[0])
    fitted(base, known, 8 if many else 4)
    torch.manual_seed(1)
    network = build_architecture("small-cnn", n_classes=n_classes, channels=shape[0])
    if not (isinstance(network, SmallCnn) and isinstance(base, SmallCnn)):
        raise TypeError("the layers of `small-cnn` are frozen by number")
    network.features.load_state_dict(base.features.state_dict())
    fitted(network, private.batch(shape), 30 if many else 6, network.features[: args.frozen])
    tuned = next(i for i in range(args.frozen, len(network.features)) if list(network.features[i].parameters()))
    with torch.no_grad():
        passing = network.features[:tuned](torch.zeros(1, *shape)).shape[1:]
    print(f"held-out top-1 of the tuned model: {top_k_accuracy(network, heldout.batch(shape), ctx):.3f}")  # noqa: T201
    torch.manual_seed(5)
    evaluator = build_architecture("small-resnet", n_classes=n_classes, channels=shape[0])
    fitted(evaluator, private.batch(shape), 25 if many else 6)
    card = TargetCard(
        name=args.what,
        format=ModelFormat.SAFETENSORS,
        digest="",
        weights_digest="",
        architecture="small-cnn",
        n_classes=n_classes,
        input=InputSpec(channels=shape[0], height=32, width=32),
        output=Output.LOGITS,
        n_parameters=0,
        access=(Access.WHITE_BOX, Access.SCORE, Access.LABEL),
        public_front=SplitPoint(layer=f"features.{tuned - 1}", shape=tuple(passing)),
    )
    target = TorchTarget(network, card)
    prior = VaeBuilder(VaeConfig(latent_dim=256, steps=0)).train(ImageBatch(images.images), ctx)
    real = private.batch(shape)
    _, real_features = features_of(evaluator, real.images)
    print("| loss | front_weight | evaluator | KNN | target's confidence | queries | seconds |")  # noqa: T201
    print("|---|---|---|---|---|---|---|")  # noqa: T201
    for loss in ("auto", "cross-entropy"):
        for weight in WEIGHTS:
            attack = Ppa(PpaConfig(front_weight=weight, loss=loss))  # type: ignore[arg-type]
            view = narrow(target, attack.access)
            aids = attack.prepare(view, prior, images.images, ctx)
            start = time.perf_counter()
            result = attack.run(view, prior, tuple(range(min(n_classes, args.classes))), args.samples, ctx, aids=aids)
            taken = time.perf_counter() - start
            logits, features = features_of(evaluator, result.images)
            accepted = float((logits.argmax(dim=1) == result.labels).float().mean())
            far = [
                float((row - real_features[real.labels == label]).square().sum(dim=1).min())
                for row, label in zip(features, result.labels, strict=True)
            ]
            sure = float(result.end_confidence.mean())
            row = f"| {loss} | {weight:g} | {accepted:.1%} | {sum(far) / len(far):.0f} | {sure:.3f} "
            print(row + f"| {view.counter.forward:,} | {taken:.0f} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
