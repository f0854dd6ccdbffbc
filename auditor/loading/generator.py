"""A team's own image generator, submitted as ONNX, as a prior."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from auditor.contracts.base import digest_of_file
from auditor.contracts.manifest import GeneratorInput, GeneratorSpec
from auditor.errors import InvalidInput, UnsupportedModel
from auditor.loading.generator_inputs import Feed, PackedGenerator, pack
from auditor.loading.generator_trial import check_mapping, check_pictures, try_rows
from auditor.loading.onnx_file import parse_onnx
from auditor.loading.problems import Problems
from auditor.loading.sniff import sniff
from auditor.loading.styles import StyleSpace, sample_styles
from auditor.priors.base import Trait
from auditor.priors.network import NetworkPrior, PriorConfig
from auditor.targets.onnx_graph import GraphModule, Layout, interpret, parse_graph
from auditor.targets.onnx_graph.sections import sections
from auditor.tensors import RunContext

_CANDIDATES = 2048
_CANDIDATES_PER_CLASS = 256


class OnnxPriorConfig(PriorConfig):
    """How the generator's inputs are fed and its output is read."""

    low: float
    """Output value of black."""
    high: float
    """Output value of white."""
    space: str = "z"
    """The latent: `z`, what the file takes; `w` or `p`, a Gaussian fit of its styles."""
    inputs: dict[str, GeneratorInput] = {}
    """From the manifest."""
    files: tuple[str, ...]
    """sha256 of each file: the same weights in another graph draw other pictures."""


class Picture(nn.Module):
    """A file's output to images in [0, 1]."""

    def __init__(self, spec: GeneratorSpec, channels_last: bool) -> None:
        super().__init__()
        self._low, self._span = spec.low, spec.high - spec.low
        self._shape = (spec.channels, spec.height, spec.width)
        self._channels_last = channels_last

    def forward(self, out: Tensor) -> Tensor:
        """(B, ...) to (B, C, H, W) in [0, 1]."""
        out = out.movedim(-1, 1) if self._channels_last else out.reshape(len(out), *self._shape)
        return ((out - self._low) / self._span).clamp(0, 1)


class StagedGenerator(nn.Module):
    """Modules one after the other; the first takes the latents, and the labels of a generator that knows classes."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, D) to (B, C, H, W) in [0, 1]."""
        first, *others = self.stages
        images: Tensor = first(latents) if labels is None else first(latents, labels)
        for stage in others:
            images = stage(images)
        return images


class OnnxPrior(NetworkPrior):
    """A generator supplied as ONNX; it has no critic, and images are projected by search and gradient."""

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The pieces the file can be cut into; a generator that knows classes comes in one."""
        parts = self.generator.stages if isinstance(self.generator, StagedGenerator) else ()
        return tuple(parts) if len(parts) > 1 and not self.n_classes else (self.generator,)

    def guess(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """(B, D): of 2048 random latents (256 per class), the one whose picture is nearest to each image by pixels."""
        chosen = torch.zeros(len(images), self.latent_dim, device=images.device)
        groups = [None] if labels is None or not self.n_classes else labels.unique().tolist()
        n = _CANDIDATES if groups == [None] else _CANDIDATES_PER_CLASS
        latents = torch.randn(n, self.latent_dim, generator=ctx.rng("project", self.digest)).to(images.device)
        for label in groups:
            members = torch.arange(len(images), device=images.device)
            if labels is not None and label is not None:
                members = torch.nonzero(labels.to(images.device) == label).squeeze(1)
            chosen[members] = self._nearest(images[members].flatten(1), latents, label, ctx)
        return chosen

    @torch.no_grad()
    def _nearest(self, wanted: Tensor, latents: Tensor, label: int | None, ctx: RunContext) -> Tensor:
        """(M, D): for each of (M, C*H*W) pixels, the candidate with the nearest picture of class `label`."""
        best = torch.full((len(wanted),), torch.inf, device=wanted.device)
        chosen = torch.zeros(len(wanted), self.latent_dim, device=wanted.device)
        for chunk in latents.split(max(1, min(ctx.batch_size, len(latents)))):
            classes = None if label is None else torch.full((len(chunk),), label, device=wanted.device)
            distance, index = torch.cdist(wanted, self.decode(chunk, classes).flatten(1)).min(dim=1)
            closer = distance < best
            best = torch.where(closer, distance, best)
            chosen = torch.where(closer[:, None], chunk[index], chosen)
        return chosen


def load_generator(
    path: Path,
    spec: GeneratorSpec,
    device: torch.device | None = None,
    *,
    mapping: Path | None = None,
    n_classes: int = 0,
) -> OnnxPrior:
    """The generator at `path` as a prior over latents ~ N(0, I).

    Args:
        path: an ONNX file: the whole generator, or the synthesis of one in two files.
        spec: how its inputs are fed; output range and image shape.
        device: where it runs; default the CPU (`OnnxPrior.to` moves it).
        mapping: the other file of a generator in two.
        n_classes: of the target; a generator with a `labels` input of that size draws a class at a time.

    Raises:
        RefusedFile: not ONNX, or unsafe.
        InvalidInput: anything else that is wrong, all together.
    """
    problems = Problems()
    if spec.high <= spec.low:
        problems.add("the generator's `high` must be above its `low`")
    models = [model for file in (path, mapping) if file is not None and (model := _parsed(file, problems)) is not None]
    problems.raise_any()
    _check_names(models, spec, problems)
    try:
        if mapping is None:
            generator, latent_dim, known = _whole(models[0], spec, n_classes, problems)
        else:
            (generator, latent_dim), known = _from_styles(models[1], models[0], spec, problems), 0
        problems.raise_any()
    except UnsupportedModel as error:
        raise InvalidInput(f"the generator cannot be differentiated: {error.message}") from error
    prior = OnnxPrior(
        name="onnx",
        config=OnnxPriorConfig(
            low=spec.low,
            high=spec.high,
            space="z" if mapping is None else spec.space,
            inputs=spec.inputs,
            files=tuple(digest_of_file(file) for file in (path, mapping) if file is not None),
        ),
        image_shape=(spec.channels, spec.height, spec.width),
        latent_dim=latent_dim,
        networks=nn.ModuleDict({"generator": generator}),
        n_classes=known,
    )
    staged = Trait.STAGES if len(prior.stages) > 1 else None
    prior.traits = frozenset(trait for trait in (Trait.CONDITIONAL if known else None, staged) if trait)
    prior.to(device or torch.device("cpu"))
    return prior


def _parsed(path: Path, problems: Problems) -> onnx.ModelProto | None:
    before = len(problems)
    sniff(path, problems)
    return parse_onnx(path, problems) if len(problems) == before else None


def _check_names(models: list[onnx.ModelProto], spec: GeneratorSpec, problems: Problems) -> None:
    known = [port.name for model in models for port in parse_graph(model).inputs]
    for name in spec.inputs:
        if name not in known:
            problems.add(f"data.generator.inputs: the generator has no input '{name}'; it has {', '.join(known)}")


def _whole(
    model: onnx.ModelProto, spec: GeneratorSpec, n_classes: int, problems: Problems
) -> tuple[StagedGenerator, int, int]:
    """One file: the generator, its latent's size, and the classes it knows."""
    packed = pack(model, spec.inputs, n_classes, problems)
    problems.raise_any()
    assert packed is not None  # noqa: S101 - else there was a problem
    feed, pieces, picture = Feed(packed.fields), sections(_interpreted(packed)), _picture(model, spec)
    check_pictures(packed, nn.Sequential(*pieces), try_rows(feed, feed.latent_dim, feed.n_classes), spec, problems)
    if feed.n_classes:
        stages: list[nn.Module] = [_Conditional(feed, nn.Sequential(*pieces, picture))]
    else:
        stages = [nn.Sequential(feed, pieces[0]), *pieces[1:]]
        stages[-1] = nn.Sequential(stages[-1], picture)
    return StagedGenerator(stages), feed.latent_dim, feed.n_classes


def _from_styles(
    mapping: onnx.ModelProto, synthesis: onnx.ModelProto, spec: GeneratorSpec, problems: Problems
) -> tuple[StagedGenerator, int]:
    """Two files: the generator from a Gaussian fit of the styles, and its latent's size."""
    named = [port.name for port in parse_graph(synthesis).inputs if port.name not in spec.inputs]
    if len(named) != 1:
        problems.add(
            f"the synthesis has {len(named)} inputs that `data.generator.inputs` does not name ({', '.join(named)}); "
            "exactly one is needed, the styles"
        )
    for name, given in spec.inputs.items():
        if given.kind == "labels":
            problems.add(f"a generator in two files draws no classes: give the input '{name}' a constant")
    problems.raise_any()
    mapped, drawn = pack(mapping, spec.inputs, 0, problems), pack(synthesis, spec.inputs, 0, problems)
    problems.raise_any()
    assert mapped is not None  # noqa: S101 - else there was a problem
    assert drawn is not None  # noqa: S101
    feed, mapper = Feed(mapped.fields), _interpreted(mapped)
    check_mapping(mapped, mapper, try_rows(feed, feed.latent_dim), problems)
    samples, shape = sample_styles(mapper, feed), drawn.fields[0].shape
    if (shape[-1:] != samples.shape[-1:]) or (samples.ndim == 3 and shape != samples.shape[1:]) or len(shape) > 2:
        problems.add(f"the mapping gives styles of shape {tuple(samples.shape[1:])}, the synthesis takes {shape}")
    problems.raise_any()
    styles = StyleSpace(samples, shape, space=spec.space, feed=Feed(drawn.fields[1:]) if drawn.fields[1:] else None)
    pieces = sections(_interpreted(drawn))
    check_pictures(drawn, nn.Sequential(*pieces), try_rows(styles, styles.latent_dim), spec, problems)
    stages = [styles, *pieces[:-1], nn.Sequential(pieces[-1], _picture(synthesis, spec))]
    return StagedGenerator(stages), styles.latent_dim


class _Conditional(nn.Module):
    """Latents and labels to images, in one piece."""

    def __init__(self, feed: Feed, draw: nn.Module) -> None:
        super().__init__()
        self.feed, self.draw = feed, draw

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, D) and (B,) int64 to (B, C, H, W) in [0, 1]."""
        images: Tensor = self.draw(self.feed(latents, labels))
        return images


def _interpreted(packed: PackedGenerator) -> GraphModule:
    return interpret(packed.model, packed.row_shape, classifier=False, layout=Layout.FLAT).requires_grad_(False)


def _picture(model: onnx.ModelProto, spec: GeneratorSpec) -> Picture:
    port, wanted = parse_graph(model).outputs[0], (spec.height, spec.width, spec.channels)
    last = port.dims is not None and port.dims[1:] == wanted and wanted != (spec.channels, spec.height, spec.width)
    return Picture(spec, last)
