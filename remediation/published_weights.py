"""Weights that torchvision publishes for its architectures, by name, checked against the hash in their address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from auditor.contracts.base import digest_of_file
from auditor.contracts.jobs import WEIGHTS, WEIGHTS_ORIGIN, UnitSpec
from auditor.contracts.submission import ModelFormat
from auditor.errors import InvalidInput
from auditor.loading.problems import Problems
from auditor.loading.weights_file import read_weights
from auditor.service.workspace import UnitValue, Workspace
from auditor.tensors import RunContext

_ELSEWHERE = "Where they cannot be fetched, save them as safetensors elsewhere and pass the file (`--weights FILE`)."

_OLD_NAMES = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""DenseNet's files keep the names that its layers had at first."""


def run(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """The `repair-fetch` unit: `unit.params` name `weights`, `architecture` and `channels` (see `fetch_weights`).

    It has the network and no file of a stranger; the units after it have both the other way round. Writes
    `weights.safetensors` and, in words, `weights.txt`.
    """
    channels = int(str(unit.params["channels"]))
    tensors, described = fetch_weights(str(unit.params["weights"]), str(unit.params["architecture"]), channels)
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, workspace.output(WEIGHTS))
    workspace.output(WEIGHTS_ORIGIN).write_text(described)
    return {"origin": described}


def fetch_weights(name: str, architecture: str, channels: int) -> tuple[Mapping[str, Tensor], str]:
    """Tensors by name, head included, and where they come from.

    Fetched once and kept in torch's own folder (`TORCH_HOME`). Files of this folder are checked like those just
    fetched, and read as data alone.

    Args:
        name: as torchvision writes it: `ResNet18_Weights.IMAGENET1K_V1`, or the part after the dot.
        architecture: name of the network that is retrained.
        channels: of its input; torchvision's weights have 3.

    Raises:
        InvalidInput: no such weights of this architecture, they cannot be fetched, or the file is not what was
            published.
    """
    weights = _named(name, architecture, channels)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    published = re.search(r"-([0-9a-f]{8,})\.pth$", path.name)
    if published is None:
        raise InvalidInput(f"the address of {weights} holds no hash to check it by", remedy=_ELSEWHERE)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=published[1], progress=False)
        except (OSError, RuntimeError) as error:
            raise InvalidInput(f"{weights} cannot be fetched from {weights.url}: {error}", remedy=_ELSEWHERE) from error
    digest = digest_of_file(path)
    if not digest.startswith(published[1]):
        raise InvalidInput(f"{path} is not the file that torchvision published: delete it", remedy=_ELSEWHERE)
    problems = Problems()
    tensors = read_weights(path, ModelFormat.STATE_DICT, problems, {})
    problems.raise_any()
    tensors = {_OLD_NAMES.sub(r"\1\2", key): value for key, value in (tensors or {}).items()}
    return tensors, f"torchvision's {weights} ({weights.url}, sha256 {digest})"


def _named(name: str, architecture: str, channels: int) -> Any:
    try:
        known: Any = models.get_model_weights(architecture)
    except ValueError:
        raise InvalidInput(
            f"torchvision has no weights of '{architecture}'",
            remedy="Name one of its architectures as `model.architecture`, or leave `weights` out to pre-train here.",
        ) from None
    if channels != 3:
        raise InvalidInput(f"torchvision's weights read three channels, and this model reads {channels}")
    member = name.removeprefix(f"{known.__name__}.")
    if member not in known.__members__:
        listed = ", ".join(f"torchvision:{known.__name__}.{other}" for other in known.__members__)
        raise InvalidInput(f"'{name}' is not among the weights of {architecture}: {listed}")
    return known[member]
