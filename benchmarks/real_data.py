"""Turn the real data sets into submissions: a model file, npz bundles and an auditor.yaml beside them.

    python -m benchmarks.real_data faces      OUT [--size 32] [--network small-cnn] [--every-attack]
                                                  [--random-weights | --shuffled-labels | --overfitted]
                                                  [--for-repairs [--attacked 60] [--ten]
                                                                 [--deployment white-box|score|split]]
                                                  [--seed 0]
    python -m benchmarks.real_data orl        OUT
    python -m benchmarks.real_data mnist      OUT [--generator]
    python -m benchmarks.real_data digits     OUT
    python -m benchmarks.real_data identities OUT (options as for faces, and [--per-person 20])
    python -m benchmarks.real_data cifar      OUT

The real data is not part of the project. It is looked for in AUDITOR_SHARED_DATA, else in ../shared/data beside the
repository. The procedural identities are drawn by the project itself, for comparison.
Then `auditor submit OUT/model.onnx -c OUT/auditor.yaml` audits it; docs/results.md says what came out.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from auditor.contracts.manifest import InputSpec
from auditor.data.image_set import ImageSet
from auditor.demo.sources import demo_data
from auditor.loading.onnx_export import export_onnx
from auditor.targets.architectures import build_architecture
from auditor.tensors import ImageBatch, RunContext
from auditor.training import TrainConfig, fit_classifier, top_k_accuracy
from benchmarks.plans import DEPLOYMENTS, EVERY, RANDOM, TRAINED, repair_plan

MAX_PER_PERSON = 60
HELDOUT_FRAC = 0.2
FEW_IMAGES = 5


def shared_data() -> Path:
    """The folder of real data sets; exits with a reason where there is none."""
    folder = Path(os.environ.get("AUDITOR_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        sys.exit(f"no real data at {folder}; set AUDITOR_SHARED_DATA")
    return folder


def read_jpeg_npz(path: Path, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(N, size, size, 3) uint8 images and labels of an npz that keeps its images as concatenated JPEG files."""
    with np.load(path) as data:
        blob, offsets, labels = data["jpeg"].tobytes(), data["offsets"], data["labels"].astype(np.int64)
    images = [Image.open(io.BytesIO(blob[a:b])).convert("RGB") for a, b in itertools.pairwise(offsets)]
    return np.stack([np.asarray(i.resize((size, size), Image.Resampling.BOX)) for i in images]), labels


def face_sets(size: int, seed: int = 0) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Private training, private held-out and public faces: 158 people, at most 60 images each, and 5,591 others."""
    folder = shared_data()
    images, labels = read_jpeg_npz(folder / "lfw_private_158ids_64.npz", size)
    rng = np.random.default_rng(seed)
    train: list[int] = []
    heldout: list[int] = []
    for label in np.unique(labels):
        index = rng.permutation(np.flatnonzero(labels == label))[:MAX_PER_PERSON]
        n_heldout = max(1, round(len(index) * HELDOUT_FRAC))
        heldout += index[:n_heldout].tolist()
        train += index[n_heldout:].tolist()
    public_images, public_labels = read_jpeg_npz(folder / "lfw_public_prior_64.npz", size)
    names = tuple(f"person-{i:03d}" for i in range(int(labels.max()) + 1))
    return (
        ImageSet("private", images[train], labels[train], names),
        ImageSet("heldout", images[heldout], labels[heldout], names),
        ImageSet("public", public_images, public_labels),
    )


def write_npz(image_set: ImageSet, path: Path) -> None:
    """`images` and, where there are any, `labels`."""
    arrays: dict[str, Any] = {"images": image_set.images}
    if image_set.labels is not None:
        arrays["labels"] = image_set.labels
    np.savez_compressed(path, **arrays)


def write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    """auditor.yaml."""
    (out / "auditor.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))


def orl_sets(size: int, seed: int = 0) -> tuple[ImageSet, ImageSet, ImageSet]:
    """40 people of ORL in grey, two of ten images held out; public: the grey faces of LFW's other people."""
    with np.load(shared_data() / "orl_faces.npz") as data:
        images, labels = data["images"], data["labels"].astype(np.int64)
    rows = (images.shape[1] - images.shape[2]) // 2
    square = images[:, rows : rows + images.shape[2]]
    small = np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BOX)) for i in square])
    rng = np.random.default_rng(seed)
    heldout = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:2] for label in np.unique(labels)])
    train = np.setdiff1d(np.arange(len(labels)), heldout)
    public, public_labels = read_jpeg_npz(shared_data() / "lfw_public_prior_64.npz", size)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in public])
    names = tuple(f"person-{i:02d}" for i in range(40))
    return (
        ImageSet("private", small[train][..., None], labels[train], names),
        ImageSet("heldout", small[heldout][..., None], labels[heldout], names),
        ImageSet("public", grey[..., None], public_labels),
    )


def digit_sets() -> tuple[ImageSet, ImageSet, ImageSet]:
    """MNIST as in the GMI paper: 0 to 4 private, 5 to 9 public; 400 training and 100 held-out images a digit."""
    with np.load(shared_data() / "mnist.npz") as data:
        x_train, y_train, x_test, y_test = data["x_train"], data["y_train"], data["x_test"], data["y_test"]

    def pick(images: NDArray[np.uint8], labels: NDArray[np.uint8], digits: range, n: int) -> ImageSet:
        rows = np.concatenate([np.flatnonzero(labels == digit)[:n] for digit in digits])
        padded = np.pad(images[rows], ((0, 0), (2, 2), (2, 2)))[..., None]
        return ImageSet("digits", padded, labels[rows].astype(np.int64), tuple(map(str, digits)))

    private, heldout = pick(x_train, y_train, range(5), 400), pick(x_test, y_test, range(5), 100)
    public = pick(x_train, y_train, range(5, 10), 2000)
    return private, heldout, ImageSet("public", public.images, public.labels)


def first_of_each_class(batch: ImageBatch, n: int) -> ImageBatch:
    """The first `n` images of every class."""
    if batch.labels is None:
        raise ValueError("needs labels")
    rows = torch.cat([torch.nonzero(batch.labels == label).flatten()[:n] for label in batch.labels.unique()])
    return ImageBatch(batch.images[rows], batch.labels[rows])


class Vgg16Bn(nn.Sequential):
    """VGG16 with BatchNorm as the field attacks it at 64x64: the convolutions and one linear layer."""

    def __init__(self, size: int, n_classes: int) -> None:
        features = torchvision.models.vgg16_bn().features
        super().__init__(features, nn.Flatten(), nn.Dropout(0.3), nn.Linear(512 * (size // 32) ** 2, n_classes))


def build_network(name: str, size: int, channels: int, n_classes: int) -> nn.Module:
    """`vgg16_bn` as above, or an allow-listed architecture."""
    if name == "vgg16_bn":
        return Vgg16Bn(size, n_classes)
    return build_architecture(name, n_classes=n_classes, channels=channels)


def trained_submission(
    out: Path,
    name: str,
    sets: tuple[ImageSet, ImageSet, ImageSet],
    *,
    network: str,
    epochs: int,
    plan: dict[str, Any],
    policy: dict[str, Any] | None = None,
    shuffled_labels: bool = False,
    overfitted: bool = False,
    seed: int = 0,
) -> None:
    """Train `network` on the private images (0 epochs: leave it random) and write it as ONNX and as safetensors.

    With `shuffled_labels` it learns a permutation of the labels, and so knows each picture and nobody's face. If
    `overfitted`, it learns from `FEW_IMAGES` of every class, as they are.
    """
    private, heldout, public = sets
    size, channels, n_classes = private.images.shape[1], private.images.shape[3], len(private.class_names)
    shape, ctx = (channels, size, size), RunContext(seed=seed, autocast_bf16=True)
    torch.manual_seed(seed)
    model = build_network(network, size, channels, n_classes)
    if epochs:
        batch = private.batch(shape)
        if shuffled_labels and batch.labels is not None:
            order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
            batch = ImageBatch(batch.images, batch.labels[order])
        if overfitted:
            batch = first_of_each_class(batch, FEW_IMAGES)
        config = TrainConfig(epochs=epochs, label_smoothing=0.0, augment=not overfitted)
        fit_classifier(model, batch, None, config, ctx, stage="target")
    model.eval()
    spec = InputSpec(channels=channels, height=size, width=size)
    error = export_onnx(model, spec, out / "model.onnx", n_classes=n_classes)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, out / "model.safetensors")
    accuracy = top_k_accuracy(model, heldout.batch(shape), ctx)
    print(f"train {len(private)} heldout {len(heldout)} public {len(public)}")  # noqa: T201
    print(f"target held-out top-1 {accuracy:.3f}; ONNX parity error {error:.2e}")  # noqa: T201
    for role, image_set in zip(("private", "heldout", "public"), sets, strict=True):
        write_npz(image_set, out / f"{role}.npz")
    model_section = {"name": name, "input": spec.model_dump(mode="json"), "n_classes": n_classes}
    if network != "vgg16_bn":
        model_section["architecture"] = network
    roles = {role: {"path": f"{role}.npz"} for role in ("private", "heldout", "public")}
    manifest = {"version": 1, "model": model_section, "data": roles, "plan": plan | {"seed": seed}}
    write_manifest(out, manifest | ({"policy": policy} if policy else {}))


def identities(out: Path, args: argparse.Namespace) -> None:
    """Procedural people, with every attack on 30 of them, or with the plan of repairs."""
    data = demo_data("identities", args.size, args.seed, per_private=args.per_person)
    given: dict[str, Any] = {"plan": {"preset": "standard", "n_classes": 30, "samples_per_class": args.samples} | EVERY}
    if args.for_repairs:
        given = repair_plan(256, args.attacked, args.samples, args.deployment, ten=args.ten)
    trained_submission(
        out,
        "identities",
        (data.private, data.heldout, data.public),
        network=args.network,
        epochs=0 if args.random_weights else args.epochs,
        shuffled_labels=args.shuffled_labels,
        overfitted=args.overfitted,
        seed=args.seed,
        **given,
    )


def faces(out: Path, args: argparse.Namespace) -> None:
    """158 people of LFW, by default on a small BatchNorm CNN."""
    blank = args.random_weights or args.shuffled_labels
    plan = {"preset": "standard", "n_classes": 60, "samples_per_class": args.samples}
    given: dict[str, Any] = {"plan": plan | (EVERY if args.every_attack else RANDOM if blank else TRAINED)}
    if args.for_repairs:
        given = repair_plan(384, args.attacked, args.samples, args.deployment, ten=args.ten)
    trained_submission(
        out,
        f"faces-{args.network}-{args.size}",
        face_sets(args.size, args.seed),
        network=args.network,
        epochs=0 if args.random_weights else args.epochs,
        shuffled_labels=args.shuffled_labels,
        overfitted=args.overfitted,
        seed=args.seed,
        **given,
    )


def mnist(out: Path, *, generator: bool) -> None:
    """A LeNet-5 that nobody here trained; private digits, public characters of Omniglot.

    With `generator`, the prior is a GAN supplied as ONNX. It was trained on the digits themselves, so it knows
    more than an attacker should.
    """
    folder = shared_data()
    with np.load(folder / "mnist.npz") as data:
        x_train, y_train, x_test, y_test = data["x_train"], data["y_train"], data["x_test"], data["y_test"]
    with np.load(folder / "omniglot_28.npz") as data:
        characters, alphabet = data["images"], data["labels"]
    per_class = np.concatenate([np.flatnonzero(y_train == d)[:400] for d in range(10)])
    per_test = np.concatenate([np.flatnonzero(y_test == d)[:100] for d in range(10)])
    np.savez_compressed(out / "private.npz", images=x_train[per_class], labels=y_train[per_class].astype(np.int64))
    np.savez_compressed(out / "heldout.npz", images=x_test[per_test], labels=y_test[per_test].astype(np.int64))
    np.savez_compressed(out / "public.npz", images=characters, labels=alphabet.astype(np.int64))
    shutil.copyfile(folder / "mnist_lenet5.onnx", out / "model.onnx")
    inputs: dict[str, Any] = {role: {"path": f"{role}.npz"} for role in ("private", "heldout", "public")}
    plan: dict[str, Any] = {"preset": "standard", "n_classes": 10, "samples_per_class": 8}
    if generator:
        shutil.copyfile(folder / "mnist_gan_mlp_generator.onnx", out / "generator.onnx")
        inputs["generator"] = {"path": "generator.onnx", "channels": 1, "height": 28, "width": 28}
        plan |= {"preset": "quick", "priors": [{"name": "onnx"}]}
    write_manifest(out, {"version": 1, "model": {"name": "mnist-lenet5"}, "data": inputs, "plan": plan})


def cifar(out: Path) -> None:
    """A ResNet-20 that nobody here trained; its own training images as private data, no public data."""
    folder = shared_data()
    with np.load(folder / "cifar10_lossless_3k.npz") as data:
        images, labels = data["images"], data["labels"].astype(np.int64)
    np.savez_compressed(out / "private.npz", images=images, labels=labels)
    shutil.copyfile(folder / "cifar10_resnet20.onnx", out / "model.onnx")
    write_manifest(
        out,
        {
            "version": 1,
            "model": {
                "name": "cifar10-resnet20",
                "input": {
                    "channels": 3,
                    "height": 32,
                    "width": 32,
                    "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225],
                },
            },
            "data": {"private": {"path": "private.npz"}},
            "plan": {"preset": "quick", "samples_per_class": 5},
        },
    )


def main() -> None:
    """Parse and write one submission folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("faces", "orl", "mnist", "digits", "identities", "cifar"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--every-attack", action="store_true", help="faces: the whole catalog in the plan")
    parser.add_argument("--samples", type=int, default=3, help="faces, identities, orl: pictures per class")
    parser.add_argument("--network", default="small-cnn", help="faces, identities, orl: what is trained")
    parser.add_argument("--for-repairs", action="store_true", help="faces, identities: the plan of benchmarks.repairs")
    parser.add_argument("--attacked", type=int, default=60, help="with --for-repairs: people who are attacked")
    parser.add_argument("--deployment", choices=tuple(DEPLOYMENTS), default="white-box", help="with --for-repairs")
    parser.add_argument("--ten", action="store_true", help="with --for-repairs: ten attacks in three priors")
    parser.add_argument("--random-weights", action="store_true", help="faces, identities: never trained")
    parser.add_argument("--shuffled-labels", action="store_true", help="faces, identities: labels mean nothing")
    parser.add_argument("--overfitted", action="store_true", help="faces, identities: few images, no augmentation")
    parser.add_argument("--seed", type=int, default=0, help="faces, identities: of data, network and plan")
    parser.add_argument("--per-person", type=int, help="identities: private training images of each person")
    parser.add_argument("--generator", action="store_true", help="mnist: a GAN supplied as ONNX is the prior")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "faces":
        faces(args.out, args)
    elif args.what == "identities":
        identities(args.out, args)
    elif args.what == "orl":
        plan = {"preset": "standard", "n_classes": 40, "samples_per_class": args.samples} | EVERY
        trained_submission(args.out, "orl", orl_sets(args.size), network=args.network, epochs=args.epochs, plan=plan)
    elif args.what == "digits":
        plan = {"preset": "standard", "n_classes": 5, "samples_per_class": 8} | EVERY
        trained_submission(args.out, "digits", digit_sets(), network=args.network, epochs=args.epochs, plan=plan)
    elif args.what == "mnist":
        mnist(args.out, generator=args.generator)
    else:
        cifar(args.out)
    print(f"auditor submit {args.out / 'model.onnx'} -c {args.out / 'auditor.yaml'}")  # noqa: T201


if __name__ == "__main__":
    main()
