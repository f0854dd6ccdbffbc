"""Training the priors: real images per second, and the time against a bare loop of the same networks (table d).

    python -m benchmarks.priors [--only vae dcgan] [--device cuda] [--side 64] [--steps 8] [--repeat 2] [--bf16]

"Bare" is what a step of the method cannot do without, on fixed random input: every pass of the networks, forward and,
where something is learned from it, backward, and Adam. It draws no batch, changes no picture, keeps no moving average.
A penalty on gradients and the target's passes belong to the method, so they are part of the bare step. Real images are
those a step shows to its encoder or, in all critic steps, to its critic. `vae-gan` begins as `vae` does; only its
second stage is timed. Training and bare loop take turns, and every figure is the fastest step seen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from auditor.priors.catalog import PRIORS
from auditor.priors.conditional_networks import ProjectionDiscriminator
from auditor.priors.dcgan import gradient_penalty
from auditor.priors.network import NetworkPrior
from auditor.targets.architectures import build_architecture
from auditor.targets.views import narrow
from auditor.tensors import ImageBatch, RunContext
from benchmarks.attacks import N_CLASSES, Network

N_PUBLIC = 640


@dataclass(frozen=True)
class Bench:
    """What a bare loop works on.

    Attributes:
        prior: untrained networks, in training mode.
        config: the builder's parameters.
        target: for trainings that ask it.
        ctx: device and autocast policy.
        real: (B, C, H, W).
        latents: (B, D).
        labels: (B,) int64.
    """

    prior: NetworkPrior
    config: Any
    target: Network
    ctx: RunContext
    real: Tensor
    latents: Tensor
    labels: Tensor

    def network(self, name: str) -> Any:
        """One of the prior's networks."""
        return self.prior.networks[name]

    def target_passes(self, images: Tensor) -> Tensor:
        """() float32 that depends on the target's answers."""
        return self.target.logits(images).float().mean()


Step = Callable[[], None]


def learner(network: nn.Module) -> Callable[[Tensor], None]:
    """Takes a loss and moves `network` by Adam."""
    adam = torch.optim.Adam((p for p in network.parameters() if p.requires_grad), lr=1e-4, fused=True)

    def learn(loss: Tensor) -> None:
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()

    return learn


def adversarial(
    bench: Bench,
    generator: nn.Module,
    critic: nn.Module,
    *,
    draw: Callable[[], Tensor],
    judge: Callable[[Tensor], Tensor],
    please: Callable[[Tensor], Tensor],
) -> Step:
    """The passes of one step of a GAN.

    Args:
        bench: context and number of critic steps.
        generator: learns from what `please` makes of drawn pictures.
        critic: learns from what `judge` makes of them, then without a gradient to the generator.
        draw: pictures, with a gradient to the generator.
        judge: a loss.
        please: a loss.
    """
    teach_generator, teach_critic, ctx = learner(generator), learner(critic), bench.ctx

    def step() -> None:
        for _ in range(bench.config.critic_steps):
            with ctx.autocast():
                with torch.no_grad():
                    fake = draw().float()
                loss = judge(fake)
            teach_critic(loss)
        critic.requires_grad_(False)
        with ctx.autocast():
            loss = please(draw())
        teach_generator(loss)
        critic.requires_grad_(True)

    return step


def vae(bench: Bench) -> Step:
    """Encoder and decoder."""
    encoder, decoder = bench.network("encoder"), bench.network("generator")
    for network in (encoder, decoder):
        network.linear.requires_grad_(False)
    learn = learner(nn.ModuleList([encoder, decoder]))

    def step() -> None:
        with bench.ctx.autocast():
            mean, log_var = encoder(bench.real)
            loss = decoder.paint(mean).float().square().mean() + log_var.float().mean()
        learn(loss)

    return step


def vae_gan(bench: Bench) -> Step:
    """The second stage: decoder and critic on reconstructions and samples; the critic learns from the same pictures."""
    encoder, decoder, critic = (bench.network(name) for name in ("encoder", "generator", "critic"))
    decoder.linear.requires_grad_(False)
    teach_decoder, teach_critic = learner(decoder), learner(critic)

    def step() -> None:
        with torch.no_grad():
            encoder(bench.real)
        with bench.ctx.autocast():
            drawn = decoder.paint(bench.latents.repeat(2, 1)).float()
            loss = critic(torch.cat([bench.real, drawn.detach()])).float().mean()
        teach_critic(loss)
        critic.requires_grad_(False)
        with bench.ctx.autocast():
            with torch.no_grad():
                critic.features(bench.real)
            loss = critic.features(drawn[: len(bench.real)])[-1].float().mean() + critic(drawn).float().mean()
        teach_decoder(loss)
        critic.requires_grad_(True)

    return step


def dcgan(bench: Bench) -> Step:
    """Wasserstein GAN with the penalty on the critic's gradient."""
    generator, critic = bench.network("generator"), bench.network("critic")

    def judge(fake: Tensor) -> Tensor:
        scores = critic(torch.cat([fake, bench.real])).float()
        with torch.autocast(bench.ctx.device.type, enabled=False):
            return scores.mean() + gradient_penalty(critic, bench.real)  # type: ignore[no-any-return]

    return adversarial(
        bench,
        generator,
        critic,
        draw=lambda: generator(bench.latents),
        judge=judge,
        please=lambda drawn: critic(drawn).float().mean(),
    )


def kedmi_gan(bench: Bench) -> Step:
    """Two real batches in a critic step, and one in the generator's."""
    generator, critic = bench.network("generator"), bench.network("critic")
    return adversarial(
        bench,
        generator,
        critic,
        draw=lambda: generator(bench.latents),
        judge=lambda fake: critic(torch.cat([fake, bench.real, bench.real])).float().mean(),
        please=lambda drawn: critic(drawn).float().mean() + critic.features(bench.real).float().mean(),
    )


def plg_gan(bench: Bench) -> Step:
    """Conditional; the generator learns from the target too."""
    generator, config = bench.network("generator"), bench.config
    critic: nn.Module = ProjectionDiscriminator(bench.prior.image_shape, config.width, N_CLASSES).train()
    critic = critic.to(bench.ctx.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return adversarial(
        bench,
        generator,
        critic,
        draw=lambda: generator(bench.latents, bench.labels),
        judge=lambda fake: critic(torch.cat([fake, bench.real]), bench.labels.repeat(2)).float().mean(),
        please=lambda drawn: critic(drawn, bench.labels).float().mean() + bench.target_passes(drawn),
    )


def tac_gan(bench: Bench) -> Step:
    """Conditional; the critic has two heads, and asks the target."""
    generator, critic = bench.network("generator"), bench.network("discriminator")

    def heads(images: Tensor) -> Tensor:
        realism, named = critic(images)
        return realism.float().mean() + named.float().mean()  # type: ignore[no-any-return]

    return adversarial(
        bench,
        generator,
        critic,
        draw=lambda: generator(bench.latents, bench.labels),
        judge=lambda fake: heads(torch.cat([fake, bench.real])) + bench.target_passes(fake),
        please=heads,
    )


@dataclass(frozen=True)
class Case:
    """How one prior is timed.

    Attributes:
        bare: makes the bare step.
        params: of a training of n steps.
        shown: real batches a step shows to encoder or critic, times the critic steps where there are any.
    """

    bare: Callable[[Bench], Step]
    params: Callable[[int], dict[str, Any]] = lambda steps: {"steps": steps}
    shown: int = 1


CASES = {
    "vae": Case(vae),
    "vae-gan": Case(vae_gan, lambda steps: {"steps": 1, "gan_steps": steps}),
    "dcgan": Case(dcgan),
    "kedmi-gan": Case(kedmi_gan, shown=2),
    "plg-gan": Case(plg_gan),
    "tac-gan": Case(tac_gan, lambda n: {"steps": n, "warm_up": 0, "per_class": 2, "surrogate_epochs": 1}),
}


def bench_of(name: str, config: Any, target: Network, ctx: RunContext) -> Bench:
    """Untrained networks and random input."""
    builder = PRIORS.build(name, config.model_dump())
    prior = builder.blank(target.image_shape, 0 if builder.access is None else N_CLASSES).to(ctx.device)
    prior.networks.train().requires_grad_(True)
    size, generator = config.batch_size, torch.Generator().manual_seed(0)
    return Bench(
        prior,
        config,
        target,
        ctx,
        real=torch.rand(size, *target.image_shape, generator=generator).to(ctx.device),
        latents=torch.randn(size, prior.latent_dim, generator=generator).to(ctx.device),
        labels=torch.randint(N_CLASSES, (size,), generator=generator).to(ctx.device),
    )


def training_steps(name: str, config: Any, target: Network, public: ImageBatch, ctx: RunContext) -> list[float]:
    """Seconds of each step of the training but the first, as its own progress reports them."""
    times: list[float] = []

    def note(stage: str, _done: int, _total: int) -> None:
        if stage == f"train {name}":
            _wait(ctx.device)
            times.append(time.perf_counter())

    builder = PRIORS.build(name, config.model_dump())
    oracle = None if builder.access is None else narrow(target, builder.access)
    builder.train(public, replace(ctx, on_tick=note), oracle)
    return [after - before for before, after in pairwise(times)]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _seconds(step: Step, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def measure(name: str, target: Network, public: ImageBatch, ctx: RunContext, *, steps: int, repeat: int) -> str:
    """One row of the table."""
    case = CASES[name]
    config = PRIORS.get(name).Config(**case.params(steps + 1))  # type: ignore[attr-defined]
    step = case.bare(bench_of(name, config, target, ctx))
    step()
    training, bare = float("inf"), float("inf")
    for _ in range(repeat):
        bare = min(bare, *(_seconds(step, ctx.device) for _ in range(steps)))
        training = min(training, *training_steps(name, config, target, public, ctx))
    images = config.batch_size * case.shown * getattr(config, "critic_steps", 1)
    return f"| {name} | {training:.3f} | {bare:.3f} | {images / training:,.0f} | {training / bare:.2f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--side", type=int, default=32, help="image side")
    parser.add_argument("--steps", type=int, default=8, help="timed steps per round")
    parser.add_argument("--repeat", type=int, default=2, help="rounds, training and bare loop taking turns")
    parser.add_argument("--bf16", action="store_true", help="networks under bfloat16 autocast")
    args = parser.parse_args()
    ctx = RunContext(device=torch.device(args.device), autocast_bf16=args.bf16)
    torch.manual_seed(0)
    module = build_architecture("small-cnn", n_classes=N_CLASSES, channels=3).eval().requires_grad_(False)
    module = module.to(ctx.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    target = Network(module, (3, args.side, args.side))
    public = ImageBatch(torch.rand(N_PUBLIC, *target.image_shape, generator=torch.Generator().manual_seed(1)))
    print(  # noqa: T201
        f"torch {torch.__version__}, {ctx.device}, {torch.get_num_threads()} threads, {args.side} px, "
        f"{'bf16' if args.bf16 else 'fp32'}"
    )
    print("| prior | training, s/step | bare, s/step | real images/s | training / bare |")  # noqa: T201
    print("|---|---|---|---|---|")  # noqa: T201
    for name in args.only:
        print(measure(name, target, public, ctx, steps=args.steps, repeat=args.repeat), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
