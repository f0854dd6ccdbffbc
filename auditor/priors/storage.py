"""Priors as files: one safetensors file with the builder's name and parameters in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from auditor.contracts.base import canonical_json
from auditor.errors import InvalidInput
from auditor.priors.catalog import PRIORS
from auditor.priors.network import NetworkPrior

_FORMAT = "auditor-prior-1"
_KEY = "auditor"
"""All metadata sits under one key: several would be written in an order that changes."""


def save_prior(prior: NetworkPrior, path: Path) -> str:
    """Write `prior` to `path` in one move, and return its digest; equal priors give equal bytes."""
    about = {
        "format": _FORMAT,
        "digest": prior.digest,
        "name": prior.name,
        "config": prior.config,
        "shape": list(prior.image_shape),
        "quality": prior.quality,
    }
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(save(prior.state(), {_KEY: canonical_json(about)}))
    temporary.replace(path)
    return prior.digest


def load_prior(path: Path, device: torch.device) -> NetworkPrior:
    """The prior stored at `path`, on `device`, bit for bit as it was saved.

    Raises:
        InvalidInput: not a prior file, of another version, or altered since it was written.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            state = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InvalidInput(f"'{path.name}' is not a prior file: {error}") from None
    about = json.loads(metadata.get(_KEY, "{}"))
    if about.get("format") != _FORMAT:
        raise InvalidInput(f"'{path.name}' is not a prior file of this version")
    builder = PRIORS.build(about["name"], about["config"])
    prior = builder.blank(tuple(about["shape"]))
    try:
        prior.networks.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InvalidInput(f"'{path.name}' does not fit a '{about['name']}' prior: {error}") from None
    prior.quality = about["quality"]
    prior.digest = prior.compute_digest()
    if prior.digest != about["digest"]:
        raise InvalidInput(f"'{path.name}' was altered after it was written")
    return prior.to(device)
