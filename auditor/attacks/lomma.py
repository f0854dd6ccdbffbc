"""LOMMA: a logit loss with a feature regulariser, averaged over the target and networks that imitate it."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.gmi import GmiConfig, run_gmi
from auditor.attacks.head import NO_HEAD, PROBED, HeadTap, PublicFeatures
from auditor.attacks.kedmi import KedmiConfig, run_kedmi
from auditor.attacks.objectives import Scene
from auditor.attacks.students import MAX_STUDENTS, agreement, blank_student, distil
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior, Trait
from auditor.targets.views import WhiteBoxView
from auditor.training import predict


class LommaConfig(AttackConfig):
    """Parameters of LOMMA; weights, step size and clip are the paper's."""

    base: Literal["gmi", "kedmi"] = "kedmi"
    """The attack whose identity loss is replaced."""
    steps: int = Field(default=300, ge=1)
    """Updates (the paper's code: 2,400)."""
    samples: int = Field(default=6, ge=1)
    """Draws of the distribution per class and step, with `kedmi`."""
    lr: float = Field(default=0.02, gt=0)
    identity_weight: float = Field(default=100.0, gt=0)
    """Weight of the new identity loss beside the critic's score."""
    critic_weight: float = Field(default=1.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    """Latents stay within [-clip, clip]."""
    feature_weight: float = Field(default=1.0, ge=0)
    """Weight of the mean squared distance from the mean public feature beside the logit loss."""
    normalise: bool = True
    """Divide each model's logit loss by its mean absolute public logit, and the distance by the features' variance."""
    students: int = Field(default=2, ge=0, le=MAX_STUDENTS)
    """Networks that imitate the target (paper: 3); the identity loss is the mean over them and the target."""
    epochs: int = Field(default=6, ge=1)
    """Passes over the public images when a student is taught (paper: 20)."""
    public_images: int = Field(default=5000, ge=8)
    """Public images shown to the target at most, once each: the features' mean and the students' lessons."""
    channels_last: bool = True


class Lomma(Attack[LommaConfig]):
    """GMI or KEDMI with another identity loss: minus the logit, plus a pull towards the mean public feature.

    The logit loss does not fade as the target becomes certain; the pull keeps it from running off. The mean over the
    target and students taught from its soft labels hides the target's own quirks. Queries to students are free.

    Features are the inputs of the last linear layer, and logits its outputs, which sees through a final softmax; it is
    recognised by its outputs, so it is found in a submitted graph as well as in a torch network. A target without such
    a layer has its outputs taken for both, and the notes say so.

    Departures: the public features' mean, as in the paper's code, not a draw around it; logit losses and the pull are
    divided by what they amount to on public images (`normalise`), since models differ in the size of their logits and
    the mean would follow the loudest; students are small networks instead of EfficientNets, fewer and more briefly
    taught; the original starts from N(0, e I).

    Either form takes any prior with a critic (`dcgan`, `vae-gan`, `kedmi-gan`), and `kedmi-gan` unless another is
    named. The presets run both forms on it, where the paper gives the form of GMI the plain GAN of GMI (here `dcgan`).
    """

    name = "lomma"
    access = Access.WHITE_BOX
    paper = "Nguyen, Chandrasegaran, Abdollahzadeh and Cheung, CVPR 2023, arXiv 2304.01669"
    Config = LommaConfig
    needs = frozenset({Trait.CRITIC})
    default_prior = "kedmi-gan"

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """The base attack's, and every image through each student; the public images at most."""
        config, rows = self.config, attacked * samples_per_class
        sent = config.steps * (rows if config.base == "gmi" else attacked * config.samples)
        return Cost(
            forward=sent,
            backward=sent,
            once=config.public_images + PROBED,
            decodes=2 * rows,
            gradient_decodes=sent,
            helper_passes=config.students * sent,
            bound=True,
        )

    def aids(self, image_shape: tuple[int, int, int], n_classes: int) -> nn.ModuleDict:
        """Untaught students, and room for what the target makes of public images."""
        students = [blank_student(index, n_classes, image_shape[0]) for index in range(self.config.students)]
        return nn.ModuleDict({"public": PublicFeatures(), "students": nn.ModuleList(Taught(s) for s in students)})

    def train_aids(self, aids: nn.ModuleDict, view: Any, prior: Prior, public: Tensor, ctx: KeyedContext) -> None:
        """Ask the target about public images, once, and teach the students its answers."""
        chosen = torch.randperm(len(public), generator=ctx.rng("public"))[: self.config.public_images]
        images = public[chosen]
        log_probs = log_softmax(cast(PublicFeatures, aids["public"]).measure(view, images, ctx, stage="ask lomma"), 1)
        n_heldout = min(256, len(images) // 10)
        for index, student in enumerate(_students(aids)):
            stage = f"train lomma student {index + 1}"
            distil(
                student.network,
                images[n_heldout:],
                log_probs[n_heldout:],
                ctx,
                epochs=self.config.epochs,
                stage=stage,
            )
            student.scale.fill_(float(predict(student.network, images, ctx).abs().mean().clamp_min(1e-12)))
            if n_heldout:
                student.agreement.fill_(agreement(student.network, images[:n_heldout], log_probs[:n_heldout], ctx))

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """The base attack on the new identity loss."""
        config = self.config
        if ctx.aids is None:
            raise ValueError("'lomma' was not given its students")
        public = cast(PublicFeatures, ctx.aids["public"])
        shared = config.model_dump(include={"steps", "lr", "identity_weight", "critic_weight", "clip", "channels_last"})
        with HeadTap(view, int(public.place)) as tap:
            term = LogitLoss(config, tap, public, _students(ctx.aids), ctx)
            if config.base == "gmi":
                done = run_gmi(view, prior, rows, ctx, snapshot_fracs, term, GmiConfig(**shared), stage=self.name)
            else:
                settings = KedmiConfig(samples=config.samples, **shared)
                done = run_kedmi(view, prior, rows, ctx, snapshot_fracs, term, settings, stage=self.name)
        done.notes.extend(_remarks(ctx.aids))
        return done


class Taught(nn.Module):
    """A student and what is known about it.

    Attributes:
        network: images in [0, 1] to logits.
        scale: () mean absolute logit on public images.
        agreement: () share of held-out public images on which it names the target's class; NaN without any.
    """

    scale: Tensor
    agreement: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("agreement", torch.tensor(torch.nan))


def _students(aids: nn.ModuleDict) -> list[Taught]:
    return [cast(Taught, student) for student in cast(nn.ModuleList, aids["students"])]


class LogitLoss:
    """The identity term: mean of `-o_y` over the models, plus the pull of the target's features to their public mean.

    Args:
        config: weights.
        tap: open on the target.
        public: moments of the public features.
        students: the other models.
        ctx: autocast policy.
    """

    def __init__(
        self,
        config: LommaConfig,
        tap: HeadTap,
        public: PublicFeatures,
        students: list[Taught],
        ctx: KeyedContext,
    ) -> None:
        self._config, self._tap, self._public, self._students, self._ctx = config, tap, public, students, ctx

    def __call__(self, scene: Scene) -> Tensor:
        """(B,) losses."""
        features, logits = self._tap.read(scene.logits.flatten(0, 1))
        total = self._minus_logit(logits, scene.labels, self._public.scale)
        for student in self._students:
            with self._ctx.autocast():
                logits = student.network(scene.images)
            total = total + self._minus_logit(logits.float(), scene.labels, student.scale)
        distance = (features - self._public.mean).square().mean(dim=1)
        if self._config.normalise:
            distance = distance / self._public.variance
        return total / (1 + len(self._students)) + self._config.feature_weight * distance

    def _minus_logit(self, logits: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
        wanted = logits.gather(1, labels[:, None]).squeeze(1)
        return -wanted / scale if self._config.normalise else -wanted


def _remarks(aids: nn.ModuleDict) -> list[str]:
    remarks = []
    if int(cast(PublicFeatures, aids["public"]).place) == NO_HEAD:
        remarks.append("no last linear layer was found: the target's outputs stand in for its features")
    shares = [float(student.agreement) for student in _students(aids)]
    if shares:
        listed = ", ".join(f"{share:.0%}" for share in shares)
        remarks.append(f"students name the target's class on this share of held-out public images: {listed}")
    return remarks
