"""Every attack of the catalog against the passes it cannot avoid, in one run (table c), and ART's MIFace beside ours.

    python -m benchmarks.attack_suite [--rows 40 300] [--only ppa kedmi] [--device cuda] [--bf16] [--art]

"Bare" is the sum of what the attack says it sends (`Attack.cost`), each at the speed of a bare pass of the same
networks and chunks: forward only, forward and backward, drawing with and without a gradient. Networks that stand in for
the target are charged as the target. Priors are untrained and steps are few: this measures the machinery, not success;
the last column, the target's mean loss on the class before and after, only shows that the run did something.

With `--art`, the Adversarial Robustness Toolbox's MIFace (`pip install adversarial-robustness-toolbox`) runs as many
steps as `mi-face` on the same target and pictures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor.attacks.base import Attack
from auditor.attacks.catalog import ATTACKS
from auditor.priors.base import Prior, sample_labels, sample_latents
from auditor.priors.catalog import PRIORS
from auditor.targets.architectures import build_architecture
from auditor.targets.views import narrow
from auditor.tensors import RunContext
from benchmarks.attacks import N_CLASSES, Network

SHORT: dict[str, dict[str, Any]] = {
    "gmi": {"steps": 10},
    "kedmi": {"steps": 5},
    "vmi": {"steps": 5},
    "lomma": {"steps": 5, "epochs": 1},
    "plg-mi": {"steps": 10},
    "ppa": {"pool": 300, "steps": 10, "transforms": 4},
    "if-gmi": {"pool": 300, "steps": 5, "stage_steps": 3},
    "mirror-w": {"pool": 300, "steps": 10},
    "mirror-b": {"pool": 1500, "generations": 3},
    "c2fmi": {"pool": 300, "generations": 3, "epochs": 1},
    "rlb-mi": {"steps": 5},
    "smile": {"pool": 300, "epochs": 1, "queries": 41},
    "brep-mi": {"search": 1000, "iterations": 3},
    "lokt": {"steps": 10},
    "mi-face": {"steps": 10},
    "pixel-tv": {"steps": 10},
    "dip": {"steps": 5},
    "deep-inversion": {"steps": 5},
}
"""Few steps of everything; parameters an attack does not have are left out."""


def seconds_per_image(run: Callable[[], object], images: int, device: torch.device) -> float:
    """The fastest of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times) / images


def bare_rates(target: Network, prior: Prior, n: int, ctx: RunContext) -> dict[str, float]:
    """Seconds per image of the passes that `Cost` counts, at chunks of `n` rows."""
    latents = sample_latents(prior, n, torch.Generator().manual_seed(0)).to(ctx.device)
    labels = sample_labels(prior, n, torch.Generator().manual_seed(0))
    pictures = torch.rand(n, *target.image_shape, device=ctx.device).contiguous(memory_format=torch.channels_last)

    def backward(function: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
        leaf = inputs.detach().requires_grad_(True)
        with ctx.autocast():
            total = function(leaf).float().sum()
        torch.autograd.grad(total, leaf)

    def forward(function: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
        with torch.no_grad(), ctx.autocast():
            function(inputs)

    def draw(z: Tensor) -> Tensor:
        return prior.decode(z, labels)

    return {
        "forward": seconds_per_image(lambda: forward(target.logits, pictures), n, ctx.device),
        "backward": seconds_per_image(lambda: backward(target.logits, pictures), n, ctx.device),
        "decode": seconds_per_image(lambda: forward(draw, latents), n, ctx.device),
        "gradient_decode": seconds_per_image(lambda: backward(draw, latents), n, ctx.device),
    }


def configured(name: str) -> Attack[Any]:
    """The attack with few steps."""
    known = ATTACKS.get(name).Config.model_fields
    return ATTACKS.build(name, {key: value for key, value in SHORT.get(name, {}).items() if key in known})


def prior_of(attack: Attack[Any], shape: tuple[int, int, int], ctx: RunContext) -> Prior:
    """An untrained prior that has what the attack needs."""
    name = attack.default_prior or next(builder.name for builder in PRIORS if attack.needs <= builder.traits)
    prior = PRIORS.build(name, {}).blank(shape, N_CLASSES).to(ctx.device)
    prior.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prior


def measure(name: str, target: Network, rows: int, ctx: RunContext) -> str:
    """One row of the table."""
    attack = configured(name)
    if attack.inapplicable(target):  # type: ignore[arg-type]
        return f"| {name} | {rows} | inapplicable | | | | |"
    prior = prior_of(attack, target.image_shape, ctx)
    classes = next(n for n in range(min(N_CLASSES, rows), 0, -1) if rows % n == 0)
    samples = rows // classes
    public = torch.rand(600, *target.image_shape, generator=torch.Generator().manual_seed(0))
    aids = attack.prepare(narrow(target, attack.access), prior, public, ctx)  # type: ignore[arg-type]
    rates = bare_rates(target, prior, min(rows, ctx.batch_size), ctx)
    view = narrow(target, attack.access)  # type: ignore[arg-type]
    start = time.perf_counter()
    result = attack.run(view, prior, tuple(range(classes)), samples, ctx, aids=aids)
    taken = time.perf_counter() - start
    cost = attack.cost(classes, samples, N_CLASSES)
    if cost is None:
        return f"| {name} | {rows} | {taken:.2f} | no cost is known | | | |"
    sent, backward = view.counter.forward, view.counter.backward
    bare = (sent - backward) * rates["forward"] + (backward + cost.helper_passes) * rates["backward"]
    bare += cost.decodes * rates["decode"] + cost.gradient_decodes * rates["gradient_decode"]
    before, after = (-conf.clamp_min(1e-9).log().mean() for conf in (result.start_confidence, result.end_confidence))
    passes = (sent + backward + 2 * cost.helper_passes) / taken
    return (
        f"| {name} | {rows} | {taken:.2f} | {bare:.2f} | {taken / bare:.2f} | {passes:,.0f} "
        f"| {float(before):.2f} to {float(after):.2f} |"
    )


def compare_with_art(target: Network, rows: int, steps: int, ctx: RunContext) -> None:
    """`mi-face` and ART's MIFace, `steps` steps on `rows` grey pictures."""
    from art.attacks.inference.model_inversion import MIFace  # type: ignore[import-not-found]
    from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found]

    view = narrow(target, ATTACKS.get("mi-face").access)  # type: ignore[arg-type]
    attack = ATTACKS.build("mi-face", {"steps": steps})
    prior = prior_of(attack, target.image_shape, ctx)
    start = time.perf_counter()
    ours = attack.run(view, prior, tuple(range(rows)), 1, ctx)
    took = time.perf_counter() - start
    classifier = PyTorchClassifier(
        model=nn.Sequential(target.module, nn.Softmax(dim=1)),
        loss=nn.NLLLoss(),
        input_shape=target.image_shape,
        nb_classes=N_CLASSES,
        clip_values=(0.0, 1.0),
        device_type="gpu" if ctx.device.type == "cuda" else "cpu",
    )
    peer = MIFace(classifier, max_iter=steps, window_length=steps, batch_size=rows, threshold=1.0, verbose=False)
    grey = np.full((rows, *target.image_shape), 0.5, dtype=np.float32)
    start = time.perf_counter()
    theirs = peer.infer(grey, y=np.arange(rows))
    peer_took = time.perf_counter() - start
    with torch.no_grad():
        scores = torch.log_softmax(target.logits(torch.from_numpy(theirs).to(ctx.device)), dim=1).cpu()
    reached = float(scores[torch.arange(rows), torch.arange(rows)].exp().mean())
    print(  # noqa: T201
        f"mi-face: {took:.2f} s, mean confidence {float(ours.end_confidence.mean()):.3f}; "
        f"ART MIFace: {peer_took:.2f} s, {reached:.3f}; ART / ours {peer_took / took:.1f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[40, 300])
    parser.add_argument("--only", nargs="+", default=[name for name in ATTACKS.names if name != "best-of-prior"])
    parser.add_argument("--side", type=int, default=32, help="image side")
    parser.add_argument("--bf16", action="store_true", help="networks under bfloat16 autocast")
    parser.add_argument("--art", action="store_true", help="compare mi-face with ART's")
    parser.add_argument("--steps", type=int, default=50, help="steps of that comparison")
    args = parser.parse_args()
    ctx = RunContext(device=torch.device(args.device), autocast_bf16=args.bf16)
    torch.manual_seed(0)
    module = build_architecture("small-cnn", n_classes=N_CLASSES, channels=3).eval().requires_grad_(False)
    with torch.no_grad():
        module.get_parameter("head.weight").mul_(30)  # so that the classes of an untrained network differ
    module = module.to(ctx.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    target = Network(module, (3, args.side, args.side))
    if args.art:
        compare_with_art(target, min(N_CLASSES, args.rows[0]), args.steps, ctx)
        return
    print(  # noqa: T201
        f"torch {torch.__version__}, {ctx.device}, {torch.get_num_threads()} threads, {args.side} px, "
        f"{'bf16' if args.bf16 else 'fp32'}"
    )
    print("| attack | rows | seconds | bare | attack / bare | passes per second | loss before to after |")  # noqa: T201
    print("|---|---|---|---|---|---|---|")  # noqa: T201
    for name in args.only:
        for rows in args.rows:
            print(measure(name, target, rows, ctx), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
