"""auditor.yaml: the manifest a team commits beside its model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from auditor.contracts.base import Contract
from auditor.contracts.plan import AttackSpec, PriorSpec
from auditor.contracts.policy import Policy

PUBLISHED = "torchvision:"
"""In front of a name of torchvision's, in place of a file of weights."""


class InputSpec(Contract):
    """How the model wants its images: the auditor scales [0, 1] to `low..high`, then applies mean and std."""

    channels: int = Field(ge=1, le=4)
    height: int = Field(ge=8, le=1024)
    width: int = Field(ge=8, le=1024)
    low: float = 0.0
    """Pixel value of black before mean and std."""
    high: float = 1.0
    """Pixel value of white before mean and std."""
    mean: tuple[float, ...] = ()
    """Per channel, subtracted after scaling; empty means 0."""
    std: tuple[float, ...] = ()
    """Per channel, divided by after subtracting; empty means 1."""

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        problems = []
        if self.high <= self.low:
            problems.append("`high` must be above `low`")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values and len(values) != self.channels:
                problems.append(f"`{name}` has {len(values)} values for {self.channels} channels")
        if any(value <= 0 for value in self.std):
            problems.append("`std` must be positive")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class ModelSpec(Contract):
    """What is needed to read the model file. What ONNX says itself may be left out and is inferred."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    architecture: str | None = None
    """Name from the allow-list; needed for safetensors and state dicts, optional for ONNX (helps repair)."""
    input: InputSpec | None = None
    """Inferred from ONNX when absent (range [0, 1], no mean or std)."""
    n_classes: int | None = Field(default=None, ge=1)
    public_model: Path | None = None
    """The public model this one was fine-tuned from, relative to the manifest: ONNX, or bare weights of the same
    `architecture`. Attackers are assumed to have it too; its class count may differ."""
    weights_published: bool = False
    """True when the weights themselves are public (on a device, on a hub): the policy is stricter then."""


class DataSpec(Contract):
    """An image folder (`class name/image file`) or an npz with `images` (uint8, NHW or NHWC) and `labels`."""

    path: Path
    """Relative to the manifest."""
    images_key: str = "images"
    labels_key: str | None = "labels"
    """None: no labels (public data only)."""
    class_map: dict[str, int] | None = None
    """Folder name (or npz label, as text) to the target's class index; default: sorted order, or the label itself."""
    max_per_class: int | None = Field(default=None, ge=1)


class GeneratorInput(Contract):
    """What one input of a generator's file is fed. An input without an entry is part of the latent, as `normal`."""

    kind: Literal["normal", "uniform", "noise", "constant", "labels"] = "normal"
    """`normal` and `uniform` are parts of the latent, so attacks change them; `noise` is drawn once from N(0, 1) and
    stays the same for every picture; `constant` is `value`; `labels` is the class to be drawn."""
    low: float = -1.0
    """`uniform`: lower end."""
    high: float = 1.0
    """`uniform`: upper end."""
    value: float | tuple[float, ...] | None = None
    """`constant`: one number for all its elements, or as many numbers as it has elements, in order."""
    n_classes: int | None = Field(default=None, ge=2)
    """`labels` as one class number per picture: how many classes there are (one-hot labels say it by their size)."""

    @model_validator(mode="after")
    def _consistent(self) -> GeneratorInput:
        problems = []
        if self.high <= self.low:
            problems.append("`high` must be above `low`")
        if (self.kind == "constant") != (self.value is not None):
            problems.append("`value` is needed for `kind: constant`, and belongs to no other kind")
        if self.n_classes is not None and self.kind != "labels":
            problems.append("`n_classes` belongs to `kind: labels`")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class GeneratorSpec(Contract):
    """A generator supplied by the team as ONNX: one file, or a mapping and a synthesis; docs/generators.md."""

    path: Path | None = None
    """The whole generator in one file: latent inputs ~ N(0, 1), one image output."""
    mapping: Path | None = None
    """Instead of `path`, the first of two files: latents to styles (StyleGAN's z to w)."""
    synthesis: Path | None = None
    """The second of two files: styles to one image output."""
    space: Literal["w", "p"] = "w"
    """Two files: where attacks work. Styles as they are, or before the mapping's last LeakyReLU of slope 0.2."""
    inputs: dict[str, GeneratorInput] = Field(default_factory=dict)
    """By input name of the file (or files): what is not simply a part of the latent ~ N(0, 1)."""
    low: float = -1.0
    """Output value of black."""
    high: float = 1.0
    """Output value of white."""
    channels: int = Field(ge=1, le=4)
    height: int = Field(ge=8)
    width: int = Field(ge=8)
    """Image shape; a flat (N, C*H*W) output is reshaped to it."""

    @model_validator(mode="after")
    def _files(self) -> GeneratorSpec:
        problems = []
        if self.path is not None and (self.mapping or self.synthesis):
            problems.append("give either `path` (one file) or `mapping` and `synthesis` (two files)")
        elif self.path is None and not (self.mapping and self.synthesis):
            problems.append("give `path` (one file), or both `mapping` and `synthesis` (two files)")
        if self.space == "p" and self.mapping is None:
            problems.append("`space: p` needs `mapping` and `synthesis`")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def files(self) -> dict[str, Path]:
        """Each file by the name it has in an audit's workspace; what draws the pictures is `generator.onnx`."""
        drawing = self.path or self.synthesis
        found = {"generator.onnx": drawing, "generator-mapping.onnx": self.mapping}
        return {name: path for name, path in found.items() if path is not None}


class JudgeSpec(Contract):
    """An embedder supplied by the team as ONNX: images in, one feature vector per image out."""

    path: Path
    input: InputSpec


class DataSection(Contract):
    """The data an audit needs: without private data nothing can be judged, without public data no prior trained."""

    private: DataSpec | None = None
    """The images the target was trained on; used only to judge and to repair."""
    heldout: DataSpec | None = None
    """Images of the same classes that the target never saw; default: a stratified fifth of `private` (optimistic)."""
    public: DataSpec | None = None
    """Images an attacker could own: same kind, disjoint classes."""
    generator: GeneratorSpec | None = None
    judge: JudgeSpec | None = None


class PlanSection(Contract):
    """The plan: a preset, with anything overridden."""

    preset: Literal["quick", "standard", "deep"] = "quick"
    seed: int | None = Field(default=None, ge=0)
    n_classes: int | None = Field(default=None, ge=1)
    samples_per_class: int | None = Field(default=None, ge=1)
    attacks: tuple[AttackSpec, ...] | None = None
    priors: tuple[PriorSpec, ...] | None = None
    split: str | None = None
    """Layer at which the model is cut: audits the device's part by what it sends (see `auditor submit --split`)."""
    overrides: dict[str, JsonValue] = Field(default_factory=dict)
    """Any other field of the plan, by name."""


class RepairBudget(Contract):
    """What a repair may cost."""

    max_accuracy_loss: float = Field(default=0.03, ge=0, le=1)
    """Held-out accuracy points (0..1) the repaired model may lose against the submitted one."""
    defense: str = "tl-dmi"
    search: str = Field(default="fisher", pattern=r"^(fisher|sweep|fixed:[0-9]{1,4})$")
    """Which boundaries are tried: those that the Fisher scores and the depth propose, every one (poor ones with little
    training), or the one named."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    weights: str | None = None
    """Trained on public data only, for a defense that retrains: a safetensors file, relative to the manifest, or
    `torchvision:` and a name of its own (`torchvision:ResNet18_Weights.IMAGENET1K_V1`). None: pre-trained on the public
    data."""

    @property
    def published_weights(self) -> str | None:
        """The name of torchvision's weights; None where none are named."""
        given = self.weights or ""
        return given.removeprefix(PUBLISHED) if given.startswith(PUBLISHED) else None

    @property
    def weights_file(self) -> Path | None:
        """The file of the weights; None where none is named."""
        return Path(self.weights) if self.weights is not None and self.published_weights is None else None


class Manifest(Contract):
    """The whole of auditor.yaml."""

    version: Literal[1] = 1
    model: ModelSpec
    data: DataSection = DataSection()
    plan: PlanSection = PlanSection()
    policy: Policy | None = None
    """Default: the built-in policy."""
    repair: RepairBudget = RepairBudget()
