"""Priors as files, with the builder's name and parameters."""

from __future__ import annotations

from pathlib import Path

import torch

from auditor.data.network_file import check_digest, load_exactly, read_network, write_network
from auditor.priors.catalog import PRIORS
from auditor.priors.network import NetworkPrior

_KIND = "prior-2"


def save_prior(prior: NetworkPrior, path: Path) -> str:
    """Write `prior` to `path` in one move, and return its digest; equal priors give equal bytes."""
    about = {
        "digest": prior.digest,
        "name": prior.name,
        "config": prior.config,
        "shape": list(prior.image_shape),
        "quality": prior.quality,
        "n_classes": prior.n_classes,
        "target_queries": prior.target_queries,
    }
    write_network(path, _KIND, prior.state(), about)
    return prior.digest


def load_prior(path: Path, device: torch.device) -> NetworkPrior:
    """The prior stored at `path`, on `device`, bit for bit as it was saved.

    Raises:
        InvalidInput: not a prior file, of another version, or altered since it was written.
    """
    about, state = read_network(path, _KIND)
    prior = PRIORS.build(about["name"], about["config"]).blank(tuple(about["shape"]), about["n_classes"])
    load_exactly(prior.networks, state, path)
    prior.quality, prior.target_queries = about["quality"], about["target_queries"]
    prior.digest = prior.compute_digest()
    check_digest(path, about, prior.digest)
    return prior.to(device)
