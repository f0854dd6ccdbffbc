"""Procedural identities: people who do not exist, as many as wanted, with a ground truth.

An identity is a point of one continuous distribution: independent standard normal numbers, one per parameter of
`PARAMETERS` (skin, face shape, hair, eyes, brows, nose, mouth, glasses, beard, ears). Public and private people are
drawn from the same distribution, so public images carry what there is to know about faces in general, and nothing about
a private person: identities drawn `apart_from` others keep a distance from each of them.

Every image of an identity differs by nuisance: position, rotation, turn of the head, light, expression, background,
noise, and a little drift of the parameters themselves (hair grows, beards come and go), which is what makes
recognition less than perfect. How a face is painted is in `auditor.demo.painting`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.data.image_set import ImageSet
from auditor.demo.painting import NUISANCES, PARAMETERS, paint

_CHUNK = 64
"""Images painted at once; small enough for the fields to stay in the processor's cache."""
_DRIFT = 0.31
"""Standard deviation of a parameter from image to image, as a share of its deviation from person to person."""
_DRIFT_OF = {"hair_length": 0.7, "hairline": 0.6, "parting": 0.7, "beard": 0.55, "moustache": 0.55, "glasses": 0.2}
_MIN_DISTANCE = 0.55
"""Least root-mean-square difference of parameters between two identities; strangers differ by about 1.4."""


@dataclass(frozen=True)
class IdentityParameters:
    """Identities.

    Attributes:
        values: (n, len(PARAMETERS)) float32, standard normal, cut at 2.2.
    """

    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)


def draw_identities(n: int, seed: int, *, apart_from: IdentityParameters | None = None) -> IdentityParameters:
    """`n` identities, each at least `_MIN_DISTANCE` from every other and from those of `apart_from`."""
    rng = np.random.default_rng([seed, 1])
    kept = [] if apart_from is None else list(apart_from.values)
    n_given = len(kept)
    while len(kept) < n_given + n:
        candidate = rng.standard_normal(len(PARAMETERS)).clip(-2.2, 2.2).astype(np.float32)
        if not kept or np.sqrt(np.square(np.stack(kept) - candidate).mean(axis=1)).min() >= _MIN_DISTANCE:
            kept.append(candidate)
    return IdentityParameters(np.array(kept[n_given:], dtype=np.float32).reshape(n, len(PARAMETERS)))


def render_identities(
    identities: IdentityParameters, per_identity: int, size: int, seed: int, *, name: str = "identities"
) -> ImageSet:
    """`per_identity` RGB images of each identity, identity by identity, labelled by position.

    The same arguments give the same bytes on one machine. Each image has its own random stream, keyed by seed, identity
    and number, so it depends neither on how many others there are nor on how many are painted at once.

    Args:
        identities: who.
        per_identity: images of each.
        size: side in pixels; made for 32 and 64.
        seed: of the nuisance.
        name: of the set.
    """
    n = len(identities) * per_identity
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    who = np.repeat(np.arange(len(identities)), per_identity)
    drift = np.array([_DRIFT_OF.get(parameter, _DRIFT) for parameter in PARAMETERS], dtype=np.float32)
    for start in range(0, n, _CHUNK):
        rows = range(start, min(start + _CHUNK, n))
        rngs = [np.random.default_rng([seed, 2, *divmod(row, per_identity)]) for row in rows]
        parameters = identities.values[who[start : rows.stop]] + drift * np.stack(
            [rng.standard_normal(len(PARAMETERS), dtype=np.float32) for rng in rngs]
        )
        nuisance = np.stack([rng.standard_normal(len(NUISANCES), dtype=np.float32) for rng in rngs]).clip(-2.2, 2.2)
        noise = np.stack([rng.standard_normal((3, size, size), dtype=np.float32) for rng in rngs])
        painted = paint(torch.from_numpy(parameters.clip(-2.6, 2.6)), torch.from_numpy(nuisance), size)
        noisy = painted + torch.from_numpy(noise) * 0.03
        images[start : rows.stop] = (noisy.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    names = tuple(f"person-{index:03}" for index in range(len(identities)))
    return ImageSet(name, images, who.astype(np.int64), names)


def private_and_public(
    n_private: int,
    n_public: int,
    per_private: int,
    per_public: int,
    size: int,
    seed: int,
    *,
    per_heldout: int = 5,
) -> tuple[ImageSet, ImageSet, ImageSet]:
    """(private, heldout, public): training and unseen images of the private people, and images of other people.

    Args:
        n_private: private identities.
        n_public: public identities, each apart from every private one.
        per_private: training images of each private identity.
        per_public: images of each public identity.
        size: side in pixels.
        seed: of everything.
        per_heldout: held-out images of each private identity, with nuisance of their own.
    """
    people = draw_identities(n_private, 2 * seed)
    others = draw_identities(n_public, 2 * seed + 1, apart_from=people)
    return (
        render_identities(people, per_private, size, 3 * seed, name="private"),
        render_identities(people, per_heldout, size, 3 * seed + 1, name="heldout"),
        render_identities(others, per_public, size, 3 * seed + 2, name="public"),
    )
