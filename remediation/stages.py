"""The units of a repair that compute: start, and train one boundary. Those that decide are in `remediation.decisions`.

Each takes (UnitSpec, Workspace, RunContext) and returns a small JSON value. Files they read: `model`, `target.json`,
`manifest.json`, `plan.json` (seed and batch size), `fit.npz`, `heldout.npz`, `public.npz`, `report.json` (the audit
before) and, optionally, `weights.safetensors`.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from safetensors.torch import load_file, save_file

from auditor.contracts.access import Access
from auditor.contracts.base import digest_of_file
from auditor.contracts.fisher import FisherReport
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.policy import Policy
from auditor.contracts.repair import NormMode, RepairStart, TrainedCandidate
from auditor.contracts.scores import Score
from auditor.data.image_set import ImageSet
from auditor.errors import AuditorError, InvalidInput
from auditor.evaluation.cards import accuracy_score
from auditor.evaluation.intervals import Bootstrap
from auditor.loading.digests import tensors_digest
from auditor.loading.target_loading import load_target
from auditor.risk.evidence import effective_access
from auditor.service.workspace import UnitValue, Workspace
from auditor.targets.base import Target
from auditor.targets.torch_target import TorchTarget
from auditor.tensors import ImageBatch, RunContext
from remediation.boundaries import candidate_boundaries, sweep_boundaries
from remediation.decisions import CANDIDATE, START, report_in
from remediation.defenses.base import RepairedModel
from remediation.preparation import Network, RepairInputs, read_inputs
from remediation.starting import PublicWeights, public_weights
from remediation.starting_weights import (
    check_not_in_place,
    check_not_submission,
    check_trained,
    load_public_weights,
    shared_layers,
    submitted_weights,
)
from remediation.utility import measure_utility
from remediation.written_file import write_checked

MODEL = "model"
START_WEIGHTS = "start.safetensors"
TRIAL_FRAC = 0.25
"""Share of the training that every boundary of a sweep gets."""
_REPAIRED_BEFORE = (
    "The submission already has layers of the public weights that were trained here ({}): it was repaired from them "
    "before."
)


def repair_pretrain(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Find or train the starting weights, check them, and propose boundaries.

    A defense that retrains starts from public weights, one that fine-tunes from the submitted ones. Writes `start.json`
    (RepairStart) and `start.safetensors` (weights of all but the head); returns RepairStart.

    Raises:
        InvalidInput: no usable start, see `remediation.starting_weights`; or a defense that does not fit the model or
            its deployment.
        UnsupportedModel: this model cannot be retrained.
    """
    inputs = read_inputs(workspace)
    if reason := inputs.defense.misplaced(_deployment(inputs), inputs.cut):
        raise InvalidInput(f"{inputs.defense.name} does not fit this deployment: {reason}")
    network = inputs.network(ctx)
    if reason := inputs.defense.inapplicable(network.module, network.units, network.head_path):
        raise InvalidInput(f"{inputs.defense.name} does not fit this model: {reason}")
    boundaries, trials = _boundaries(inputs, network, workspace)
    frozen = network.units[: max(boundaries)]
    if inputs.retrains:
        weights = public_weights(inputs, network, ctx)
        fresh = {name: value.clone() for name, value in network.module.state_dict().items()}
        load_public_weights(network.module, weights.tensors, network.head)
        check_trained(network.module, fresh, frozen)
    else:
        weights = PublicWeights({}, "the submitted weights")
    submitted = submitted_weights(workspace.input("model"), inputs.card)
    if weights.trained_here:
        if shared := shared_layers(network.module, submitted, frozen):
            weights = replace(weights, notes=(*weights.notes, _REPAIRED_BEFORE.format(", ".join(shared[:10]))))
    elif not inputs.defense.config.weights_are_public:
        check_not_in_place(network.module, submitted, network.units[:-1] if inputs.retrains else frozen)
    else:
        check_not_submission(weights.tensors, submitted, network.head)
    body = network.body()
    save_file(body, workspace.output(START_WEIGHTS))
    target = load_target(workspace.input("model"), inputs.card, ctx.device)
    start = RepairStart(
        defense=inputs.defense.name,
        paper=inputs.defense.paper,
        pretraining=weights.described,
        weights_digest=tensors_digest(body),
        network=inputs.source.description,
        parameters=inputs.defense.config.model_dump(mode="json"),
        n_units=len(network.units),
        boundaries=boundaries,
        trials=trials,
        accuracy_before=_accuracy(target, inputs.heldout().choice, inputs, ctx),
        test_accuracy_before=_test_accuracy(target, inputs, ctx),
        utility_before=measure_utility(target, workspace.input("model"), _test_images(inputs), ctx),
        notes=(*weights.notes, *_notes(inputs)),
    )
    workspace.output(START).write_text(start.model_dump_json())
    return start.model_dump(mode="json")


def _deployment(inputs: RepairInputs) -> Access:
    """What attackers reach, by the policy of the audit before; without one, by the manifest's."""
    if inputs.workspace.has("report.json"):
        policy = report_in(inputs.workspace, "report.json").policy
    else:
        policy = inputs.manifest.policy or Policy()
    return effective_access(policy, weights_published=inputs.manifest.model.weights_published)


def _boundaries(inputs: RepairInputs, network: Network, workspace: Workspace) -> tuple[dict[int, str], bool]:
    """What is tried and who proposed it, and whether with a part of the training first."""
    config, n_units, search = inputs.defense.config, len(network.units), inputs.manifest.repair.search
    fisher = _fisher(workspace)
    given = config.boundaries or ((int(search.partition(":")[2]),) if search.startswith("fixed:") else ())
    if search == "sweep" and not given:
        swept = sweep_boundaries(n_units, fisher)
        return swept, len(swept) > config.n_boundaries
    if given or inputs.defense.freezes:
        return candidate_boundaries(n_units, fisher, n_wanted=config.n_boundaries, given=given), False
    return dict.fromkeys(inputs.defense.own_boundaries(n_units), "defense"), False


def repair_train(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Train one boundary: `unit.params["boundary"]`, and `proposed_by`. Also reads what `repair_pretrain` wrote.

    Writes `model` (in the submitted format), `target.json` (its card) and `candidate.json` (TrainedCandidate); returns
    the latter. Nothing is left when the proof or the round trip fails.

    Raises:
        FrozenStateMoved: something frozen changed.
        UnfaithfulFile: the file does not compute what was trained.
    """
    inputs = read_inputs(workspace)
    start = RepairStart.model_validate_json(workspace.input(START).read_text())
    network = inputs.network(ctx)
    fresh = {name: value.clone() for name, value in network.module.state_dict().items()}
    load_public_weights(network.module, load_file(workspace.input(START_WEIGHTS)), network.head)
    if tensors_digest(network.body()) != start.weights_digest:
        raise AuditorError("the starting weights are not those that were checked")
    public = TorchTarget(copy.deepcopy(network.module), inputs.card) if inputs.retrains else None
    boundary = int(str(unit.params["boundary"]))
    check_trained(network.module, fresh, network.units[:boundary])
    defense = inputs.defense.shortened(TRIAL_FRAC) if unit.params.get("trial") else inputs.defense
    repaired = defense.fit(
        network.module,
        network.units,
        network.head_path,
        boundary,
        inputs.data(ctx),
        ctx,
        prepare=inputs.prepare,
        cut=inputs.cut,
    )
    path = workspace.output(MODEL)
    card, error = write_checked(repaired.module, inputs, path, public)
    written = load_target(path, card, ctx.device)
    candidate = TrainedCandidate(
        freeze=repaired.freeze.model_copy(update={"tuned_parameters": 0}) if inputs.serves else repaired.freeze,
        proposed_by=str(unit.params.get("proposed_by", start.boundaries.get(boundary, "user"))),
        best_epoch=repaired.history.best_epoch,
        epochs=len(repaired.history.loss),
        validation_accuracy=repaired.validation_accuracy,
        heldout_accuracy=repaired.heldout_accuracy,
        test_accuracy=_test_accuracy(written, inputs, ctx),
        utility=measure_utility(written, path, _test_images(inputs), ctx),
        model_digest=digest_of_file(path),
        model_weights_digest=card.weights_digest,
        model_answers=card.answers,
        model_format=str(card.format),
        parity_max_abs_error=error,
        notes=(*repaired.notes, *_training_notes(repaired, inputs)),
    )
    if repaired.secrets:
        save_file(repaired.secrets, workspace.output("secrets.safetensors"))
    workspace.output("target.json").write_text(card.model_dump_json())
    workspace.output(CANDIDATE).write_text(candidate.model_dump_json())
    return candidate.model_dump(mode="json")


def _accuracy(target: Target, images: ImageSet, inputs: RepairInputs, ctx: RunContext) -> Score:
    batch = images.batch(inputs.shape)
    return accuracy_score("heldout_accuracy", target.logits, batch, ctx, Bootstrap(seed=ctx.seed))


def _test_accuracy(target: Target, inputs: RepairInputs, ctx: RunContext) -> Score | None:
    test = inputs.heldout().test
    return None if test is None else _accuracy(target, test, inputs, ctx)


def _test_images(inputs: RepairInputs) -> ImageBatch:
    held = inputs.heldout()
    return (held.test or held.choice).batch(inputs.shape)


def _fisher(workspace: Workspace) -> FisherReport | None:
    if not workspace.has("report.json"):
        return None
    fisher = report_in(workspace, "report.json").fisher
    return fisher if isinstance(fisher, FisherReport) else None


def _notes(inputs: RepairInputs) -> tuple[str, ...]:
    notes = []
    if inputs.manifest.data.heldout is None:
        notes.append(
            "No held-out images were declared: a fifth of the private images stands in. The submission may have been "
            "trained on them, so its accuracy is optimistic and the budget stricter than it looks."
        )
    if inputs.heldout().test is None:
        notes.append(
            "No class has two different held-out images: the same images choose among candidates and measure what the "
            "repair cost, so its accuracy is optimistic."
        )
    if inputs.defense.config.weights_are_public:
        notes.append("The team states that layers shared by the submission and the public weights are public.")
    return tuple(notes)


def _training_notes(repaired: RepairedModel, inputs: RepairInputs) -> tuple[str, ...]:
    notes = []
    if repaired.freeze.norm_mode is NormMode.REFERENCE and repaired.freeze.boundary:
        notes.append("Statistics of frozen norms were adapted on private data (`norm_mode: reference`).")
    if repaired.freeze.boundary == 0 and inputs.defense.freezes:
        notes.append("Nothing was frozen: this is plain fine-tuning from public weights.")
    return tuple(notes)
