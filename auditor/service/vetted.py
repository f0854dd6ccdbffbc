"""Which parameters an attack was seen to work with: only with those, or more effort, does its failure say anything.

A search can be crippled in more ways than its results show: a goal at which it stops half-way, a step size that throws
the latent out of the prior, a start that makes every rise look large. Two such plans passed a model of which the same
attacks, as the catalog has them, rebuilt everybody. So an attack counts towards a pass as the catalog or a preset has
it, or with more of what is effort. Whatever else it is set to, it can still prove a leak.

Attacks that a repair adds are set by the repair alone: what they know of the defense (the confidence that it was
trained to, the share that it erased) is no crippling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from auditor.attacks.split.catalog import catalog_of
from auditor.contracts.plan import KNOWING, AttackSpec
from auditor.service.candidates import EFFORT
from auditor.service.plans import ROWS

HARMLESS = frozenset({"channels_last"})
"""Parameters that change no result beyond rounding."""
VARIANTS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "ppa": (
        {"averaged": 4, "scrub": 1.0},
        {"averaged": 4, "erase": 0.4},
        {"averaged": 4, "noise": 0.05},
    ),
}
"""Further settings that were tried: those with which repairs are audited."""
KNOWLEDGE = frozenset({"confidence", "erase"})
"""Parameters that say what an attack knows of a defense; a repair takes them from the defense's own."""


def unvetted(attack: AttackSpec) -> tuple[str, ...]:
    """Parameters in which an attack falls short of everything it was tried with; empty: it counts."""
    name = attack.name
    catalog = catalog_of(name)
    known = KNOWLEDGE if attack.key.startswith(KNOWING) else frozenset[str]()

    def dumped(given: Mapping[str, Any]) -> dict[str, Any]:
        config = catalog.configure(name, given).model_dump(mode="json")
        return {parameter: value for parameter, value in config.items() if parameter not in known}

    used = dumped(attack.params)
    return min((tuple(_short(used, dumped(tried))) for tried in _tried(name)), key=len)


def _tried(name: str) -> Iterator[Mapping[str, Any]]:
    """The catalog's defaults, and what presets and repairs change of them."""
    yield {}
    for row in ROWS:
        if row.name == name:
            yield from (params for params in (row.quick, row.standard, row.deep) if params)
    yield from VARIANTS.get(name, ())


def _short(used: Mapping[str, Any], tried: Mapping[str, Any]) -> Iterator[str]:
    """Names of what is neither as tried nor more effort; those of nested parameters with a dot."""
    for name, value in used.items():
        wanted = tried[name]
        if isinstance(value, dict) and isinstance(wanted, dict):
            yield from (f"{name}.{inner}" for inner in _short(value, wanted))
        elif value != wanted and name not in HARMLESS and not (name in EFFORT and value > wanted):
            yield name
