"""Fisher per-unit scores against the same number of plain backward passes, side by side in one run (table b).

    python -m benchmarks.fisher [--device cuda] [--repeat 3]

"Plain" is what training does with the same images and as many label passes: one batched forward pass, then for every
label pass one batched backward pass to all parameters. It yields batch gradients only, which cannot be squared into a
Fisher. Every ratio divides by it. Each cell is the fastest of `--repeat` rounds, the engines taking turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor, nn

from auditor.fisher.diagonal import exact_cotangents
from auditor.fisher.per_sample import Cotangents, Engine, SquaredGradients
from auditor.fisher.units import Unit, execution_units
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext

N_CLASSES = 20
CASES = (
    ("small-cnn", 32, 32, 20),
    ("small-resnet", 32, 32, 20),
    ("small-cnn", 64, 32, 10),
    ("resnet18", 64, 32, 5),
    ("vgg11_bn", 32, 32, 5),
    ("small-cnn", 32, 128, 1),
    ("small-resnet", 32, 128, 1),
    ("resnet18", 64, 32, 1),
)
"""Architecture, image size, images, label passes: many is F_true over the classes, one is F_tgt or a sampled label."""


def labels(n_passes: int) -> Cotangents:
    """Output gradients of the first `n_passes` classes."""
    return lambda outputs, rows: islice(exact_cotangents(outputs, rows), n_passes)


def plain_passes(module: nn.Module, inputs: Tensor, rows: int, n_passes: int) -> Callable[[], object]:
    """One batched backward pass to every parameter per label."""
    parameters = [p for p in module.parameters() if p.requires_grad]

    def run() -> None:
        for chunk in inputs.split(rows):
            outputs = module(chunk)
            for cotangent in labels(n_passes)(outputs.detach(), torch.empty(0)):
                torch.autograd.grad(outputs, parameters, cotangent, retain_graph=True)

    return run


def scores(
    module: nn.Module, units: tuple[Unit, ...], inputs: Tensor, rows: int, n_passes: int, engine: Engine
) -> Callable[[], object]:
    """The same passes, squared per sample and summed per unit."""
    gradients = SquaredGradients(module, units, rows=rows, engine=engine)
    return lambda: gradients(inputs, labels(n_passes), RunContext(), stage="fisher")


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rows", type=int, default=32, help="images per batch")
    parser.add_argument("--skip-vmap", action="store_true", help="leave out the torch.func column")
    args = parser.parse_args()
    device = torch.device(args.device)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {args.rows} images per batch")  # noqa: T201
    print("| network | size | images x labels | plain passes, s | layer rules, ratio | vmap(grad), ratio |")  # noqa: T201
    print("|---|---|---|---|---|---|")  # noqa: T201
    for name, size, n, n_passes in CASES:
        torch.manual_seed(0)
        module = build_architecture(name, n_classes=N_CLASSES, channels=3).eval().to(device)
        inputs = torch.rand(n, 3, size, size, device=device)
        units = execution_units(module, inputs[:1])
        runs = {"plain": plain_passes(module, inputs, args.rows, n_passes)}
        runs["layerwise"] = scores(module, units, inputs, args.rows, n_passes, "layerwise")
        if not args.skip_vmap:
            runs["functional"] = scores(module, units, inputs, args.rows, n_passes, "functional")
        best = dict.fromkeys(runs, float("inf"))
        for _ in range(args.repeat):
            for key, run in runs.items():
                best[key] = min(best[key], seconds(run, device))
        ratios = [f"{best[key] / best['plain']:.2f}" if key in best else "-" for key in ("layerwise", "functional")]
        print(f"| {name} | {size} | {n} x {n_passes} | {best['plain']:.2f} | {ratios[0]} | {ratios[1]} |")  # noqa: T201


if __name__ == "__main__":
    main()
