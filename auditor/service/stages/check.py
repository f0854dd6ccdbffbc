"""The intake check: reads what a manifest names, lists every problem at once, writes normalised bundles."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from auditor.contracts.jobs import WEIGHTS, UnitSpec
from auditor.contracts.manifest import DataSpec, Manifest
from auditor.contracts.plan import AuditPlan
from auditor.contracts.submission import ModelFormat, TargetCard
from auditor.data.bundles import save_bundle
from auditor.data.image_set import ImageSet
from auditor.data.overlap import require_disjoint, require_unseen
from auditor.data.reading import read_image_set
from auditor.errors import InvalidInput, RefusedFile
from auditor.loading.embedder import load_embedder
from auditor.loading.external_data import gather_weights
from auditor.loading.generator import load_generator
from auditor.loading.inspection import inspect_model
from auditor.loading.problems import Problems
from auditor.loading.public_model import find_public_front
from auditor.loading.target_loading import load_target
from auditor.loading.weights_file import read_weights
from auditor.service.matching import component_problems
from auditor.service.plans import plan_problems, resolve_plan
from auditor.service.workspace import UnitValue, Workspace
from auditor.targets.split import split_at, with_split
from auditor.tensors import RunContext

T = TypeVar("T")
_SUBMIT_AGAIN = "Correct the listed problems and submit again; nothing was stored."


class _Problems(list[str]):
    """Collects the problems and remedies of steps that fail with InvalidInput."""

    def __init__(self) -> None:
        super().__init__()
        self._remedies: list[str] = []
        self._refused = False

    def attempt(self, step: Callable[[], T], *, where: str = "") -> T | None:
        """What `step` gives; None, with its problems noted (after `where`), when it fails."""
        try:
            return step()
        except InvalidInput as error:
            self.extend(f"{where}: {problem}" if where else problem for problem in error.problems)
            self._refused |= isinstance(error, RefusedFile)
            if error.remedy not in (InvalidInput.default_remedy, *self._remedies):
                self._remedies.append(error.remedy)
            return None

    def error(self) -> InvalidInput:
        """Everything found, as one error; a refusal if any of it was one."""
        remedy = " ".join([*self._remedies, _SUBMIT_AGAIN])
        return (RefusedFile if self._refused else InvalidInput)(self, remedy=remedy)


def run(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Check a submission.

    `unit.params`: `model` (path of the model file), `base` (folder the manifest's paths are relative to), `manifest`
    (Manifest as JSON). Writes `target.json`, `plan.json` and the bundles, and `model` where weights lay in files beside
    it; returns card, plan and warnings.

    Raises:
        InvalidInput: with every problem of model, data, plan and policy.
    """
    manifest = Manifest.model_validate(unit.params["manifest"])
    base = Path(str(unit.params["base"]))
    problems = _Problems()
    plan = problems.attempt(lambda: resolve_plan(manifest.plan))
    ctx.tick("check", 1, 4)
    given = Path(str(unit.params["model"]))
    model = problems.attempt(lambda: gather_weights(given, workspace.root / "gathered.onnx"))
    card = None if model is None else problems.attempt(lambda: inspect_model(model, manifest.model))
    if plan is not None:
        _check_plan(plan, manifest, card, problems)
    if plan is not None and plan.split is not None and card is not None and model is not None:
        card = _cut(model, card, plan.split, problems)
    if card is not None and model is not None and manifest.model.public_model is not None:
        card = _with_public_front(model, card, manifest, base, workspace, problems)
    ctx.tick("check", 2, 4)
    sets = _read_data(manifest, base, card, problems)
    ctx.tick("check", 3, 4)
    extras = {} if card is None else _check_extras(manifest, base, card, workspace, problems)
    if problems or card is None or plan is None:
        raise problems.error()
    workspace.output("target.json").write_text(card.model_dump_json())
    workspace.output("plan.json").write_text(plan.model_dump_json())
    if model is not None and model != given:
        model.replace(workspace.output("model"))
    for role, image_set in sets.items():
        save_bundle(image_set, workspace.output(f"{role}.npz"))
    for name, path in extras.items():
        shutil.copyfile(path, workspace.output(name))
    ctx.tick("check", 4, 4)
    return {
        "target": card.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "data": {role: image_set.digest for role, image_set in sets.items()},
        "warnings": list(card.warnings),
    }


def _check_plan(plan: AuditPlan, manifest: Manifest, card: TargetCard | None, problems: _Problems) -> None:
    """Names and parameters of attacks and priors, and that they fit together.

    A preset may list priors that ask a target for more than this one offers: they are left out, and the report says so.
    A manifest that lists such a prior itself is refused.
    """
    own_priors = manifest.plan.priors is not None
    problems.extend(plan_problems(plan))
    problems.extend(
        component_problems(
            plan,
            has_generator=manifest.data.generator is not None,
            has_public=manifest.data.public is not None,
            access=card.access if card is not None and own_priors else None,
        )
    )


def _cut(model: Path, card: TargetCard, layer: str, problems: _Problems) -> TargetCard:
    """The card of the model cut at `layer`; raises UnsupportedModel where only its scores can be had."""
    target = load_target(model, card, torch.device("cpu"))
    split = problems.attempt(lambda: split_at(target, layer))
    return card if split is None else with_split(card, split)


def _with_public_front(
    model: Path, card: TargetCard, manifest: Manifest, base: Path, workspace: Workspace, problems: _Problems
) -> TargetCard:
    """The card, which says up to where the model is the public one."""
    given = base / (manifest.model.public_model or "")

    def compare() -> TargetCard:
        public = gather_weights(given, workspace.root / "gathered-public.onnx")
        front = find_public_front(load_target(model, card, torch.device("cpu")), public, manifest.model)
        if front is None:
            warning = "no layer of the model equals the one of model.public_model: attackers gain nothing from it"
            return card.model_copy(update={"warnings": (*card.warnings, warning)})
        inferred = card.inferred | {"public front": f"the model equals model.public_model up to '{front.layer}'"}
        return card.model_copy(update={"public_front": front, "inferred": inferred})

    return problems.attempt(compare, where="model.public_model") or card


def _read_data(manifest: Manifest, base: Path, card: TargetCard | None, problems: _Problems) -> dict[str, ImageSet]:
    """The image sets that could be read, by role, disjoint from the public ones."""
    data, sets = manifest.data, {}
    n_classes = None if card is None else card.n_classes

    def read(role: str, spec: DataSpec | None, **options: Any) -> None:
        if spec is None:
            return
        found = problems.attempt(lambda: read_image_set(spec, base, name=role, **options))
        if found is not None:
            sets[role] = found

    read("private", data.private, n_classes=n_classes, min_per_class=2 if data.heldout is None else 1)
    names = sets["private"].class_names if "private" in sets else ()
    read("heldout", data.heldout, n_classes=n_classes, classes=names, min_per_class=1)
    read("public", data.public, labelled=False)
    if data.heldout is not None and data.private is None:
        problems.append("data.heldout is given without data.private")
    if "heldout" in sets and "private" in sets:
        problems.attempt(lambda: require_unseen(sets["private"], sets["heldout"]))
    for role in ("private", "heldout"):
        if role in sets and "public" in sets:
            problems.attempt(lambda role=role: require_disjoint(sets[role], sets["public"]))  # type: ignore[misc]
    return sets


def _check_extras(
    manifest: Manifest, base: Path, card: TargetCard, workspace: Workspace, problems: _Problems
) -> dict[str, Path]:
    """The team's own generator, judge and public weights load and fit; their files, whole, by workspace name."""
    generator, judge = manifest.data.generator, manifest.data.judge
    given = {} if generator is None else {name: base / path for name, path in generator.files.items()}
    if judge is not None:
        given["judge.onnx"] = base / judge.path

    def whole(name: str, path: Path) -> Path:
        return problems.attempt(lambda: gather_weights(path, workspace.root / f"gathered-{name}")) or path

    files = {name: whole(name, path) for name, path in given.items()}
    if generator is not None:
        shape = (generator.channels, generator.height, generator.width)
        wanted = (card.input.channels, card.input.height, card.input.width)
        if shape[0] != wanted[0]:
            problems.append(f"data.generator draws {shape[0]} channels, the model takes {wanted[0]}")
        mapping = files.get("generator-mapping.onnx")
        problems.attempt(
            lambda: load_generator(files["generator.onnx"], generator, mapping=mapping, n_classes=card.n_classes)
        )
    if judge is not None:
        problems.attempt(lambda: load_embedder(files["judge.onnx"], judge))
    if manifest.repair.weights_file is not None:
        files[WEIGHTS] = base / manifest.repair.weights_file
        problems.attempt(lambda: _readable(files[WEIGHTS]), where="repair.weights")
    return files


def _readable(weights: Path) -> None:
    """Refuse a file of public weights that cannot be read; whether it fits is seen when a repair starts from it."""
    if not weights.is_file():
        raise InvalidInput(f"no file at {weights}")
    problems = Problems()
    read_weights(weights, ModelFormat.SAFETENSORS, problems, {})
    problems.raise_any()
