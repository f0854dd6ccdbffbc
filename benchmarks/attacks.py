"""GMI and PPA steps per second against the bare forward and backward pass of the same networks, in one run (table a).

    python -m benchmarks.attacks [--device cuda] [--rows 40 300 1500] [--steps 6] [--bf16] [--contiguous]

"Bare" is what no attack can avoid: decode the latents, classify the pictures, backpropagate one sum to the latents, at
the same batch and chunks, with parameters frozen. For GMI the critic is part of the published objective, so it is part
of the bare pass too; the column "generator + target" leaves it out. Both take turns, and every figure is the fastest
step seen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from auditor.attacks.catalog import ATTACKS
from auditor.contracts.access import Access
from auditor.contracts.submission import TargetCard
from auditor.priors.base import Prior
from auditor.priors.catalog import PRIORS
from auditor.targets.architectures import build_architecture
from auditor.targets.views import narrow
from auditor.tensors import RunContext
from auditor.testing import toy_card

CASES = (("gmi", "dcgan"), ("ppa", "vae"), ("ppa", "dcgan"))
"""Attack and prior."""
N_CLASSES = 60


@dataclass
class Network:
    """A target made of one frozen module."""

    module: nn.Module
    image_shape: tuple[int, int, int]
    n_classes: int = N_CLASSES

    @property
    def card(self) -> TargetCard:
        """A card that offers every level."""
        return toy_card(n_classes=self.n_classes, image_shape=self.image_shape)

    def logits(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, K)."""
        return self.module(images)  # type: ignore[no-any-return]


def bare_pass(
    target: Network, prior: Prior, rows: int, ctx: RunContext, *, layout: torch.memory_format, critic: bool
) -> Callable[[], None]:
    """One forward and backward pass over `rows` latents, in chunks of the context's batch size."""
    latents = torch.randn(rows, prior.latent_dim, device=ctx.device)

    def run() -> None:
        for chunk in latents.split(ctx.batch_size):
            leaf = chunk.detach().requires_grad_(True)
            with ctx.autocast():
                images = prior.decode(leaf)
                total = target.logits(images.contiguous(memory_format=layout)).float().sum()
                score = prior.critic(images) if critic else None
            if score is not None:
                total = total + score.float().sum()
            torch.autograd.grad(total, leaf)

    return run


def attack_steps(
    name: str, target: Network, prior: Prior, rows: int, ctx: RunContext, *, steps: int, channels_last: bool
) -> list[float]:
    """Seconds of each step of the attack's descent but the first, as its own progress reports them."""
    times: list[float] = []

    def note(stage: str, done: int, total: int) -> None:
        if stage == name:
            _wait(ctx.device)
            times.append(time.perf_counter())

    params: dict[str, object] = {"steps": steps + 1, "channels_last": channels_last}
    classes, samples = split(rows)
    if name == "ppa":
        params |= {"pool": samples, "candidates": 1}
    view = narrow(target, Access.WHITE_BOX)
    ATTACKS.build(name, params).run(view, prior, tuple(range(classes)), samples, replace(ctx, on_tick=note))
    return [after - before for before, after in pairwise(times)]


def split(rows: int) -> tuple[int, int]:
    """Classes and samples per class that make `rows`."""
    classes = next(n for n in range(min(N_CLASSES, rows), 0, -1) if rows % n == 0)
    return classes, rows // classes


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def measure(
    name: str, prior: Prior, target: Network, rows: int, ctx: RunContext, args: argparse.Namespace
) -> tuple[float, float, float]:
    """Fastest seconds of generator + target, of the bare pass, and of one attack step."""
    layout = torch.contiguous_format if args.contiguous else torch.channels_last
    plain = bare_pass(target, prior, rows, ctx, layout=layout, critic=False)
    full = bare_pass(target, prior, rows, ctx, layout=layout, critic=name == "gmi")
    best = [float("inf")] * 3
    for _ in range(args.repeat):
        for _ in range(args.steps):
            best[0] = min(best[0], _seconds(plain, ctx.device))
            best[1] = min(best[1], _seconds(full, ctx.device))
        steps = attack_steps(name, target, prior, rows, ctx, steps=args.steps, channels_last=not args.contiguous)
        best[2] = min(best[2], *steps)
    return best[0], best[1], best[2]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[40, 300, 1500])
    parser.add_argument("--steps", type=int, default=6, help="timed steps per round")
    parser.add_argument("--repeat", type=int, default=2, help="rounds, bare pass and attack taking turns")
    parser.add_argument("--side", type=int, default=32, help="image side")
    parser.add_argument("--batch", type=int, default=512, help="rows per chunk")
    parser.add_argument("--target", default="small-cnn", help="architecture of the target")
    parser.add_argument("--bf16", action="store_true", help="networks under bfloat16 autocast")
    parser.add_argument("--contiguous", action="store_true", help="plain memory layout instead of channels_last")
    args = parser.parse_args()
    ctx = RunContext(device=torch.device(args.device), batch_size=args.batch, autocast_bf16=args.bf16)
    shape = (3, args.side, args.side)
    torch.manual_seed(0)
    layout = torch.contiguous_format if args.contiguous else torch.channels_last
    module = build_architecture(args.target, n_classes=N_CLASSES, channels=3).eval().requires_grad_(False)
    target = Network(module.to(ctx.device, memory_format=layout), shape)  # type: ignore[call-overload]
    policy = f"{'bf16' if args.bf16 else 'fp32'}, {'contiguous' if args.contiguous else 'channels_last'}"
    print(  # noqa: T201
        f"torch {torch.__version__}, {ctx.device}, {torch.get_num_threads()} threads, {args.target} at {args.side} px, "
        f"{policy}, chunks of {args.batch}"
    )
    print("| attack | prior | rows | generator + target, s | bare, s | attack, s/step | steps/s | attack / bare |")  # noqa: T201
    print("|---|---|---|---|---|---|---|---|")  # noqa: T201
    for name, prior_name in CASES:
        prior = PRIORS.build(prior_name, {}).blank(shape).to(ctx.device)
        prior.networks.to(memory_format=layout)  # type: ignore[call-overload]
        for rows in args.rows:
            plain, bare, step = measure(name, prior, target, rows, ctx, args)
            print(  # noqa: T201
                f"| {name} | {prior_name} | {rows} | {plain:.3f} | {bare:.3f} | {step:.3f} | {1 / step:.2f} "
                f"| {step / bare:.2f} |"
            )


if __name__ == "__main__":
    main()
