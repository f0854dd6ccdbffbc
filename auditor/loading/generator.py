"""A team's own image generator, submitted as ONNX, as a prior."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from auditor.contracts.manifest import GeneratorSpec
from auditor.contracts.submission import Output
from auditor.errors import InvalidInput, UnsupportedModel
from auditor.loading.onnx_file import parse_onnx
from auditor.loading.probe import check_parity
from auditor.loading.problems import Problems
from auditor.loading.sniff import sniff
from auditor.priors.network import NetworkPrior, PriorConfig
from auditor.targets.onnx_graph import GraphModule, Layout, interpret, parse_graph
from auditor.targets.onnx_graph.graph import Port
from auditor.targets.ort_session import OrtSession
from auditor.tensors import RunContext

_CANDIDATES = 2048
_MAX_LATENT = 65536


class OnnxPriorConfig(PriorConfig):
    """How the generator's output is read."""

    low: float
    """Output value of black."""
    high: float
    """Output value of white."""


class OnnxPrior(NetworkPrior):
    """A generator supplied as ONNX; it has no critic, and images are projected by search and gradient."""

    def guess(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """(B, D): of 2048 random latents, the one whose picture is nearest to each image by pixels."""
        latents = torch.randn(_CANDIDATES, self.latent_dim, generator=ctx.rng("project", self.digest))
        wanted = images.flatten(1)
        best = torch.full((len(images),), torch.inf, device=images.device)
        chosen = torch.zeros(len(images), self.latent_dim, device=images.device)
        with torch.no_grad():
            for chunk in latents.to(images.device).split(max(1, min(ctx.batch_size, _CANDIDATES))):
                distance, index = torch.cdist(wanted, self.decode(chunk).flatten(1)).min(dim=1)
                closer = distance < best
                best = torch.where(closer, distance, best)
                chosen = torch.where(closer[:, None], chunk[index], chosen)
        return chosen


class _Generator(nn.Module):
    """The interpreted graph and the reading of its output.

    Args:
        graph: latent (B, D) to whatever the file gives.
        spec: output range and shape.
        channels_last: the file gives (B, H, W, C).
    """

    def __init__(self, graph: GraphModule, spec: GeneratorSpec, channels_last: bool) -> None:
        super().__init__()
        self.graph = graph
        self.low, self.span = spec.low, spec.high - spec.low
        self.shape = (spec.channels, spec.height, spec.width)
        self.channels_last = channels_last

    def forward(self, latents: Tensor) -> Tensor:
        """(B, D) to (B, C, H, W) in [0, 1]."""
        out: Tensor = self.graph(latents)
        out = out.movedim(-1, 1) if self.channels_last else out.reshape(len(out), *self.shape)
        return ((out - self.low) / self.span).clamp(0, 1)


def load_generator(path: Path, spec: GeneratorSpec, device: torch.device | None = None) -> OnnxPrior:
    """The generator at `path` as a prior: one latent input ~ N(0, I), one image output.

    Args:
        path: an ONNX file.
        spec: output range and image shape.
        device: where it runs; default the CPU (`OnnxPrior.to` moves it).

    Raises:
        RefusedFile: not ONNX, or unsafe.
        InvalidInput: anything else that is wrong, all together.
    """
    problems = Problems()
    if spec.high <= spec.low:
        problems.add("the generator's `high` must be above its `low`")
    sniff(path, problems)
    model = None if problems else parse_onnx(path, problems)
    problems.raise_any()
    if model is None:
        raise InvalidInput("the generator could not be read")
    graph = parse_graph(model)
    row_shape, channels_last = _latent_shape(graph.inputs, problems), _is_channels_last(graph.outputs[0], spec)
    problems.raise_any()
    try:
        module = interpret(model, row_shape, classifier=False, layout=Layout.FLAT)
        generator = _Generator(module, spec, channels_last).eval()
        latent_dim = int(torch.Size(row_shape).numel())
        _check_pictures(generator, model.SerializeToString(), row_shape, spec, problems)
    except UnsupportedModel as error:
        raise InvalidInput(f"the generator cannot be differentiated: {error.message}") from error
    problems.raise_any()
    prior = OnnxPrior(
        name="onnx",
        config=_config(spec),
        image_shape=(spec.channels, spec.height, spec.width),
        latent_dim=latent_dim,
        networks=nn.ModuleDict({"generator": generator}),
    )
    prior.to(device or torch.device("cpu"))
    return prior


def _config(spec: GeneratorSpec) -> BaseModel:
    return OnnxPriorConfig(low=spec.low, high=spec.high)


def _latent_shape(inputs: tuple[Port, ...], problems: Problems) -> tuple[int, ...]:
    if len(inputs) != 1:
        problems.add(f"the generator has {len(inputs)} inputs; it needs exactly one, the latent")
        return ()
    dims = inputs[0].dims[1:] if inputs[0].dims else ()
    if not dims or any(d is None for d in dims):
        problems.add("the generator's latent has no fixed size; export it with one, for example (batch, 128)")
        return ()
    shape = tuple(int(d or 0) for d in dims)
    if torch.Size(shape).numel() > _MAX_LATENT:
        problems.add(f"the generator's latent has {torch.Size(shape).numel()} values; the limit is {_MAX_LATENT}")
    return shape


def _is_channels_last(port: Port, spec: GeneratorSpec) -> bool:
    wanted = (spec.height, spec.width, spec.channels)
    return port.dims is not None and port.dims[1:] == wanted and wanted != (spec.channels, spec.height, spec.width)


def _check_pictures(
    generator: _Generator, model: bytes, row_shape: tuple[int, ...], spec: GeneratorSpec, problems: Problems
) -> None:
    """Shape, range, life and parity on random latents."""
    latents = torch.randn(8, *row_shape, generator=torch.Generator().manual_seed(0))
    session = OrtSession(model)
    raw = torch.from_numpy(session.run(latents.numpy()))
    size = spec.channels * spec.height * spec.width
    if raw.shape[1] != size:
        problems.add(
            f"the generator gives {raw.shape[1]} values per picture, but the manifest says {spec.channels} channels of "
            f"{spec.height}x{spec.width}"
        )
        return
    if not bool(torch.isfinite(raw).all()):
        problems.add("the generator's pictures are not finite (NaN or infinity)")
        return
    if float((raw - raw[:1]).abs().max()) <= 1e-6:
        problems.add("the generator draws the same picture whatever its latent is")
    slack = 0.25 * (spec.high - spec.low)
    if float(raw.min()) < spec.low - slack or float(raw.max()) > spec.high + slack:
        problems.add(
            f"the generator's values reach from {float(raw.min()):.2f} to {float(raw.max()):.2f}, but the manifest "
            f"says {spec.low} to {spec.high}"
        )
    parity = check_parity(
        lambda z: generator.graph(z).flatten(1),
        lambda z: torch.from_numpy(session.run(z.numpy())),
        latents,
        output=Output.LOGITS,
    )
    if not parity.passed:
        problems.add(f"the interpreted generator differs from onnxruntime by {parity.max_abs_error:.2g}")
