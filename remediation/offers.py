"""What every defense is, what it takes and which attacks know it: the catalog's facts, without its code.

A command line that only advises, and a worker's own process that only plans, read these and never load torch.
`remediation.defenses.catalog` holds a class for every name here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue

from auditor.contracts.access import Access
from auditor.contracts.plan import AttackSpec
from auditor.contracts.repair import Offer, Reach
from auditor.errors import UnknownName
from auditor.service.candidates import goals_around

_LEAST_GOAL = 1e-3
ANY = (Access.WHITE_BOX, Access.SCORE, Access.LABEL)


def _ppa(label: str, **params: Any) -> AttackSpec:
    return AttackSpec(name="ppa", label=label, params=params)


ERASED = _ppa("adaptive-erased", averaged=4, erase=0.4)
"""Over half-hidden pictures; `attacks_knowing` has it hide as much as the training did."""
BOXED = AttackSpec(name="mirror-w", label="adaptive-box", params={"averaged": 8})
"""With latents kept where the prior's are: what finds most on what other averages no longer see (docs/results.md)."""
TAUGHT = AttackSpec(name="plg-mi", label="adaptive-taught", prior="plg-gan", params={"copies": 8})
"""In a prior that is made for the repaired model, where the plan has one: it finds more than the plan's own two copies
(docs/results.md)."""
AVERAGED = (_ppa("adaptive-averaged", averaged=6), ERASED, BOXED, TAUGHT)
"""Gradients averaged over transformations, also of half-hidden pictures, in a box of latents and in a prior made for
the model: what every retrained model meets."""
CAPPED = _ppa("adaptive-confidence", confidence=[0.5, 0.7, 0.88, 0.95, 1.0], candidates=5)
"""Towards several confidences, where the highest one is capped or a trap; `attacks_knowing` has it follow the cap."""
GAMMA = 8.0
"""Of a cap on confidence, as the catalog has it: the model is trained to a confidence of exp(-1/8), which is 0.88."""
SCRUBBED = _ppa("adaptive-scrub", averaged=4, scrub=1.0)
"""Through blurred pictures, which carry no faint trigger."""
NOISY = _ppa("adaptive-noise", averaged=4, noise=0.05)
"""In expectation over noise; of a fixed size, since the deployed mean of a bottleneck holds none to go by."""
BY_LABEL = AttackSpec(name="brep-mi", label="adaptive-label", params={"iterations": 100, "patience": 20})
"""From labels alone, which no change of the scores hides; a plan with a longer search of this kind lengthens it."""
DECODED = AttackSpec(name="inverse-network", label="adaptive-inverse")
"""On a cut model: a decoder that learns from the defended device."""

_OFFERS = (
    Offer(
        name="tl-dmi",
        paper="Ho, Hao, Chandrasegaran, Nguyen and Cheung, CVPR 2024, arXiv 2405.05588",
        reach=Reach.RETRAIN,
        access=ANY,
        summary="Early layers trained on public data and frozen, the rest fine-tuned on the private data.",
        caveat="Averaged gradients win back much of its effect; with few private images the tuned layers alone leak.",
        adaptive=(*AVERAGED, _ppa("adaptive-front", averaged=3, front_weight=0.1)),
        freezes=True,
    ),
    Offer(
        name="neg-ls",
        paper="Struppek, Hintersdorf and Kersting, ICLR 2024, arXiv 2310.06549",
        reach=Reach.FINE_TUNE,
        access=ANY,
        summary="Fine-tuned with labels smoothed by a negative factor, which drives the other classes further down.",
        caveat="Confidence no longer means a probability, and part of the effect may be gradients that mislead.",
        adaptive=(*AVERAGED, BY_LABEL),
    ),
    Offer(
        name="bido",
        paper="Peng, Liu, Zhang, Lan, Ye, Liu and Han, KDD 2022, arXiv 2206.05483",
        reach=Reach.RETRAIN,
        access=ANY,
        summary="Trained so that features depend less on the image and more on the label.",
        caveat="Sensitive to its two weights, and averaged gradients have been seen to undo it.",
        adaptive=AVERAGED,
    ),
    Offer(
        name="midre",
        paper="Tran, Nguyen, Mai, Vandierendonck, Assent, Kot and Cheung, TMLR 2025, arXiv 2409.01062",
        reach=Reach.RETRAIN,
        access=ANY,
        summary="Trained on images of which a random part is erased, so that no whole object is ever seen.",
        caveat="An attack that erases while it optimises meets the model on its own ground.",
        adaptive=AVERAGED,
    ),
    Offer(
        name="trap-mid",
        paper="Liu and Chen, NeurIPS 2024, arXiv 2411.08460",
        reach=Reach.RETRAIN,
        access=ANY,
        summary="Trained to answer to a faint secret trigger for every class, which attacks find first.",
        caveat="It deceives attacks and removes nothing: what scrubs its images or knows the triggers is not held up. "
        "The attacker who knows them is not run, so its repairs never pass.",
        adaptive=(*AVERAGED, SCRUBBED, CAPPED),
    ),
    Offer(
        name="mid",
        paper="Wang, Zhang and Jia, AAAI 2021, arXiv 2009.05241",
        reach=Reach.RETRAIN,
        access=ANY,
        summary="A noisy bottleneck before the classifier while training, with a price on what it lets through.",
        caveat="Accuracy falls as the price grows, and the deployed model is the bottleneck's mean: no noise is left.",
        adaptive=(*AVERAGED, NOISY),
    ),
    Offer(
        name="calor",
        paper="Yu et al., arXiv 2410.05814",
        reach=Reach.RETRAIN,
        access=ANY,
        summary="A low-rank neck with tanh in place of the head, then training towards a confidence below 1.",
        caveat="An attacker may aim at the confidence that the model was trained to, instead of at 1.",
        adaptive=(*AVERAGED, CAPPED),
    ),
    Offer(
        name="confidence-adaptation",
        paper="Yu et al., arXiv 2410.05814 (second stage alone)",
        reach=Reach.FINE_TUNE,
        access=ANY,
        summary="A short fine-tuning of the submitted model towards a confidence below 1.",
        caveat="The weights keep what they know: an attacker may aim at that confidence, or ask for labels only.",
        adaptive=(*AVERAGED, CAPPED, BY_LABEL),
    ),
    Offer(
        name="rolss",
        paper="Koh, Ho, Nguyen and Cheung, ECCV 2024, arXiv 2409.01696",
        reach=Reach.RETRAIN,
        access=ANY,
        summary="Skip connections of the last stage removed or scaled down, then retrained.",
        caveat="It makes gradients worse more than it takes information away; averaged gradients and labels win back.",
        adaptive=(*AVERAGED, BY_LABEL),
        families=("resnet", "resnext", "wide_resnet", "regnet", "small-resnet"),
    ),
    Offer(
        name="dp-sgd",
        paper="Abadi et al., CCS 2016, arXiv 1607.00133; Opacus, arXiv 2109.12298",
        reach=Reach.RETRAIN,
        access=ANY,
        summary="Per-image gradients clipped and noised, by default those of a new head on public layers.",
        caveat="The guarantee is for one image; for a class of many images, which inversion rebuilds, it is vacuous.",
        adaptive=AVERAGED,
        freezes=True,
    ),
    Offer(
        name="output-controls",
        paper="Fredrikson, Jha and Ristenpart, CCS 2015 (rounded confidences)",
        reach=Reach.SERVING,
        access=(Access.SCORE,),
        summary="The service rounds its probabilities, gives only the highest ones, or gives the label alone.",
        caveat="Attackers who read labels alone are not hindered, and whoever has the weights takes the control off.",
        adaptive=(BY_LABEL, AttackSpec(name="mirror-b", label="adaptive-score")),
    ),
    Offer(
        name="cem",
        paper="Xia et al., CVPR 2025, arXiv 2503.00383 (conditional entropy maximization)",
        reach=Reach.FINE_TUNE,
        access=(Access.SPLIT,),
        summary="What a device sends is drawn together within each class, so that it tells little but the class.",
        caveat="Its bound holds for features with noise; the written file adds none, and the audit reads it without.",
        adaptive=(DECODED,),
    ),
    Offer(
        name="siftfunnel",
        paper="Liu et al., arXiv 2501.00824 (SiftFunnel)",
        reach=Reach.FINE_TUNE,
        access=(Access.SPLIT,),
        summary="What a device sends is made sparse, less redundant and less dependent on the image.",
        caveat="The loss terms alone, without the funnel-shaped network; smoothed labels help attackers of the whole "
        "model.",
        adaptive=(DECODED,),
    ),
)
OFFERS: Mapping[str, Offer] = MappingProxyType({offer.name: offer for offer in _OFFERS})
"""By name, in the order in which advice lists them."""


def attacks_knowing(offer: Offer, params: Mapping[str, JsonValue]) -> tuple[AttackSpec, ...]:
    """The attacks that know the defense with these parameters of it, under the same keys whatever they are.

    What is no parameter of the defense, or out of its range, is left for the defense to refuse.
    """
    changes: dict[str, dict[str, JsonValue]] = {}
    gamma, area = _number(params.get("gamma")), _number(params.get("max_area"))
    if gamma is not None and gamma != GAMMA:
        resting = max(math.exp(-1 / gamma), _LEAST_GOAL)
        changes[CAPPED.key] = {"confidence": goals_around(resting)}
    if area is not None and area < 1:
        changes[ERASED.key] = {"erase": area}
    return tuple(
        attack.model_copy(update={"params": attack.params | changes.get(attack.key, {})}) for attack in offer.adaptive
    )


def _number(value: JsonValue) -> float | None:
    """A number over 0; None where it is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else None


def offer_of(name: str) -> Offer:
    """The defense called `name`; an unknown name lists the known ones."""
    try:
        return OFFERS[name]
    except KeyError:
        raise UnknownName(f"unknown defense '{name}'. Known: {', '.join(OFFERS)}.") from None
