"""What freezing saves: TL-DMI's training against training every layer, by boundary; and what halving saves of a sweep.

    python -m benchmarks.repair_speed [--network small-cnn] [--size 32] [--images 512] [--epochs 3] [--repeat 3]
    python -m benchmarks.repair_speed --sweep REPAIR

The first prints a row per boundary: the training's seconds as a share of training all layers (boundary 0) from the same
images, with augmentation (the front runs in every epoch, forwards alone) and without (the front runs once, and the time
that takes counts). Each cell is the fastest of `--repeat` rounds, the boundaries taking turns. The second reads the
times that a stored repair with `--search sweep` recorded, and sets them against training and auditing each boundary to
the end, at the mean cost of those that were.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterable

import torch

from auditor.bootstrap import build_services
from auditor.contracts.jobs import JobView
from auditor.errors import AuditorError
from auditor.fisher.units import execution_units
from auditor.settings import Settings
from auditor.targets.architectures import build_architecture
from auditor.tensors import ImageBatch, RunContext
from benchmarks.result_tables import table
from remediation.defenses.base import RepairData
from remediation.defenses.tl_dmi import TlDmi
from remediation.heads import find_head

N_CLASSES = 20


def epochs(args: argparse.Namespace) -> Iterable[tuple[str, ...]]:
    """A row per boundary."""
    torch.manual_seed(0)
    module = build_architecture(args.network, n_classes=N_CLASSES, channels=3)
    shape = (3, args.size, args.size)
    images = ImageBatch(torch.rand(args.images, *shape), torch.arange(args.images) % N_CLASSES)
    few = ImageBatch(images.images[:N_CLASSES], images.labels[:N_CLASSES])  # type: ignore[index]
    data = RepairData(images, few, few, None, flip=True)
    units = execution_units(module, torch.zeros(1, *shape))
    head, ctx = find_head(module, units, N_CLASSES), RunContext(device=torch.device(args.device))
    boundaries = sorted({round(i * (len(units) - 1) / 6) for i in range(7)})
    runs = [(k, augment) for k in boundaries for augment in (True, False)]
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(args.repeat):
        for k, augment in runs:
            defense = TlDmi(TlDmi.Config(epochs=args.epochs, augment=augment))
            network = copy.deepcopy(module)
            start = time.perf_counter()
            defense.fit(network, units, head, k, data, ctx, prepare=lambda images: images)
            best[k, augment] = min(best[k, augment], time.perf_counter() - start)
    for k in boundaries:
        ratios = (f"{best[k, augment] / best[0, augment]:.2f}" for augment in (True, False))
        yield (f"{k} of {len(units)}", *ratios)


def sweep(view: JobView) -> Iterable[tuple[str, ...]]:
    """Seconds of a sweep by part, and what it would have cost without halving."""
    seconds: dict[str, dict[str, float]] = {"trial": {}, "k": {}}
    for unit in view.units:
        name, _, rest = unit.key.partition("/")
        prefix = "trial" if name.startswith("trial") else "k"
        if rest and name.removeprefix(prefix).isdigit():
            seconds[prefix][name] = seconds[prefix].get(name, 0.0) + (unit.seconds or 0.0)
    trials, kept = seconds["trial"], seconds["k"]
    if not trials or not kept:
        raise AuditorError("this repair did not sweep")
    spent = sum(trials.values()) + sum(kept.values())
    whole = len(trials) * sum(kept.values()) / len(kept)
    yield (str(len(trials)), str(len(kept)), f"{spent:.0f}", f"{whole:.0f}", f"{spent / whole:.2f}")


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="small-cnn")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sweep", help="a stored repair")
    args = parser.parse_args()
    if args.sweep:
        house = build_services(Settings())
        heads = ("boundaries", "trained to the end", "seconds", "seconds without halving", "ratio")
        print(table(heads, sweep(house.jobs.status(args.sweep))))  # noqa: T201
        house.close()
        return
    print(f"{args.network}, {args.size} x {args.size}, {args.images} images, {args.epochs} epochs")  # noqa: T201
    print(table(("frozen", "augmented", "front run once"), epochs(args)))  # noqa: T201


if __name__ == "__main__":
    main()
