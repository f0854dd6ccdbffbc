"""The training loop of DP-SGD over Opacus: Poisson batches, gradients by image, clipping, noise, accounting."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from auditor.errors import UnsupportedModel
from auditor.training import TrainConfig, TrainHistory, augment_images
from remediation import freezing
from remediation.defenses.base import Tuning
from remediation.privacy_accounting import Accountant, Spent, account


def hold_norms(module: nn.Module) -> tuple[str, ...]:
    """Take the batch norms that would be trained out of the training; returns their paths."""
    held = []
    for path, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and any(p.requires_grad for p in layer.parameters(recurse=False)):
            layer.requires_grad_(False)
            held.append(path)
    return tuple(held)


def unsupported_by_opacus(module: nn.Module, tuned: Set[str]) -> tuple[str, ...]:
    """Layers (path and kind) whose parameters named in `tuned` have no gradient of their own for every image."""
    trial = copy.deepcopy(module).train()
    for name, parameter in trial.named_parameters():
        parameter.requires_grad_(name in tuned)
    hold_norms(trial)
    with _opacus() as opacus:
        return tuple(
            f"{path} ({type(layer).__name__})"
            for path, layer in trial.named_modules()
            if any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
            and opacus.validators.ModuleValidator.validate(layer, strict=False)
        )


@dataclass(frozen=True)
class PrivateTraining:
    """DP-SGD's parameters.

    Attributes:
        config: epochs, expected batch size, step size, optimiser, augmentation; its patience does not apply.
        noise: deviation as a multiple of `clip`.
        clip: largest norm of one image's gradient.
        physical_batch: images at once.
        accountant: `prv` or `rdp`.
        secret: seed from the operating system and not from the plan.
    """

    config: TrainConfig
    noise: float
    clip: float
    physical_batch: int
    accountant: Accountant
    secret: bool

    def run(self, job: Tuning, delta: float) -> tuple[TrainHistory, Spent]:
        """Train what requires a gradient; the last epoch is kept.

        Raises:
            UnsupportedModel: a layer on which Opacus's hooks fail.
        """
        for layer in job.module.modules():
            if getattr(layer, "inplace", False):  # an output changed in place breaks the hooks
                layer.inplace = False  # type: ignore[assignment]
        job.module.to(job.ctx.device)
        with _opacus() as opacus:
            hooks = None
            try:
                hooks = opacus.grad_sample.GradSampleHooks(job.module, strict=True)
                self._probe(job)
            except (NotImplementedError, ValueError, RuntimeError, AttributeError, TypeError) as error:
                if hooks is not None:
                    hooks.cleanup()
                raise UnsupportedModel(
                    f"Opacus cannot take the gradients of single images in this network: {str(error)[:200]}",
                    remedy="Train the head alone (leave `boundaries` out), or take another defense.",
                ) from error
            try:
                return self._train(job, delta, opacus)
            finally:
                hooks.cleanup()

    def _probe(self, job: Tuning) -> None:
        """Two black images through and back, so that what does not work is found before the first step."""
        _set_mode(job)
        images = torch.zeros_like(job.data.fit.images[:2]).to(job.ctx.device)
        cross_entropy(job.module(job.prepare(images)), torch.zeros(2, dtype=torch.long).to(images.device)).backward()
        missing = [name for name, p in _trained(job.module) if getattr(p, "grad_sample", None) is None]
        for _, parameter in _trained(job.module):
            parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
        if missing:
            raise ValueError(f"no gradient by image for {', '.join(missing[:5])}")

    def rate(self, n_images: int) -> float:
        """Probability with which an image is drawn into a batch."""
        return min(1.0, self.config.batch_size / n_images)

    def _train(self, job: Tuning, delta: float, opacus: Any) -> tuple[TrainHistory, Spent]:
        ctx, n_images = job.ctx, len(job.data.fit)
        rate = self.rate(n_images)
        steps = max(1, round(1 / rate))
        counter = opacus.accountants.create_accountant("rdp")
        optimizer = opacus.optimizers.DPOptimizer(
            self._optimizer(job.module),
            noise_multiplier=self.noise,
            max_grad_norm=self.clip,
            expected_batch_size=max(1, round(rate * n_images)),
            generator=self._generator(job, "noise", ctx.device),
        )
        optimizer.attach_step_hook(counter.get_optimizer_hook_fn(sample_rate=rate))
        draws = self._generator(job, "batches", torch.device("cpu"))
        history = TrainHistory()
        for epoch in range(self.config.epochs):
            _set_mode(job)
            sampler = opacus.utils.uniform_sampler.UniformWithReplacementSampler(
                num_samples=n_images, sample_rate=rate, generator=draws, steps=steps
            )
            losses = [self._step(job, optimizer, torch.tensor(rows, dtype=torch.long), draws) for rows in sampler]
            history.loss.append(sum(losses) / steps)
            history.best_epoch = epoch
            ctx.tick("repair", epoch + 1, self.config.epochs)
        job.module.eval()
        return history, account(counter.history, delta, self.accountant)

    def _step(self, job: Tuning, optimizer: Any, rows: Tensor, draws: torch.Generator) -> float:
        """One noised step over a Poisson batch, which may be empty; returns its mean loss."""
        pieces, total = rows.split(self.physical_batch), 0.0
        for number, piece in enumerate(pieces):
            optimizer.signal_skip_step(do_skip=number < len(pieces) - 1)
            optimizer.zero_grad()
            if len(piece):
                images = job.data.fit.images[piece].to(job.ctx.device)
                if self.config.augment:
                    images = augment_images(images, draws, flip=job.data.flip)
                labels = job.data.fit.labels[piece].to(job.ctx.device)  # type: ignore[index]
                loss = cross_entropy(job.module(job.prepare(images)), labels)
                loss.backward()
                total += float(loss.detach()) * len(piece)
            else:  # noise and nothing else: leaving the step out would tell that nobody was drawn
                for _, parameter in _trained(job.module):
                    parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined]
            optimizer.step()
        optimizer.zero_grad()
        return total / max(1, len(rows))

    def _optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        parameters = [parameter for _, parameter in _trained(module)]
        if self.config.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.config.lr, weight_decay=self.config.weight_decay)
        return torch.optim.SGD(parameters, lr=self.config.lr, momentum=0.9, weight_decay=self.config.weight_decay)

    def _generator(self, job: Tuning, purpose: str, device: torch.device) -> torch.Generator:
        generator = torch.Generator(device)
        if self.secret:
            generator.seed()
            return generator
        return generator.manual_seed(job.ctx.rng("repair", "dp-sgd", purpose).initial_seed())


def _trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


def _set_mode(job: Tuning) -> None:
    """Training mode for what is trained; every batch norm keeps its statistics."""
    freezing.set_mode(job.module, job.plan)
    for layer in job.module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()


@contextmanager
def _opacus() -> Iterator[Any]:
    """The library, imported where it is needed since that takes seconds, with its and its hooks' warnings held back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import opacus
        import opacus.grad_sample
        import opacus.utils.uniform_sampler
        import opacus.validators

        yield opacus
