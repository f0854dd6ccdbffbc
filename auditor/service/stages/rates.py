"""What this machine needs per image and per training step: short measurements on the submitted target itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from auditor.contracts.estimate import Rate, Training
from auditor.contracts.plan import EvaluatorSpec, JudgeTraining
from auditor.data.image_set import ImageSet
from auditor.evaluation.evaluator import train_evaluator
from auditor.evaluation.judge_training import EPOCH_IMAGES, train_judge
from auditor.priors.base import Prior, Trait
from auditor.targets.base import Target
from auditor.tensors import ImageBatch, RunContext

PASS_S = 0.4
"""Time spent on one kind of pass, about."""
TRAINING_S = 2.0
"""Time spent on one training, about."""
_SMALL, _LARGE = 8, 64
_LARGE_GPU = 256
_WITNESS_IMAGES = 256

Pass = Callable[[int], object]
"""Sends that many images through something."""


def forward_rate(target: Target, ctx: RunContext) -> Rate:
    """The target alone."""

    def run(n: int) -> Tensor:
        with torch.no_grad(), ctx.autocast():
            return target.logits(_pictures(target, n, ctx))

    return time_pass(run, ctx)


def gradient_rate(target: Target, ctx: RunContext) -> Rate:
    """The target, and the gradient of a loss per image with respect to the image."""

    def run(n: int) -> Tensor:
        images = _pictures(target, n, ctx).requires_grad_(True)
        with torch.enable_grad(), ctx.autocast():
            loss = torch.logsumexp(target.logits(images).float(), dim=1).sum()
        return torch.autograd.grad(loss, images)[0]

    return time_pass(run, ctx)


def _pictures(target: Target, n: int, ctx: RunContext) -> Tensor:
    return torch.rand(n, *target.image_shape, generator=ctx.rng("probe")).to(ctx.device)


def decode_rate(prior: Prior, ctx: RunContext, *, gradient: bool) -> Rate:
    """Drawing pictures, with or without the gradient with respect to the latent."""
    conditional = Trait.CONDITIONAL in prior.traits

    def run(n: int) -> Tensor:
        latents = torch.randn(n, prior.latent_dim, generator=ctx.rng("probe")).to(ctx.device)
        labels = torch.arange(n).remainder(prior.n_classes).to(ctx.device) if conditional else None
        with torch.set_grad_enabled(gradient), ctx.autocast():
            images = prior.decode(latents.requires_grad_(gradient), labels)
            return torch.autograd.grad(images.float().sum(), latents)[0] if gradient else images

    return time_pass(run, ctx)


def time_pass(run: Pass, ctx: RunContext) -> Rate:
    """Two batch sizes, each several times; the fastest counts, since whatever disturbs a pass makes it slower."""
    large = min(ctx.batch_size, _LARGE if ctx.device.type == "cpu" else _LARGE_GPU)
    small = min(_SMALL, large)
    memory = peak_bytes(lambda: run(small), ctx.device) // small
    first = _fastest(run, small, ctx.device)
    if large == small or first * large / small > 4 * PASS_S:
        return Rate(call_s=0.0, image_s=first / small, image_bytes=memory)
    try:
        second = _fastest(run, large, ctx.device)
    except torch.OutOfMemoryError:
        return Rate(call_s=0.0, image_s=first / small, image_bytes=memory)
    slope = (second - first) / (large - small)
    slope = slope if 0 < slope <= second / large else second / large
    return Rate(call_s=max(0.0, second - slope * large), image_s=slope, image_bytes=memory)


def _fastest(run: Pass, n: int, device: torch.device) -> float:
    best, until = math.inf, time.monotonic() + PASS_S / 2
    for turn in range(20):
        _finish(device)
        started = time.perf_counter()
        run(n)
        _finish(device)
        best = min(best, time.perf_counter() - started)
        if time.monotonic() > until and (turn >= 2 or best > PASS_S):
            break
    return best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Memory that tensors made by `run` hold at its peak; on a GPU as the allocator counts it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return int(torch.cuda.max_memory_allocated(device)) - int(before)
    with _LiveBytes() as live:
        run()
    return int(live.peak)


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make and that still live."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        result = func(*args, **(kwargs or {}))
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                self._live.setdefault(reference.cdata, (reference, storage.nbytes()))
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


class _EnoughError(Exception):
    """The training was watched for long enough."""


class _Watch:
    """Takes the ticks of a training and stops it when its pace is known."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._started = time.monotonic()
        self._stage, self._first, self._last, self._total = "", (0, 0.0), (0, 0.0), 0

    def tick(self, stage: str, done: int, total: int) -> None:
        """One step of `stage` ended."""
        now = time.monotonic() - self._started
        if stage != self._stage:
            self._stage, self._first = stage, (done, now)
        self._last, self._total = (done, now), total
        if now > self._limit_s and done < total and done >= self._first[0] + 2:
            raise _EnoughError

    @property
    def missing_s(self) -> float:
        """What the rest of the stage would take at the pace seen; the first step, which warms up, does not count."""
        (before, began), (done, now) = self._first, self._last
        return (self._total - done) * (now - began) / max(1, done - before)


def time_training(train: Callable[[RunContext], object], ctx: RunContext) -> Training:
    """How long `train` would take, from its first steps.

    The stage in which it is stopped is carried on at the pace seen. What comes after that stage is not known, and the
    result says so by `extrapolated`.

    Args:
        train: a training that reports its steps through the context it is given.
        ctx: device, seed.
    """
    watch, started = _Watch(TRAINING_S), time.monotonic()
    try:
        train(replace(ctx, on_tick=watch.tick))
    except _EnoughError:
        return Training(seconds=time.monotonic() - started + watch.missing_s, extrapolated=True)
    return Training(seconds=time.monotonic() - started)


def evaluator_training(target: Target, private: ImageSet, n_fit: int, spec: EvaluatorSpec, ctx: RunContext) -> Training:
    """The evaluator on `n_fit` images, from two epochs on a few."""
    few = _few(private).batch(target.image_shape)
    seconds = _epochs(lambda c: train_evaluator(target.card, few, spec.model_copy(update={"epochs": 2}), c), ctx)
    return Training(seconds=seconds * spec.epochs * n_fit / len(few))


def judge_training(public: ImageSet, target: Target, spec: JudgeTraining, ctx: RunContext) -> Training:
    """The judge on all public images, from two epochs on a few."""
    few = _few(public).batch(target.image_shape)
    if len(few) < 16:
        return Training(seconds=0.0)
    seconds = _epochs(lambda c: train_judge(few, spec.model_copy(update={"epochs": 2}), c), ctx)
    return Training(seconds=seconds * spec.epochs * min(len(public), EPOCH_IMAGES) / len(few))


def _epochs(train: Callable[[RunContext], object], ctx: RunContext) -> float:
    """Seconds of the second of two epochs."""
    ends: list[float] = []
    train(replace(ctx, on_tick=lambda _stage, _done, _total: ends.append(time.monotonic())))
    return ends[1] - ends[0]


def _few(image_set: ImageSet) -> ImageSet:
    """At most 256 images, two of every class while they last, so that a labelled set stays one that can be learned."""
    if image_set.labels is None:
        return image_set.select(np.arange(min(len(image_set), _WITNESS_IMAGES)))
    order = np.argsort(image_set.labels, kind="stable")
    labels = image_set.labels[order]
    turn = np.arange(len(labels)) - np.searchsorted(labels, labels)
    return image_set.select(order[np.argsort(turn // 2, kind="stable")][:_WITNESS_IMAGES])


def public_batch(public: ImageSet | None, shape: tuple[int, int, int], ctx: RunContext) -> ImageBatch:
    """Public images to time a training on: at most 512, noise where there are none."""
    if public is None:
        return ImageBatch(torch.rand(64, *shape, generator=ctx.rng("probe")))
    return public.select(np.arange(min(len(public), 512))).batch(shape)


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def weights_bytes(target: Target, priors: Mapping[str, Prior]) -> int:
    """Memory of the weights of target and priors."""
    modules = [prior.generator for prior in priors.values()] + ([] if target.module is None else [target.module])
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
