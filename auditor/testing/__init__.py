"""Shipped fakes for tests and plugin authors: a target and a prior with known answers, builders, in-memory ports.

The names below are loaded when first asked for: `reports`, `ports` and `handlers` in this package work without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.testing.builders import image_set_of, toy_image_set, toy_images
    from auditor.testing.toy import EVERY_TOY_ACCESS, TemplateClassifier, ToyPrior, ToyTarget, toy_card, toy_templates

__all__ = [
    "EVERY_TOY_ACCESS",
    "TemplateClassifier",
    "ToyPrior",
    "ToyTarget",
    "image_set_of",
    "toy_card",
    "toy_image_set",
    "toy_images",
    "toy_templates",
]

_BUILDERS = frozenset({"image_set_of", "toy_image_set", "toy_images"})


def __getattr__(name: str) -> Any:
    """Load one of the names above."""
    if name not in __all__:
        raise AttributeError(f"module 'auditor.testing' has no attribute '{name}'")
    module = "auditor.testing.builders" if name in _BUILDERS else "auditor.testing.toy"
    return getattr(importlib.import_module(module), name)
