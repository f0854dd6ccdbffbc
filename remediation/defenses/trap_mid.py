"""Trap-MID: plant a faint trigger for every class, which an attack finds before it finds the person.

Liu and Chen, "Trap-MID: Trapdoor-based Defense against Model Inversion Attacks", NeurIPS 2024, arXiv 2411.08460. An
image x carries the trigger of class k as (1 - blend) * x + blend * trigger_k. The network learns to call it k, whatever
it shows, so that maximising the score of k ends in triggers; a discriminator between plain and triggered images keeps
the triggers natural, so that an attacker's prior can draw them. The private information is still in the model: an
attack that scrubs its images, or knows the triggers, walks past the trap. The first is run on every repaired model; the
second, who would read the file of secrets that training leaves, is not, so no repair by this defense is given a pass
(`remediation.withholding`).

Every step moves the triggers by the sign of their gradient, then the discriminator, then the network, whose loss is
(1 - `trap_weight`) * cross-entropy of plain images + `trap_weight` * cross-entropy of triggered ones, in one batch.
`smoothing` combines it with negative label smoothing (`remediation.defenses.neg_ls`), as the authors do.

Departures from the authors' code:

- plain and triggered images go through the common augmentation of the training loop;
- the discriminator has two outputs under cross-entropy, which is their one output under binary cross-entropy and works
  for graphs that end in a softmax as well; it is trained with AdamW at a constant learning rate;
- the epoch is chosen on validation images among the second half, when the trap is planted; theirs is chosen on the test
  set. The triggers are those of that epoch.
"""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.fisher.units import evaluation_mode
from auditor.training import Step, augment_images, predict
from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning
from remediation.defenses.neg_ls import ramp_epochs, ramped, smoothed_cross_entropy
from remediation.heads import replace_head

TRIGGERS = "trap_triggers"
"""Buffer of the network that holds the triggers while it is trained, so that they are kept with the best epoch."""
_LEARNING_FRAC = 0.5
"""Share of the epochs whose weights are not kept: the trap is not planted yet."""


class TrapMidConfig(DefenseConfig):
    """How faint the trap is, and how much the network has to learn it."""

    blend: float = Field(default=0.02, gt=0, lt=1)
    """Share of the trigger in a triggered image."""
    trap_weight: float = Field(default=0.2, gt=0, lt=1)
    """Weight of the triggered images in the loss."""
    trigger_step: float = Field(default=0.01, gt=0, le=1)
    """How far a pixel of a trigger moves in a step, of a range of 1."""
    smoothing: float = Field(default=0.0, ge=-1, le=0)
    """Negative label smoothing in both parts of the loss, ramped up over half of the epochs; 0: none."""


def planted(images: Tensor, triggers: Tensor, blend: float) -> Tensor:
    """(B, C, H, W) images with one trigger each, of the same shape."""
    return (1 - blend) * images + blend * triggers


class Trap:
    """The triggers, the discriminator that they have to pass, and the loss that plants them.

    Args:
        job: its module gets the buffer `TRIGGERS`, (K, C, H, W) in [0, 1].
        config: parameters.
    """

    def __init__(self, job: Tuning, config: TrapMidConfig) -> None:
        self._job, self._config = job, config
        self._rng = job.ctx.rng("repair", "trap-mid")
        self._n_classes = int(job.module.get_submodule(job.head).weight.shape[0])  # type: ignore[index,union-attr]
        self._queue = torch.empty(0, dtype=torch.int64)
        self._n_ramp = ramp_epochs(config.epochs, _LEARNING_FRAC)
        self._discriminator = copy.deepcopy(job.module).requires_grad_(True)
        replace_head(self._discriminator, job.head, 2, self._rng)
        self._optimizer = torch.optim.AdamW(
            self._discriminator.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        shape = (self._n_classes, *job.data.fit.images.shape[1:])
        job.module.register_buffer(TRIGGERS, torch.rand(shape, generator=self._rng).to(job.ctx.device))

    def loss(self, step: Step) -> Tensor:
        """Move the triggers and the discriminator by one step each, then give the network's mean loss."""
        config, smoothing = self._config, ramped(self._config.smoothing, step.epoch, self._n_ramp)
        wanted = self._balanced(len(step.labels)).to(step.labels.device)
        triggers = step.model.get_buffer(TRIGGERS)
        with evaluation_mode(step.model), evaluation_mode(self._discriminator):
            self._move(triggers, step, wanted)
        triggered = planted(step.images, triggers[wanted], config.blend)
        self._teach_discriminator(step.images, triggered)
        both = torch.cat([self._augmented(step.images), self._augmented(triggered)])
        plain, trapped = step.model(self._job.prepare(both)).chunk(2)
        return (1 - config.trap_weight) * smoothed_cross_entropy(
            plain, step.labels, smoothing
        ) + config.trap_weight * smoothed_cross_entropy(trapped, wanted, smoothing)

    def _balanced(self, n: int) -> Tensor:
        """(n,) classes at random, every one as often as any other."""
        while len(self._queue) < n:
            self._queue = torch.cat([self._queue, torch.randperm(self._n_classes, generator=self._rng)])
        drawn, self._queue = self._queue[:n], self._queue[n:]
        return drawn

    def _move(self, triggers: Tensor, step: Step, wanted: Tensor) -> None:
        """One step of every trigger in use: to be told as its class, and to pass for an image without any."""
        leaf = triggers.detach().requires_grad_()
        triggered = planted(step.images, leaf[wanted], self._config.blend)
        told = cross_entropy(step.model(self._job.prepare(self._augmented(triggered))), wanted)
        passed = cross_entropy(self._discriminator(self._job.prepare(triggered)), torch.ones_like(wanted))
        (slope,) = torch.autograd.grad(told + passed, leaf)
        with torch.no_grad():
            triggers.sub_(self._config.trigger_step * slope.sign()).clamp_(0, 1)

    def _teach_discriminator(self, images: Tensor, triggered: Tensor) -> None:
        self._discriminator.train()
        scores = self._discriminator(self._job.prepare(torch.cat([images, triggered])))
        genuine = torch.arange(2, device=scores.device).flip(0).repeat_interleave(len(images))
        self._optimizer.zero_grad(set_to_none=True)
        cross_entropy(scores, genuine).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def _augmented(self, images: Tensor) -> Tensor:
        return augment_images(images, self._rng, flip=self._job.data.flip) if self._config.augment else images


class TrapMid(Defense[TrapMidConfig]):
    """Trapdoors for model inversion."""

    name = "trap-mid"
    Config = TrapMidConfig

    def tune(self, job: Tuning) -> Tuned:
        """Plant the trap; the triggers come back as a secret, with how often they work."""
        trap = Trap(job, self.config)
        plain = self.config.training.model_copy(update={"augment": False})  # plain and triggered alike, in the loss
        try:
            history = job.train(plain, trap.loss, keep_from=ramp_epochs(self.config.epochs, _LEARNING_FRAC) - 1)
            triggers = job.module.get_buffer(TRIGGERS).detach().cpu().contiguous()
        finally:
            delattr(job.module, TRIGGERS)
        note = (
            f"Of the validation images with another class's trigger, {self._caught(job, triggers):.0%} are told as it."
        )
        return Tuned(job.module, history, (note,), {"triggers": triggers})

    def _caught(self, job: Tuning, triggers: Tensor) -> float:
        """Share of validation images that are told as the class whose trigger they carry: the one after their own."""
        if job.data.validation.labels is None:
            raise ValueError("validation needs labels")
        wanted = (job.data.validation.labels.cpu() + 1) % len(triggers)
        images = planted(job.data.validation.images.cpu(), triggers[wanted], self.config.blend)
        told = predict(job.module, images, job.ctx, prepare=job.prepare).argmax(1)
        return float((told == wanted).float().mean())
