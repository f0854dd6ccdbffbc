"""The target's head: what goes into its last linear layer, the features, and what comes out, the logits."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from torch.utils.hooks import RemovableHandle

from auditor.attacks.base import KeyedContext
from auditor.attacks.rows import Chunks
from auditor.targets.views import WhiteBoxView

NO_HEAD = -1
"""The place of a head that was not found."""
PROBED = 4
"""Images that the search for a head may cost."""


class HeadTap:
    """While it is open, reads features and logits of the target's latest forward pass; without a head, its outputs.

    Args:
        view: the target.
        place: index of the head in `view.layers`, or NO_HEAD.
    """

    def __init__(self, view: WhiteBoxView, place: int) -> None:
        self._layers = view.layers
        self._place = place
        self._passes: list[tuple[Tensor, Tensor]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> HeadTap:
        if self._place != NO_HEAD:
            self._handles = [
                self._layers[0].register_forward_pre_hook(lambda _module, _args: self._passes.clear()),
                self._layers[self._place].register_forward_hook(
                    lambda _module, args, out: self._passes.append((args[0], out))
                ),
            ]
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._passes.clear()

    def read(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) features and (B, K) logits in float32, of the pass that gave `outputs` (B, K); once per pass.

        A graph of a fixed batch size runs in several parts with padding at the end, which is cut off.
        """
        if self._place == NO_HEAD:
            return outputs.float(), outputs.float()
        features, logits = (torch.cat(parts)[: len(outputs)] for parts in zip(*self._passes, strict=True))
        self._passes.clear()
        return features.float(), logits.float()

    def matches(self, outputs: Tensor) -> bool:
        """Whether the layer took (B, F) features and gave what `outputs` (B, K) float32 are, up to a shift."""
        if not self._passes or any(given.ndim != 2 for _, given in self._passes):
            return False
        _, logits = self.read(outputs)
        if logits.shape != outputs.shape:
            return False
        return torch.allclose(log_softmax(logits, dim=1), log_softmax(outputs, dim=1), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def find_head(view: WhiteBoxView, images: Tensor) -> int:
    """Index in `view.layers` of the linear layer whose outputs are the target's logits, or NO_HEAD.

    A layer is taken only when its outputs agree with the target's up to a shift on the first PROBED of `images`, which
    is what the search costs. A softmax after the head is seen through. A network that ends otherwise has no head.
    """
    linear = [index for index, layer in enumerate(view.layers) if isinstance(layer, nn.Linear)]
    places = [index for index in linear if view.layers[index].out_features == view.n_classes]
    if not places:
        return NO_HEAD
    with ExitStack() as stack:
        taps = {place: stack.enter_context(HeadTap(view, place)) for place in places}
        outputs = view.logits(images[:PROBED]).float()
        return next((place for place in reversed(places) if taps[place].matches(outputs)), NO_HEAD)


class PublicFeatures(nn.Module):
    """What the target makes of public images: where its head is, and the moments of features and logits.

    Attributes:
        place: () int64, see `find_head`.
        mean: (F,) of the features.
        variance: () mean over the features of their variance.
        scale: () mean absolute logit.
    """

    place: Tensor
    mean: Tensor
    variance: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.tensor(NO_HEAD))
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("variance", torch.tensor(1.0))
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_load_state_dict_pre_hook(_take_size)

    @torch.no_grad()
    def measure(self, view: WhiteBoxView, images: Tensor, ctx: KeyedContext, *, stage: str) -> Tensor:
        """Fill the buffers from (N, C, H, W) public images, one query each; gives the target's (N, K) logits."""
        place, chunks, n = find_head(view, images[:PROBED].to(ctx.device)), Chunks(ctx), len(images)
        logits = torch.empty(n, view.n_classes)
        with HeadTap(view, place) as tap:

            def ask(rows: slice) -> tuple[Tensor, Tensor]:
                features, given = tap.read(view.logits(images[rows].to(ctx.device)))
                logits[rows] = given.cpu()
                ctx.tick(stage, rows.stop, n)
                return features.double().sum(dim=0), features.double().square().sum(dim=0)

            sums, squares = (torch.stack(parts).sum(dim=0) / n for parts in zip(*chunks.map(n, ask), strict=True))
        self.place.fill_(place)
        self.mean = sums.float()
        self.variance.fill_(float((squares - sums.square()).clamp_min(0).mean().clamp_min(1e-12)))
        self.scale.fill_(float(logits.abs().mean().clamp_min(1e-12)))
        return logits


def _take_size(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The number of features is known only once the target was seen: take it from what is loaded."""
    stored = state.get(f"{prefix}mean")
    if stored is not None:
        module.mean = torch.empty_like(stored)
