"""A team's own image embedder, submitted as ONNX, for the judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from auditor.contracts.base import digest_of, digest_of_file
from auditor.contracts.manifest import JudgeSpec
from auditor.contracts.submission import Output
from auditor.errors import InvalidInput, UnsupportedModel
from auditor.loading.onnx_file import OnnxFile, describe_onnx, parse_onnx
from auditor.loading.probe import check_parity, output_problems, probe_images
from auditor.loading.problems import Problems
from auditor.loading.sniff import sniff
from auditor.targets.onnx_graph import GraphModule, interpret
from auditor.targets.ort_session import OrtSession
from auditor.targets.preprocess import Preprocess


class OnnxEmbedder:
    """Images to feature vectors; runs as an interpreted graph, or on onnxruntime where that is not faithful.

    Args:
        network: raw model input (B, C, H, W) to (B, F).
        spec: how the model wants its images.
        digest: sha256 over the file and how images are put into it.
        device: where the images are put.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], spec: JudgeSpec, digest: str, device: torch.device) -> None:
        self._network = network
        self._spec = spec.input
        self._device = device
        self._preprocess = Preprocess(spec.input).to(device)
        self.digest = digest

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32 in [0, 1], any size, grey or RGB, to (B, F) float32 features."""
        spec, images = self._spec, images.to(self._device).float()
        if images.shape[1] != spec.channels:
            images = _with_channels(images, spec.channels)
        if tuple(images.shape[-2:]) != (spec.height, spec.width):
            images = interpolate(
                images, (spec.height, spec.width), mode="bilinear", antialias=True, align_corners=False
            ).clamp(0, 1)
        return self._network(self._preprocess(images)).flatten(1).float()


def load_embedder(path: Path, spec: JudgeSpec, device: torch.device | None = None) -> OnnxEmbedder:
    """The embedder at `path`.

    Args:
        path: an ONNX file, images in, one vector per image out.
        spec: how it wants its images.
        device: where it runs; default the CPU.

    Raises:
        RefusedFile: not ONNX, or unsafe.
        InvalidInput: anything else that is wrong, all together.
    """
    problems = Problems()
    sniff(path, problems)
    model = None if problems else parse_onnx(path, problems)
    found = describe_onnx(model, spec.input, None, problems) if model is not None else None
    problems.raise_any()
    if found is None:
        raise InvalidInput("the embedder could not be read")
    where = device or torch.device("cpu")
    session = OrtSession(found.model.SerializeToString(), output=found.output, layout=found.layout, device=where)

    def reference(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(inputs.cpu().numpy())).to(inputs.device)

    inputs = Preprocess(spec.input)(probe_images(spec.input))
    for problem in output_problems(reference(inputs)):
        problems.add(problem.replace("the model", "the embedder"))
    problems.raise_any()
    module = _faithful(found, reference, inputs)
    network = reference if module is None else module.requires_grad_(False).to(where)
    digest = digest_of({"file": digest_of_file(path), "input": spec.input.model_dump(mode="json")})
    return OnnxEmbedder(network, spec, digest, where)


def _faithful(found: OnnxFile, reference: Callable[[Tensor], Tensor], inputs: Tensor) -> GraphModule | None:
    """The interpreted graph, or None where it cannot be had or differs from onnxruntime."""
    try:
        module = interpret(found.model, found.row_shape, classifier=False, output=found.output, layout=found.layout)
    except UnsupportedModel:
        return None
    parity = check_parity(lambda x: module(x).flatten(1), reference, inputs, output=Output.LOGITS, half=found.half)
    return module if parity.passed else None


def _with_channels(images: Tensor, channels: int) -> Tensor:
    if channels == 1:
        return images.mean(dim=1, keepdim=True)
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    raise InvalidInput(f"the embedder takes {channels} channels, the images have {images.shape[1]}")
