"""What every unit of a repair reads first: the submission, its network to retrain, and the images by role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor.contracts.manifest import Manifest
from auditor.contracts.repair import Reach
from auditor.contracts.submission import TargetCard
from auditor.data.bundles import load_bundle
from auditor.data.image_set import ImageSet
from auditor.data.overlap import require_disjoint
from auditor.data.splits import stratified_split
from auditor.errors import InvalidInput
from auditor.evaluation.mirroring import mirrors_fit
from auditor.fisher.units import Unit, execution_units
from auditor.service.workspace import Workspace
from auditor.targets.preprocess import Preprocess
from auditor.tensors import RunContext
from remediation.defenses.base import Defense, RepairData
from remediation.defenses.catalog import DEFENSES
from remediation.heads import find_head
from remediation.model_source import ModelSource, pick_source

_TEST_FRAC, _HELDOUT_SEED = 0.5, 1


@dataclass(frozen=True)
class Network:
    """A freshly initialised network of the kind that is retrained.

    Attributes:
        module: raw model input to (B, K).
        units: in execution order.
        head_path: the layer that is replaced for pre-training.
        head: its parameter names.
    """

    module: nn.Module
    units: tuple[Unit, ...]
    head_path: str
    head: tuple[str, ...]

    def body(self) -> dict[str, Tensor]:
        """The state without the head, on the CPU."""
        state = self.module.state_dict()
        return {name: value.detach().cpu().clone() for name, value in state.items() if name not in self.head}


@dataclass(frozen=True)
class HeldOut:
    """Held-out images in disjoint halves.

    Attributes:
        choice: may choose among candidates.
        test: measures what the chosen one cost; None: no class has two different images, and `choice` holds all.
    """

    choice: ImageSet
    test: ImageSet | None


@dataclass(frozen=True)
class RepairInputs:
    """The files of a repair unit, read.

    Attributes:
        card: the submission.
        manifest: as submitted.
        defense: configured as the manifest says.
        source: the network that is retrained.
        prepare: images in [0, 1] to raw model input.
    """

    workspace: Workspace
    card: TargetCard
    manifest: Manifest
    defense: Defense[Any]
    source: ModelSource
    prepare: Callable[[Tensor], Tensor]

    @property
    def retrains(self) -> bool:
        """Whether the defense starts from public weights, and not from the submitted ones."""
        return self.defense.offer.reach is Reach.RETRAIN

    @property
    def serves(self) -> bool:
        """Whether the defense trains nothing and only changes what is given out."""
        return self.defense.offer.reach is Reach.SERVING

    @property
    def cut(self) -> str | None:
        """Where the submission is cut for split inference; None: it was audited whole."""
        return None if self.card.split is None else self.card.split.layer

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.card.input.channels, self.card.input.height, self.card.input.width)

    def network(self, ctx: RunContext) -> Network:
        """What is trained: a fresh network, the same every time for one seed, or the submitted one as it is."""
        module = self.source.fresh(ctx) if self.retrains else self.source.submitted()
        units = execution_units(module, self.prepare(torch.zeros(1, *self.shape)))
        path = find_head(module, units, self.card.n_classes)
        layer = module.get_submodule(path)
        return Network(module, units, path, tuple(f"{path}.{name}" for name, _ in layer.named_parameters()))

    def public(self) -> ImageSet | None:
        """The public images, where given."""
        return load_bundle(self.workspace.input("public.npz")) if self.workspace.has("public.npz") else None

    def heldout(self) -> HeldOut:
        """The held-out images in two halves."""
        images = load_bundle(self.workspace.input("heldout.npz"))
        choice, test = split_where_possible(images, _TEST_FRAC, _HELDOUT_SEED)
        return HeldOut(images, None) if test is None else HeldOut(choice, test)

    def data(self, ctx: RunContext) -> RepairData:
        """Private images by role, and the public ones without labels.

        Raises:
            InvalidInput: no private images, or some of them are among the public ones.
        """
        fit = load_bundle(self.workspace.input("fit.npz"))
        heldout = load_bundle(self.workspace.input("heldout.npz"))
        public = self.public()
        if public is not None:
            for private in (fit, heldout):
                require_disjoint(private, public)
        train, validation = validation_split(fit, self.defense.config.validation_frac, ctx.seed)
        batch = train.batch(self.shape)
        return RepairData(
            fit=batch,
            validation=validation.batch(self.shape),
            heldout=self.heldout().choice.batch(self.shape),
            public=None if public is None else replace(public.batch(self.shape), labels=None),
            flip=mirrors_fit(batch, ctx),
        )


def read_inputs(workspace: Workspace) -> RepairInputs:
    """Read the submission's card and manifest and decide which network is retrained.

    Raises:
        InvalidInput: unknown defense or parameters, or a model file that does not fit its card.
        UnsupportedModel: the submitted graph can be neither interpreted nor replaced by a named architecture.
    """
    card = TargetCard.model_validate_json(workspace.input("target.json").read_text())
    manifest = Manifest.model_validate_json(workspace.input("manifest.json").read_text())
    defense = DEFENSES.build(manifest.repair.defense, manifest.repair.params)
    fresh = defense.offer.reach is Reach.RETRAIN
    return RepairInputs(
        workspace=workspace,
        card=card,
        manifest=manifest,
        defense=defense,
        source=pick_source(workspace.input("model"), card, manifest, fresh=fresh),
        prepare=Preprocess(card.input),
    )


def validation_split(fit: ImageSet, frac: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """(train, validation) by content; a class without two different images is only trained on.

    Raises:
        InvalidInput: no class has two different images, so no epoch could be chosen.
    """
    if fit.labels is None:
        raise InvalidInput("a repair needs labelled private images")
    train, validation = split_where_possible(fit, frac, seed)
    if validation is None:
        raise InvalidInput(
            "no class of the private data has two different images: nothing is left to choose the epoch by"
        )
    return train, validation


def split_where_possible(images: ImageSet, frac: float, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """(the rest, about `frac` of every class) by content; a class without two different images is in the rest alone.

    None: no class has two different images.
    """
    if images.labels is None:
        raise ValueError("a split by class needs labels")
    keys = [image.tobytes() for image in images.images]
    several = {
        int(label)
        for label in np.unique(images.labels)
        if len({keys[row] for row in np.flatnonzero(images.labels == label)}) >= 2
    }
    if not several:
        return images, None
    splittable = np.isin(images.labels, sorted(several))
    rest, part = stratified_split(images.select(splittable), frac, seed)
    single = images.select(~splittable)
    if len(single) and rest.labels is not None and single.labels is not None:
        rest = ImageSet(
            rest.name,
            np.concatenate([rest.images, single.images]),
            np.concatenate([rest.labels, single.labels]),
            images.class_names,
        )
    return rest, part
