"""Every attack of the catalog against the passes it cannot avoid, in one run (table c), and ART's MIFace beside ours.

    python -m benchmarks.attack_suite [--rows 40 300 1500] [--only ppa kedmi] [--device cuda] [--bf16] [--compile]
    python -m benchmarks.attack_suite --art [--rows 40] [--steps 50]

"Bare" is the sum of what the attack says it sends (`Attack.cost`), each at the speed of a bare, uncompiled pass of the
same networks and chunks: forward only, forward and backward, drawing with and without a gradient. Networks that stand
in for the target are charged as the target. "Steps" are those of the attack's longest stage: steps of a descent,
generations, batches of a pool. The target is trained on procedural identities first, about a minute (`--untrained`:
random weights); priors are untrained and steps are few, so that the last column, the target's mean loss on the class
before and after, tells runs of one attack apart (with bf16, compiled), not attacks. With `--compile` every attack runs
twice, and the second run counts: the first compiles.

With `--art`, the Adversarial Robustness Toolbox's MIFace (`pip install adversarial-robustness-toolbox`) runs as many
steps as `mi-face` on the same target, from the same grey pictures with the same step size. Their losses differ as far
as ART gives back the last point and `mi-face` the best. The paper's step size, 0.1, moves the pictures of a confident
target next to nowhere; `--lr` is larger.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor.attacks.base import Attack
from auditor.attacks.catalog import ATTACKS
from auditor.demo.identities import private_and_public
from auditor.demo.target import train_demo_target
from auditor.priors.base import Prior, sample_labels, sample_latents
from auditor.priors.catalog import PRIORS
from auditor.priors.pixels import SPREAD
from auditor.targets.architectures import build_architecture
from auditor.targets.base import Target
from auditor.targets.compiled import CompiledTarget
from auditor.targets.views import narrow
from auditor.tensors import RunContext
from auditor.training import top_k_accuracy
from benchmarks.attacks import N_CLASSES, Network, split

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
PUBLIC = (30, 20)
"""People who are not the target's, and images of each."""
PER_CLASS = 20
"""Images of each person that the target is trained on."""


def make_target(
    architecture: str, shape: tuple[int, int, int], ctx: RunContext, *, trained: bool
) -> tuple[Network, Tensor]:
    """The target, and (N, C, H, W) public images."""
    if trained:
        private, heldout, others = private_and_public(N_CLASSES, PUBLIC[0], PER_CLASS, PUBLIC[1], shape[1], seed=0)
        module = train_demo_target(private, shape, N_CLASSES, RunContext(device=ctx.device), architecture)
        accuracy = top_k_accuracy(module, heldout.batch(shape), RunContext())
        print(f"{architecture} trained on {len(private)} images, held-out top-1 {accuracy:.3f}", flush=True)  # noqa: T201
        public = others.batch(shape).images
    else:
        torch.manual_seed(0)
        module = build_architecture(architecture, n_classes=N_CLASSES, channels=shape[0])
        public = torch.rand(PUBLIC[0] * PUBLIC[1], *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():  # so that classes differ, and label attacks find some
            [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1].weight.mul_(30)
    module = module.eval().requires_grad_(False).to(ctx.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Network(module, shape), public


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
    torch.manual_seed(0)  # the same weights in every run, so that losses can be compared
    name = attack.default_prior or next(builder.name for builder in PRIORS if attack.needs <= builder.traits)
    prior = PRIORS.build(name, {}).blank(shape, N_CLASSES).to(ctx.device)
    prior.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prior


class Pace:
    """Seconds and ticks of every stage of a run; each tick ends the time since the one before."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._ticks: Counter[str] = Counter()
        self._last = time.perf_counter()

    def tick(self, stage: str, _done: int, _total: int) -> None:
        """One step of `stage` ended."""
        now = time.perf_counter()
        self._seconds[stage] += now - self._last  # type: ignore[assignment]
        self._ticks[stage] += 1
        self._last = now

    def __str__(self) -> str:
        """Ticks per second of the longest stage, and its name."""
        if not self._seconds:
            return ""
        stage = max(self._seconds, key=lambda name: self._seconds[name])
        return f"{self._ticks[stage] / self._seconds[stage]:.2f} ({stage})"


def measure(name: str, target: Network, attacked: Target, public: Tensor, rows: int, ctx: RunContext) -> str:
    """One row of the table: `attacked` is `target`, compiled or not."""
    attack = configured(name)
    if attack.inapplicable(target):
        return f"| {name} | {rows} | inapplicable | | | | | |"
    prior = prior_of(attack, target.image_shape, ctx)
    classes, samples = split(rows)
    aids = attack.prepare(narrow(target, attack.access), prior, public, ctx)
    rates = bare_rates(target, prior, min(rows, ctx.batch_size), ctx)
    for _ in range(1 if attacked is target else 2):
        view, pace = narrow(attacked, attack.access), Pace()
        start = time.perf_counter()
        result = attack.run(view, prior, tuple(range(classes)), samples, replace(ctx, on_tick=pace.tick), aids=aids)
        taken = time.perf_counter() - start
    before, after = (-conf.clamp_min(1e-9).log().mean() for conf in (result.start_confidence, result.end_confidence))
    loss = f"{float(before):.3f} to {float(after):.3f}"
    cost = attack.cost(classes, samples, N_CLASSES)
    if cost is None:
        return f"| {name} | {rows} | {taken:.2f} | no cost is known | | {pace} | | {loss} |"
    sent, backward = view.counter.forward, view.counter.backward
    bare = (sent - backward) * rates["forward"] + (backward + cost.helper_passes) * rates["backward"]
    bare += cost.decodes * rates["decode"] + cost.gradient_decodes * rates["gradient_decode"]
    passes = (sent + backward + 2 * cost.helper_passes) / taken
    return f"| {name} | {rows} | {taken:.2f} | {bare:.2f} | {taken / bare:.2f} | {pace} | {passes:,.0f} | {loss} |"


def compare_with_art(target: Network, rows: int, steps: int, lr: float, ctx: RunContext) -> str:
    """One row of the table: `mi-face` and ART's MIFace, `steps` steps of size `lr` on `rows` grey pictures."""
    from art.attacks.inference.model_inversion import MIFace  # type: ignore[import-not-found]
    from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found]

    classes, samples = split(rows)
    labels = np.arange(classes).repeat(samples)
    params = {"steps": steps, "noise": 0.0, "window": steps, "confidence": 1.0, "lr": lr / SPREAD**2}
    attack = ATTACKS.build("mi-face", params)
    prior = prior_of(attack, target.image_shape, ctx)
    start = time.perf_counter()
    ours = attack.run(narrow(target, attack.access), prior, tuple(range(classes)), samples, ctx)
    took = time.perf_counter() - start
    classifier = PyTorchClassifier(
        model=nn.Sequential(target.module, nn.Softmax(dim=1)),
        loss=nn.NLLLoss(),
        input_shape=target.image_shape,
        nb_classes=N_CLASSES,
        clip_values=(0.0, 1.0),
        device_type="gpu" if ctx.device.type == "cuda" else "cpu",
    )
    limits = {"max_iter": steps, "window_length": steps, "threshold": 1.0}
    peer = MIFace(classifier, learning_rate=lr, batch_size=rows, verbose=False, **limits)
    grey = np.full((rows, *target.image_shape), 0.5, dtype=np.float32)
    start = time.perf_counter()
    theirs = peer.infer(grey, y=labels)
    peer_took = time.perf_counter() - start
    with torch.no_grad():
        scores = torch.log_softmax(target.logits(torch.from_numpy(theirs).to(ctx.device)), dim=1).cpu()
    reached = scores[torch.arange(rows), torch.from_numpy(labels)].exp()
    losses = " | ".join(_loss(found) for found in (ours.start_confidence, ours.end_confidence, reached))
    return f"| {rows} | {steps / took:.2f} | {steps / peer_took:.2f} | {peer_took / took:.1f} | {losses} |"


def _loss(confidence: Tensor) -> str:
    """Mean cross-entropy and mean confidence."""
    return f"{float(-confidence.clamp_min(1e-9).log().mean()):.3f} ({float(confidence.mean()):.3f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[40, 300, 1500])
    parser.add_argument("--only", nargs="+", default=[name for name in ATTACKS.names if name != "best-of-prior"])
    parser.add_argument("--side", type=int, default=32, help="image side")
    parser.add_argument("--batch", type=int, default=512, help="rows per chunk")
    parser.add_argument("--target", default="small-cnn", help="architecture of the target")
    parser.add_argument("--untrained", action="store_true", help="leave the target's weights random")
    parser.add_argument("--bf16", action="store_true", help="networks under bfloat16 autocast")
    parser.add_argument("--compile", action="store_true", help="the target under torch.compile")
    parser.add_argument("--art", action="store_true", help="compare mi-face with ART's")
    parser.add_argument("--steps", type=int, default=50, help="steps of that comparison")
    parser.add_argument("--lr", type=float, default=1.0, help="step size of that comparison, in pixel values")
    args = parser.parse_args()
    ctx = RunContext(device=torch.device(args.device), batch_size=args.batch, autocast_bf16=args.bf16)
    print(  # noqa: T201
        f"torch {torch.__version__}, {ctx.device}, {torch.get_num_threads()} threads, {args.target} at {args.side} px, "
        f"{'bf16' if args.bf16 else 'fp32'}, {'compiled' if args.compile else 'not compiled'}, chunks of {args.batch}"
    )
    target, public = make_target(args.target, (3, args.side, args.side), ctx, trained=not args.untrained)
    if args.art:
        print("| rows | mi-face, steps/s | ART, steps/s | ART / ours | loss (confidence) before | mi-face | ART |")  # noqa: T201
        print("|---|---|---|---|---|---|---|")  # noqa: T201
        for rows in args.rows:
            print(compare_with_art(target, rows, args.steps, args.lr, ctx), flush=True)  # noqa: T201
        return
    attacked = CompiledTarget(target) if args.compile else target
    print("| attack | rows | seconds | bare | attack / bare | steps/s (stage) | passes/s | loss before to after |")  # noqa: T201
    print("|---|---|---|---|---|---|---|---|")  # noqa: T201
    for name in args.only:
        for rows in args.rows:
            print(measure(name, target, attacked, public, rows, ctx), flush=True)  # noqa: T201
    for note in attacked.notes if isinstance(attacked, CompiledTarget) else ():
        print(note)  # noqa: T201


if __name__ == "__main__":
    main()
