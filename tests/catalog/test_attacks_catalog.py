"""Rules every attack of the catalog keeps, on a target and a prior with known answers.

A new attack needs an entry in QUICK here, and nothing else.
"""

import hashlib

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.attacks.catalog import ATTACKS
from auditor.contracts.access import Access
from auditor.errors import AccessDenied, Cancelled, InvalidInput, UnknownName
from auditor.priors.base import Trait, sample_latents
from auditor.priors.catalog import PRIORS
from auditor.priors.quality import sample_images
from auditor.targets.views import narrow
from auditor.tensors import ImageBatch, RunContext
from auditor.testing import ToyPrior, ToyTarget, toy_templates
from auditor.testing.toy_normalized import NormalizedToyTarget

K = 8
TEMPLATES = toy_templates(K)
QUICK = {
    "gmi": {"steps": 150},
    "kedmi": {"steps": 80},
    "vmi": {"steps": 60, "lr": 0.1},
    "lomma": {"steps": 60, "samples": 4, "students": 1, "epochs": 2},
    "ppa": {"pool": 200, "steps": 40, "transforms": 4},
    "if-gmi": {"pool": 200, "steps": 40, "stage_steps": 10, "transforms": 4},
    "mirror-w": {"pool": 200, "steps": 60, "flip": False},
    "mirror-b": {"pool": 200, "population": 10, "generations": 12},
    "c2fmi": {"components": 8, "epochs": 10, "candidates": 6, "kept": 4, "population": 8, "generations": 12},
    "rlb-mi": {"steps": 60, "width": 32, "batch_size": 32},
    "smile": {"pool": 200, "epochs": 6, "batch_size": 32, "width": 4, "steps": 20, "queries": 101, "children": 10},
    "plg-mi": {"steps": 60, "flip": False, "rotate_deg": 0, "light": 0.1},
    "lokt": {"steps": 60, "flip": False, "rotate_deg": 0, "light": 0.1},
    "brep-mi": {"iterations": 120, "patience": 20},
    "mi-face": {"steps": 200, "lr": 16.0},
    "pixel-tv": {"steps": 100, "shift": 0, "flip": False},
    "dip": {"steps": 60, "shift": 0, "flip": False},
    "deep-inversion": {"steps": 120, "companions": 16, "shift": 0, "flip": False},
    "best-of-prior": {"pool": 200},
}
"""Parameters that make an attack run in well under a second and still find the toy's templates."""

ASKS_NOTHING = {"lokt"}
"""Attacks whose inversion sends the target no image, so that a budget of any size leaves them complete."""


def prior_for(name, templates=TEMPLATES, made_for=None):
    """A toy prior with every trait that the attack needs; its classes and surrogates follow `made_for`.

    Where the latent is to be the picture, it is the real prior the method comes with, which knows no template.
    """
    needs = ATTACKS.get(name).needs
    if Trait.PIXELS in needs:
        builder = PRIORS.build(ATTACKS.get(name).default_prior, {})
        return builder.train(ImageBatch(templates), RunContext())
    return ToyPrior(
        templates,
        made_for=made_for,
        has_critic=True,
        conditional=Trait.CONDITIONAL in needs,
        has_surrogate=Trait.SURROGATE in needs,
    )


def target_for(name, templates=TEMPLATES, **options):
    """A toy target; with batch norms where it takes those for the method to have something to work on."""
    plain = ToyTarget(templates, sharpness=2.0, **options)
    normalized = NormalizedToyTarget(templates, sharpness=2.0, **options)
    attack = ATTACKS.build(name, {})
    return normalized if attack.inapplicable(plain) and not attack.inapplicable(normalized) else plain


def aids_of(attack, target, prior, context):
    """Its helper networks, from pictures that any prior of the templates could have drawn."""
    public = sample_images(ToyPrior(TEMPLATES), 400, torch.Generator().manual_seed(9), context)
    return attack.prepare(narrow(target, attack.access), prior, public, context)


every_attack = pytest.mark.parametrize("name", ATTACKS.names)


def run(
    name, *, target=None, prior=None, classes=(0, 3, 6), samples=3, seed=0, batch=512, budget=None, fracs=(), **params
):
    attack = ATTACKS.build(name, QUICK.get(name, {}) | params)
    target = target or target_for(name)
    view = narrow(target, attack.access, max_queries=budget)
    context = RunContext(seed=seed, batch_size=batch)
    prior = prior or prior_for(name)
    aids = aids_of(attack, target, prior, context)
    return attack.run(view, prior, classes, samples, context, snapshot_fracs=fracs, aids=aids), view


def digest(*tensors):
    return hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()


@every_attack
def test_every_entry_is_documented(name):
    entry = ATTACKS.get(name)
    assert entry.__doc__
    assert entry.paper
    assert entry.access in set(Access)
    row = next(row for row in ATTACKS.describe() if row["name"] == name)
    assert set(row["parameters"]) == set(entry.Config.model_fields)


@every_attack
def test_defaults_are_quick_enough_to_build_and_config_is_frozen(name):
    attack = ATTACKS.build(name, {})
    with pytest.raises(ValueError, match="frozen"):
        attack.config.pool = 3


@every_attack
def test_another_level_of_view_is_refused(name):
    attack = ATTACKS.build(name, QUICK.get(name, {}))
    target, prior = ToyTarget(TEMPLATES), prior_for(name)
    for access in (Access.WHITE_BOX, Access.SCORE, Access.LABEL):
        if access is not attack.access:
            with pytest.raises(AccessDenied):
                attack.run(narrow(target, access), prior, (0,), 1, RunContext())


@every_attack
def test_needs_no_more_than_its_level_offers(name):
    access = ATTACKS.get(name).access
    levels = [Access.WHITE_BOX, Access.SCORE, Access.LABEL]
    weakest = target_for(name, access=levels[levels.index(access) :])
    result, _ = run(name, target=weakest)
    assert result.end_confidence.mean() > result.start_confidence.mean()


@every_attack
@pytest.mark.parametrize("budget", [0, 1, 100])
def test_budget_is_never_passed_and_the_partial_result_is_typed(name, budget):
    result, view = run(name, budget=budget)
    assert view.counter.forward <= budget
    assert result.images.shape == (9, 1, 8, 8)
    assert bool(torch.isfinite(result.images).all())
    if name in ASKS_NOTHING:
        assert view.counter.forward == 0
        assert result.complete
        assert torch.equal(result.images, run(name)[0].images)
        return
    assert not result.complete
    assert any("budget" in note for note in result.notes)


@every_attack
def test_without_a_limit_the_result_is_complete(name):
    result, view = run(name)
    assert result.complete
    assert (view.counter.forward > 0) is (name not in ASKS_NOTHING)


@every_attack
def test_cross_entropy_falls_far_below_that_of_random_pictures(name):
    if name == "best-of-prior":
        pytest.skip("a control: it only selects")
    target, prior = target_for(name), prior_for(name)
    result, _ = run(name, target=target, prior=prior, classes=tuple(range(K)))
    latents = sample_latents(ToyPrior(TEMPLATES), len(result.labels), torch.Generator().manual_seed(5))
    with torch.no_grad():
        random = cross_entropy(target.logits(ToyPrior(TEMPLATES).decode(latents)), result.labels)
        reached = cross_entropy(target.logits(result.images), result.labels)
    assert float(reached) <= 0.25 * float(random)


@every_attack
def test_a_row_does_not_depend_on_batch_size_or_on_the_other_classes(name):
    whole, _ = run(name, classes=(0, 3, 6))
    chunked, _ = run(name, classes=(0, 3, 6), batch=7)
    alone, _ = run(name, classes=(6,))
    swapped, _ = run(name, classes=(6, 0))
    torch.testing.assert_close(chunked.images, whole.images, atol=1e-4, rtol=0)
    torch.testing.assert_close(alone.images, whole.images[6:], atol=1e-4, rtol=0)
    torch.testing.assert_close(swapped.images, torch.cat([whole.images[6:], whole.images[:3]]), atol=1e-4, rtol=0)


@every_attack
def test_same_seed_same_bytes_and_another_seed_others(name):
    first, _ = run(name)
    second, _ = run(name)
    other, _ = run(name, seed=1)
    assert digest(first.images, first.end_confidence) == digest(second.images, second.end_confidence)
    assert digest(first.images) != digest(other.images)


@every_attack
def test_shapes_range_and_alignment(name):
    result, _ = run(name, classes=(5, 1), samples=2, fracs=(0.0, 0.5, 1.0))
    assert result.images.dtype == torch.float32
    assert float(result.images.min()) >= 0
    assert float(result.images.max()) <= 1
    assert result.labels.tolist() == [5, 5, 1, 1]
    assert result.sample.tolist() == [0, 1, 0, 1]
    assert result.start_confidence.shape == result.end_confidence.shape == (4,)
    assert [snapshot.frac for snapshot in result.snapshots] == [0.0, 0.5, 1.0]
    torch.testing.assert_close(result.snapshots[-1].images, result.images)


@every_attack
def test_target_and_prior_are_left_as_they_were(name):
    target, prior = target_for(name), prior_for(name)
    parts = (*target.module.state_dict().values(), *prior.generator.state_dict().values())
    before = digest(*parts)
    run(name, target=target, prior=prior)
    assert digest(*parts) == before
    assert all(parameter.grad is None for parameter in target.module.parameters())
    assert not target.module.training


@every_attack
def test_global_randomness_is_neither_read_nor_written(name):
    torch.manual_seed(1)
    first, _ = run(name)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    torch.manual_seed(2)
    assert torch.equal(run(name)[0].images, first.images)


@every_attack
def test_writes_no_files_and_prints_nothing(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    run(name)
    assert list(tmp_path.iterdir()) == []
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@every_attack
def test_progress_reaches_its_end_and_cancelling_stops(name):
    ticks, cancelled = [], []
    attack = ATTACKS.build(name, QUICK.get(name, {}))
    target = target_for(name)
    context = RunContext(
        on_tick=lambda stage, done, total: ticks.append((stage, done, total)), is_cancelled=lambda: bool(cancelled)
    )
    aids = aids_of(attack, target, prior_for(name), context)
    attack.run(narrow(target, attack.access), prior_for(name), (0,), 2, context, aids=aids)
    assert ticks
    assert all(0 < done <= total for _, done, total in ticks)
    n_whole = len(ticks)
    cancelled.append(True)
    with pytest.raises(Cancelled):
        attack.run(narrow(target, attack.access), prior_for(name), (0,), 2, context, aids=aids)
    assert len(ticks) - n_whole <= 1


@every_attack
def test_an_attack_opens_no_file(name, monkeypatch):
    """What tells of the evaluator and the private images lies in files; an attack is given target and prior alone."""
    run(name)  # whatever is loaded on first use

    def refuse(*_, **__):
        raise AssertionError("an attack opened a file")

    for place in ("builtins.open", "pathlib.Path.open", "numpy.load", "torch.load", "safetensors.safe_open"):
        monkeypatch.setattr(place, refuse)
    result, _ = run(name)
    monkeypatch.undo()
    assert len(result.labels)


@every_attack
@pytest.mark.parametrize("n_attacked", [1, 3])
def test_cost_says_what_a_run_sends(name, n_attacked):
    attack = ATTACKS.build(name, QUICK.get(name, {}))
    cost = attack.cost(n_attacked, 2, K)
    assert cost is not None
    target, prior, context = target_for(name), prior_for(name), RunContext()
    training = narrow(target, attack.access)
    public = sample_images(ToyPrior(TEMPLATES), 400, torch.Generator().manual_seed(9), context)
    aids = attack.prepare(training, prior, public, context)
    drawn, draw = [0], prior.decode
    prior.decode = lambda latents, labels=None: drawn.append(len(latents)) or draw(latents, labels)
    view = narrow(target, attack.access)
    attack.run(view, prior, tuple(range(n_attacked)), 2, context, aids=aids)
    sent = (view.counter.forward, view.counter.backward, training.counter.forward)
    said = (cost.forward, cost.backward, cost.once)
    if cost.bound:
        assert all(actual <= bound for actual, bound in zip(sent, said, strict=True)), (sent, said)
    else:
        assert sent == said
    assert cost.shared <= cost.forward
    assert sum(drawn) <= cost.decodes + cost.gradient_decodes


@every_attack
def test_unknown_parameters_are_refused(name):
    with pytest.raises(InvalidInput, match="no_such"):
        ATTACKS.build(name, {"no_such": 1})


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UnknownName, match="mirror-b"):
        ATTACKS.build("mirorr-b", {})


@every_attack
def test_a_target_that_knows_nothing_gives_nothing(name):
    """Pictures made against a target of other patterns are not recognised more often than chance allows.

    What a prior was taught by a target (the classes it draws, its surrogates), it was taught by that other target.
    """
    truth = toy_templates(20, seed=3)
    stranger = target_for(name, toy_templates(20, seed=77))
    prior = prior_for(name, truth, stranger.templates)
    result, _ = run(name, target=stranger, prior=prior, classes=tuple(range(20)), samples=2)
    hits = ToyTarget(truth).logits(result.images).argmax(dim=1) == result.labels
    chance = 1 / 20
    assert float(hits.float().mean()) <= chance + 3 * (chance * (1 - chance) / 20) ** 0.5


@every_attack
def test_mismatched_shapes_and_classes_are_refused(name):
    attack = ATTACKS.build(name, QUICK.get(name, {}))
    view = narrow(ToyTarget(TEMPLATES), attack.access)
    large = prior_for(name, toy_templates(K, (1, 16, 16)))
    with pytest.raises(ValueError, match="prior draws"):
        attack.run(view, large, (0,), 1, RunContext())
    for classes in ((0, 0), (K,), (-1,)):
        with pytest.raises(ValueError, match="distinct"):
            attack.run(view, prior_for(name), classes, 1, RunContext())


@pytest.mark.parametrize("name", [entry.name for entry in ATTACKS if entry.needs])
def test_an_attack_that_needs_a_trait_says_so(name):
    bare = ToyPrior(TEMPLATES)
    bare.traits = frozenset()
    with pytest.raises(ValueError, match="trait"):
        run(name, prior=bare)
