"""What an audit as a whole must have before a pass can be given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from auditor.contracts.access import Access
from auditor.contracts.cards import ClassifierCard, JudgeCard, OverlapCheck, PriorCard
from auditor.contracts.outcome import AttackOutcome, OutcomeStatus
from auditor.contracts.plan import KNOWING, AuditPlan
from auditor.contracts.policy import Thresholds
from auditor.contracts.scores import NotMeasured, Score
from auditor.contracts.submission import TargetCard
from auditor.proportions import binomial_tail
from auditor.risk.bounds import samples_to_name
from auditor.risk.evidence import AttackEvidence, crashed
from auditor.risk.shortfall import Shortfall

_PRIVATE = "private images of the attacked classes (`data.private`), so that reconstructions can be judged"


CONTROL_METHODS = frozenset({"best-of-prior"})
"""Methods that search no further than a control does; planned or not, their failure shows nothing."""
SUSPICION = 0.01
"""Probability under which a single class's successes are not put down to chance."""


LEAST_CROPPED_FOUND = 0.5
"""Of cropped, mirrored, dimmed and blurred copies, by the judge's features: faces at 32 x 32 pixels give 0.8."""
LEAST_FOUND = 0.8
"""Share of altered copies that the search for private images among the public ones has to find."""


def judging_shortfalls(
    evaluator: ClassifierCard | NotMeasured, judge: JudgeCard | NotMeasured, target: TargetCard, t: Thresholds
) -> tuple[Shortfall, ...]:
    """Why the success rates cannot be believed at all, in either direction; empty when they can."""
    return (*_evaluator_shortfalls(evaluator, target, t), *_judge_shortfalls(judge, evaluator, target, t))


def _evaluator_shortfalls(
    card: ClassifierCard | NotMeasured, target: TargetCard, t: Thresholds
) -> tuple[Shortfall, ...]:
    if isinstance(card, NotMeasured):
        return (Shortfall(f"there is no evaluator ({card.reason})", _PRIVATE),)
    same_weights = card.digest in (target.digest, target.weights_digest)
    if not card.independent or same_weights or card.architecture == target.architecture:
        reason = "the evaluator is not independent of the target (same architecture or same weights)"
        return (Shortfall(reason, "an evaluator of another architecture (`plan.overrides.evaluator.architecture`)"),)
    return _accuracy_shortfall(
        card.heldout_accuracy,
        t.min_evaluator_accuracy,
        "the evaluator recognises held-out private images in",
        "more private images per class, or more epochs for the evaluator",
    )


def _judge_shortfalls(
    card: JudgeCard | NotMeasured, evaluator: ClassifierCard | NotMeasured, target: TargetCard, t: Thresholds
) -> tuple[Shortfall, ...]:
    need = "a judge: more (best: labelled) public data, or your own embedder as ONNX (`data.judge`)"
    if isinstance(card, NotMeasured):
        return (Shortfall(f"there is no judge ({card.reason})", need),)
    others = {target.digest, target.weights_digest}
    if isinstance(evaluator, ClassifierCard):
        others.add(evaluator.digest)
        if card.training_data_digest and card.training_data_digest == evaluator.training_data_digest:
            return (Shortfall("the judge was trained on the private images it is to identify", need),)
    if card.digest in others:
        return (Shortfall("the judge is the evaluator or the target itself", need),)
    return _accuracy_shortfall(
        card.heldout_top1, t.min_judge_accuracy, "the judge identifies held-out private images in", need
    )


def _accuracy_shortfall(score: Score, floor: float, what: str, need: str) -> tuple[Shortfall, ...]:
    if isinstance(score, NotMeasured):
        return (Shortfall(f"{what} an unknown share of cases ({score.reason})", need),)
    if score.n < 1 or not score.low <= score.value <= score.high or score.low < floor:
        reason = f"{what} {score.value:.0%} of cases (at least {score.low:.0%}; the policy asks for {floor:.0%})"
        return (Shortfall(reason, need),)
    return ()


def data_shortfalls(
    evaluator: ClassifierCard | NotMeasured,
    priors: Sequence[PriorCard],
    overlap: OverlapCheck,
    t: Thresholds,
    *,
    needs_prior: bool = True,
) -> tuple[Shortfall, ...]:
    """What is missing or wrong about the data: public images, overlap with private ones, the input description."""
    found: list[Shortfall] = []
    if not priors and needs_prior:
        found.append(
            Shortfall(
                "there is no image prior: no public data and no generator was given",
                "public images of the same kind, other classes (`data.public`), or a generator (`data.generator`)",
            )
        )
    if not overlap.checked:
        note = f" ({overlap.note})" if overlap.note else ""
        need = "private and public images, so that their overlap can be checked"
        found.append(Shortfall(f"public data was not checked against private data{note}", need))
    elif overlap.exact_duplicates:
        reason = f"private images found in the public data: {overlap.exact_duplicates}"
        found.append(Shortfall(reason, "public data without private images"))
    elif overlap.near_duplicates:
        reason = f"public images that look almost the same as private ones: {overlap.near_duplicates}"
        found.append(Shortfall(reason, "public data without copies of private images (the pairs are listed)"))
    elif overlap.planted and overlap.planted_found < LEAST_FOUND * overlap.planted:
        reason = (
            f"the search for private images in the public data finds only {overlap.planted_found} of {overlap.planted} "
            "altered copies, so that it finds none says little"
        )
        found.append(Shortfall(reason, "a look at both sets by a person: these images are too alike for a search"))
    elif overlap.cropped_found < LEAST_CROPPED_FOUND * overlap.cropped:
        reason = (
            f"the search by the judge's features finds only {overlap.cropped_found} of {overlap.cropped} cropped "
            f"copies, so its findings in the public data ({overlap.copies} pairs) say little"
        )
        found.append(Shortfall(reason, "a better judge, or a look at both sets by a person"))
    elif overlap.copies:
        reason = f"public images that are copies of private ones, cropped or otherwise altered: {overlap.copies}"
        found.append(Shortfall(reason, "public data without copies of private images (the pairs are listed)"))
    if isinstance(evaluator, ClassifierCard):
        found += _prior_contamination(evaluator, priors)
        found += _accuracy_shortfall(
            evaluator.target_heldout_accuracy,
            t.min_target_accuracy,
            "the target itself recognises held-out private images in",
            "the right input description: check range, mean and std in `model.input`, and `data.private.class_map`",
        )
    return tuple(found)


def _prior_contamination(evaluator: ClassifierCard, priors: Sequence[PriorCard]) -> list[Shortfall]:
    private = evaluator.training_data_digest
    return [
        Shortfall(f"prior '{card.name}' was trained on the private images", "a prior trained on public data only")
        for card in priors
        if private and card.training_data_digest == private
    ]


def run_shortfalls(outcomes: Sequence[AttackOutcome], plan: AuditPlan, deployment: Access) -> tuple[Shortfall, ...]:
    """Planned work that crashed, was skipped although the deployment exposes it, or left no outcome."""
    found: list[Shortfall] = []
    keys = Counter(outcome.key for outcome in outcomes)
    found += [
        Shortfall(f"{key}: reported {count} times", "a report in which every attack appears once")
        for key, count in keys.items()
        if count > 1
    ]
    found += [
        Shortfall(f"{spec.key}: planned, but there is no result", f"the result of {spec.key}: resume the audit")
        for spec in plan.attacks
        if spec.key not in keys
    ]
    for outcome in outcomes:
        why = f": {outcome.reason}" if outcome.reason else ""
        if outcome.status is OutcomeStatus.FAILED:
            found.append(crashed(outcome))
        elif outcome.status is OutcomeStatus.SKIPPED and (
            outcome.access is Access.SPLIT or deployment.covers(outcome.access)
        ):
            need = f"what {outcome.key} needs to run, or a plan without it"
            found.append(Shortfall(f"{outcome.key}: planned, but skipped{why}", need))
    return tuple(found)


def suite_shortfalls(
    evidence: Sequence[AttackEvidence], plan: AuditPlan, target: TargetCard, deployment: Access, t: Thresholds
) -> tuple[Shortfall, ...]:
    """Whether enough different, working attacks stand behind a pass, at the access level of the deployment."""
    valid = [item for item in evidence if counts(item, plan)]
    reaching = [item for item in valid if item.outcome.access.covers(deployment)]
    found: list[Shortfall] = []
    can_be_cut = deployment is Access.SPLIT and Access.WHITE_BOX in target.access
    if not can_be_cut and not any(level.covers(deployment) for level in target.access):
        found.append(_unreachable(target, deployment))
    elif not reaching:
        reason = f"no working attack at the deployment's access level ({deployment}) is among the evidence"
        found.append(Shortfall(reason, f"a working {deployment} attack in the plan"))
    alike = [item for item in valid if (item.outcome.access is Access.SPLIT) == (deployment is Access.SPLIT)]
    n_methods = len({item.outcome.attack for item in alike})
    if n_methods < t.min_attacks:
        reason = f"working attack methods behind this audit: {n_methods}; the policy asks for {t.min_attacks}"
        found.append(Shortfall(reason, f"{t.min_attacks - n_methods} more attack method(s) that work on this model"))
    found += [
        Shortfall(
            f"{item.outcome.key}, which knows the defense of this model, did not work on it",
            f"a run of {item.outcome.key} that works: without it a defense may only hide what the model knows",
        )
        for item in evidence
        if item.outcome.key.startswith(KNOWING) and not _excused(item.outcome, deployment) and not counts(item, plan)
    ]
    if plan.withheld is not None:
        found.append(Shortfall(plan.withheld.reason, plan.withheld.need))
    if reaching and not any(item.outcome.adaptive for item in reaching):
        reason = "no working attack was built to see through a defense"
        need = "an adaptive attack in the plan (for example gradients averaged over augmentations)"
        found.append(Shortfall(reason, need))
    return tuple(found)


def _excused(outcome: AttackOutcome, deployment: Access) -> bool:
    """Whether the model has nothing for the attack to work on, or the deployment does not give what it needs."""
    return outcome.status is OutcomeStatus.INAPPLICABLE or not deployment.covers(outcome.access)


def class_shortfalls(evidence: Sequence[AttackEvidence], t: Thresholds) -> tuple[Shortfall, ...]:
    """Single classes that succeed too often for chance while too few samples were drawn to prove that they leak.

    A mean over classes hides them: four people rebuilt every time among sixty barely move it. So a class that would
    succeed this often with probability under 1 % at its control plus `clear_lift` stands in the way of a pass, under
    any attack, weak ones and controls too.
    """
    found = []
    for item in evidence:
        rows = [row for row in item.outcome.per_class if row.n > 0]
        named = set(item.outcome.named_classes)
        suspects = [
            row.label
            for row in rows
            if row.label not in named
            and binomial_tail(round(row.both * row.n), row.n, min(1.0, row.control_both + t.clear_lift)) < SUSPICION
        ]
        if suspects:
            shown = ", ".join(map(str, suspects[:10])) + (", ..." if len(suspects) > 10 else "")
            needed = samples_to_name(len(rows), t.named_rate)
            found.append(
                Shortfall(
                    f"{item.outcome.key}: too few samples of a class were drawn to tell whether these leak, which were "
                    f"rebuilt too often for chance: {shown} ({len(suspects)} of {len(rows)} classes)",
                    f"`samples_per_class` of at least {needed}, so that a single class that leaks can be proven",
                )
            )
    return tuple(found)


def counts(item: AttackEvidence, plan: AuditPlan) -> bool:
    """Whether an attack counts towards a pass: valid, no control, and what the plan asked for under this key."""
    planned = {(spec.key, spec.name) for spec in plan.attacks}
    if item.outcome.is_control or item.outcome.attack in CONTROL_METHODS:
        return False
    return item.valid and (item.outcome.key, item.outcome.attack) in planned


def is_own_control(outcome: AttackOutcome, plan: AuditPlan) -> bool:
    """Whether it is the audit's control of a prior, and not something a plan put in its place."""
    planned = {spec.key for spec in plan.attacks}
    own = outcome.key == f"control/{outcome.prior}" and outcome.attack in CONTROL_METHODS
    return outcome.is_control and own and outcome.key not in planned


def _unreachable(target: TargetCard, deployment: Access) -> Shortfall:
    best = target.access[0] if target.access else None
    offered = f"only {best} attacks could be run" if best else "no attack could be run"
    causes = []
    if target.unsupported_operators:
        causes.append(f"unsupported operators: {', '.join(target.unsupported_operators)}")
    if target.parity is not None and not target.parity.passed:
        causes.append("the parity check failed")
    why = f" ({'; '.join(causes)})" if causes else ""
    return Shortfall(
        f"the deployment exposes the model to {deployment} attackers, but {offered}{why}",
        "an export that can be differentiated (supported operators, parity), or safetensors with an architecture name; "
        "or, if attackers really reach less, `deployment_access` in the policy",
    )
