"""The catalog of attacks on split inference: add one by writing its file and naming its class here."""

from typing import Any

from auditor.attacks.base import Attack
from auditor.attacks.catalog import ATTACKS
from auditor.attacks.split.base import SplitAttack
from auditor.attacks.split.inverse_network import InverseNetwork
from auditor.attacks.split.query_free import QueryFree
from auditor.attacks.split.rmle import Rmle
from auditor.registry import Catalog

SPLIT_ATTACKS: Catalog[SplitAttack[Any]] = Catalog("split attack", (InverseNetwork, Rmle, QueryFree))
"""Every attack on a cut model by name."""


def catalog_of(name: str) -> Catalog[SplitAttack[Any]] | Catalog[Attack[Any]]:
    """The catalog that holds the attack `name`; for a name in neither, that of attacks on the whole model."""
    return SPLIT_ATTACKS if name in SPLIT_ATTACKS.names else ATTACKS
