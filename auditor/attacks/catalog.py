"""The catalog of attacks: add one by writing its file and naming its class here."""

from typing import Any

from auditor.attacks.base import Attack
from auditor.attacks.best_of_prior import BestOfPrior
from auditor.attacks.gmi import Gmi
from auditor.attacks.mirror_b import MirrorB
from auditor.attacks.ppa import Ppa
from auditor.registry import Catalog

ATTACKS: Catalog[Attack[Any]] = Catalog("attack", (Gmi, Ppa, MirrorB, BestOfPrior))
"""Every attack by name, controls included."""
