"""A target whose passes run compiled by `torch.compile`, for long attacks on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from auditor.contracts.submission import TargetCard
from auditor.targets.base import Target

_ROUNDING = 1e-3
"""Difference to the uncompiled network, as a share of the largest value, that counts as rounding."""
_REASON = 200
"""Characters of a compiler's error that go into the report."""


class CompiledTarget:
    """The same classifier: same pictures in, same scores and gradients out up to rounding, in fewer and larger kernels.

    The module itself is left as it is, and is what runs

    - while it carries hooks, which a compiled pass would skip;
    - for a single image, a size that would be compiled on its own;
    - for good, and with a note, when compiling fails (no C++ compiler; an operation that cannot be traced, such as the
      reshapes of an ONNX graph) or when a trial on the first images strays from the uncompiled pass by more than
      rounding.

    Each kind of pass (with gradient or without, autocast or not) is compiled when it is first asked for, which takes
    from ten seconds to two minutes, and serves other batch sizes too. On a CPU that does not pay: compiled, a forward
    and backward pass of a ResNet-18 at 64 pixels runs at 0.9 to 1.0 times the speed, of a small plain network at 0.8;
    a small MobileNet at 1.3 makes good the time of its compiling after thousands of steps. Priors are left alone, since
    theirs is the same: 0.7 for `vae`, 1.1 for `dcgan`.

    A second derivative cannot be taken through a compiled pass.

    Args:
        target: what is compiled; one without a module stays as it is.
        backend: of `torch.compile`.

    Attributes:
        notes: remarks for the report, why the target runs as it is; empty while it runs compiled.
    """

    def __init__(self, target: Target, *, backend: str | Callable[..., object] = "inductor") -> None:
        self._target = target
        self._layers = () if target.module is None else tuple(target.module.modules())
        self._compiled: Callable[[Tensor], Tensor] = torch.compile(target.logits, backend=backend, fullgraph=True)
        self._tried: set[tuple[bool, bool]] = set()
        self.notes: list[str] = []
        if target.module is None:
            self._give_up("only its scores can be had")

    @property
    def card(self) -> TargetCard:
        """The target's."""
        return self._target.card

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return self._target.n_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its input."""
        return self._target.image_shape

    @property
    def module(self) -> nn.Module | None:
        """The module as it is, uncompiled."""
        return self._target.module

    def logits(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, K) float32, differentiable with respect to the images where the target is."""
        if self.notes or len(images) == 1 or self._is_watched():
            return self._target.logits(images)
        try:
            if self._agrees(images):
                torch._dynamo.maybe_mark_dynamic(images, 0)
                return self._compiled(images)
            self._give_up("compiled, it gives other results")
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise all kinds; a failure of the target itself comes again below
            self._give_up("torch.compile failed: " + " ".join(str(error).partition("\n\n")[0].split())[:_REASON])
        return self._target.logits(images)

    def _is_watched(self) -> bool:
        return any(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks for layer in self._layers)

    def _give_up(self, reason: str) -> None:
        self.notes.append(f"the target ran uncompiled: {reason}")

    def _agrees(self, images: Tensor) -> bool:
        """Whether compiled passes of this kind stray from float32 by at most twice what uncompiled ones do."""
        follow = torch.is_grad_enabled() and images.requires_grad
        kind = (follow, torch.is_autocast_enabled(images.device.type))
        if kind not in self._tried:
            with torch.autocast(images.device.type, enabled=False):
                exact = _pass(self._target.logits, images, follow)
            usual, found = (_pass(logits, images, follow) for logits in (self._target.logits, self._compiled))
            for value, plain, truth in zip(found, usual, exact, strict=True):
                allowed = 2 * (plain - truth).abs().max() + _ROUNDING * truth.abs().max()
                if not (value - truth).abs().max() <= allowed:
                    return False
            self._tried.add(kind)
        return True


def _pass(logits: Callable[[Tensor], Tensor], images: Tensor, follow: bool) -> list[Tensor]:
    """Scores of (B, C, H, W) images and, with `follow`, the gradient of the first class's score in the images."""
    images = images.detach().clone().requires_grad_(follow)
    torch._dynamo.maybe_mark_dynamic(images, 0)
    scores = logits(images)
    return [scores.detach(), *(torch.autograd.grad(scores[:, 0].sum(), images) if follow else ())]
