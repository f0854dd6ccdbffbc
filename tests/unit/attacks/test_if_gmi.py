"""IF-GMI: the ball, the hand-over between parts, and what it shares with PPA."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.if_gmi import Features, IfGmi, IfGmiConfig, project_l1
from auditor.attacks.objectives import IDENTITY_LOSSES
from auditor.attacks.ppa import Ppa, PpaConfig
from auditor.contracts.access import Access
from auditor.priors.dcgan import DcganBuilder, DcganConfig
from auditor.priors.vae import VaeBuilder, VaeConfig
from auditor.targets.views import narrow
from auditor.tensors import RunContext
from auditor.testing import ToyTarget, toy_images, toy_templates

SHAPE = (1, 16, 16)
TEMPLATES = toy_templates(6, SHAPE)
ROWS = Rows(torch.tensor([0, 0, 3, 3]), torch.tensor([0, 1, 0, 1]))
CTX = KeyedContext(attack_key="t")
BUILDERS = {
    "dcgan": DcganBuilder(DcganConfig(latent_dim=6, width=8, steps=4, critic_steps=1)),
    "vae": VaeBuilder(VaeConfig(latent_dim=6, width=8, steps=60)),
    "linear vae": VaeBuilder(VaeConfig(latent_dim=6, steps=0)),
}
QUICK = {"pool": 60, "steps": 12, "loss": "cross-entropy"}
every_prior = pytest.mark.parametrize("name", BUILDERS)


@pytest.fixture(scope="module")
def priors():
    """Trained on pictures of which the classes' own are no part: only features can reach those."""
    public = toy_images(toy_templates(12, SHAPE, seed=9), 20, noise=0.1)
    return {name: builder.train(public, RunContext(batch_size=64)) for name, builder in BUILDERS.items()}


def view_of(**options):
    return narrow(ToyTarget(TEMPLATES, sharpness=0.5), Access.WHITE_BOX, **options)


def loss_of(images):
    with torch.no_grad():
        return cross_entropy(view_of().logits(images), ROWS.labels, reduction="none")


@pytest.mark.parametrize("radius", [0.0, 0.3, 5.0, 300.0])
def test_projection_against_a_search_for_the_threshold(radius):
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 6)[:, None]
    found = project_l1(x, radius)
    for row, projected in zip(x.double(), found.double(), strict=True):
        low, high = 0.0, float(row.abs().max())
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if float((row.abs() - middle).clamp_min(0).sum()) > radius else (low, middle)
        slow = row if float(row.abs().sum()) <= radius else (row.abs() - high).clamp_min(0) * row.sign()
        torch.testing.assert_close(projected, slow, atol=1e-5, rtol=1e-5)
    assert bool((found.abs().sum(dim=1) <= radius + 1e-4).all())
    assert torch.equal(project_l1(found, radius), found)
    inside = x.double().abs().sum(dim=1) <= radius
    assert torch.equal(found[inside], x[inside])
    assert torch.equal(torch.cat([project_l1(row[None], radius) for row in x]), found)


def test_projection_is_exact_and_idempotent_on_long_rows():
    x = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(1))
    found = project_l1(x, 3000.0)
    torch.testing.assert_close(found.double().abs().sum(dim=1), torch.full((3,), 3000.0).double(), atol=1e-3, rtol=0)
    assert torch.equal(project_l1(found, 3000.0), found)


@every_prior
def test_radius_zero_is_ppas_result_bit_for_bit(priors, name):
    prior = priors[name]
    alone = Ppa(PpaConfig(candidates=1, **QUICK)).invert(view_of(), prior, ROWS, CTX, ())
    frozen = IfGmi(IfGmiConfig(radius=0.0, stage_steps=3, **QUICK)).invert(view_of(), prior, ROWS, CTX, ())
    moved = IfGmi(IfGmiConfig(stage_steps=3, **QUICK)).invert(view_of(), prior, ROWS, CTX, ())
    assert torch.equal(frozen.start, alone.start)
    assert torch.equal(frozen.images, alone.images)
    assert not torch.equal(moved.images, alone.images)


@every_prior
def test_features_stay_in_the_ball_at_every_step(priors, name, monkeypatch):
    shares, changed = {}, Features.changed

    def recorded(self, change, index):
        values = changed(self, change, index)
        before = changed(self, torch.zeros_like(change), index)
        share = (values - before).double().abs().flatten(1).sum(1) / before.double().abs().flatten(1).sum(1)
        shares.setdefault(id(self), []).extend(share.tolist())
        alive.append(self)
        return values

    alive = []
    monkeypatch.setattr(Features, "changed", recorded)
    config = IfGmiConfig(radius=0.1, stage_lr=0.3, stage_steps=6, **QUICK)
    IfGmi(config).invert(view_of(), priors[name], ROWS, CTX, ())
    assert len(shares) == len(priors[name].stages) - 1
    for values in shares.values():
        assert max(values) <= 0.1 * (1 + 1e-5)
        assert max(values) > 0.099


@every_prior
def test_no_parts_end_is_worse_than_its_start(priors, name):
    prior = priors[name]
    n_later = len(prior.stages) - 1
    config = IfGmiConfig(loss="cross-entropy", pool=60, steps=30, stage_steps=30)
    total = 30 + 30 * n_later
    ends = tuple(30 * number / total for number in range(1, n_later + 2))
    result = IfGmi(config).invert(view_of(), prior, ROWS, CTX, ends)
    losses = torch.stack([loss_of(snapshot.images).mean() for snapshot in result.snapshots])
    assert bool((losses[1:] <= losses[:-1]).all())
    assert float(losses[-1]) < 0.95 * float(losses[0])


def test_features_reach_what_the_latent_cannot(priors):
    """A lower loss than as many steps on the latent alone."""
    prior, loss = priors["vae"], "cross-entropy"
    alone = Ppa(PpaConfig(candidates=1, loss=loss, pool=60, steps=90)).invert(view_of(), prior, ROWS, CTX, ())
    further = IfGmi(IfGmiConfig(loss=loss, pool=60, steps=50, stage_steps=20)).invert(view_of(), prior, ROWS, CTX, ())
    assert float(loss_of(further.images).mean()) < 0.8 * float(loss_of(alone.images).mean())


def test_query_count_is_exact_and_costs_no_more_than_announced(priors):
    for stages, used in ((1, 1), (3, 2)):
        view = view_of()
        config = IfGmiConfig(stages=stages, stage_steps=5, candidates=2, transforms=3, averaged=2, **QUICK)
        attack = IfGmi(config)
        attack.invert(view, priors["dcgan"], ROWS, CTX, ())
        assert view.counter.backward == 8 * 2 * (12 + 5 * used)
        assert view.counter.forward == 60 + 8 * 2 * (12 + 5 * used) + 8 * 3
        cost = attack.cost(2, 2, 6)
        assert (cost.forward, cost.backward) == (60 + 16 * (12 + 5 * stages) + 24, 16 * (12 + 5 * stages))


def test_the_budget_ends_a_part_and_its_pictures_are_kept(priors):
    config = IfGmiConfig(stage_steps=6, **QUICK)
    budget = 60 + 4 * 12 + 4 * 3
    view = view_of(max_queries=budget)
    result = IfGmi(config).invert(view, priors["dcgan"], ROWS, CTX, (0.0, 0.5, 1.0))
    assert view.counter.forward == budget
    assert not result.complete
    assert result.notes == ["the query budget ended the descent after 3 of 6 steps"]
    latent = IfGmi(config.model_copy(update={"stages": 0})).invert(view_of(), priors["dcgan"], ROWS, CTX, ())
    assert not torch.equal(result.images, latent.images)
    assert torch.equal(result.snapshots[0].images, result.start)
    assert torch.equal(result.snapshots[2].images, result.images)


def test_snapshots_run_through_all_parts(priors):
    prior, config = priors["dcgan"], IfGmiConfig(stage_steps=6, **QUICK)
    fracs = (0.0, 0.25, 0.5, 0.75, 1.0)
    result = IfGmi(config).invert(view_of(), prior, ROWS, CTX, fracs)
    pictures = [snapshot.images for snapshot in result.snapshots]
    assert [snapshot.frac for snapshot in result.snapshots] == list(fracs)
    assert torch.equal(pictures[0], result.start)
    assert torch.equal(pictures[4], result.images)
    latent = IfGmi(config.model_copy(update={"stages": 0})).invert(view_of(), prior, ROWS, CTX, (0.5,))
    assert torch.equal(pictures[1], latent.snapshots[0].images)  # a quarter of 24 steps is half of the latent's 12
    assert torch.equal(pictures[2], latent.images)
    assert len({picture.numpy().tobytes() for picture in pictures}) == 5


def test_chunks_do_not_change_a_row(priors):
    config = IfGmiConfig(stage_steps=5, **QUICK)
    whole = IfGmi(config).invert(view_of(), priors["vae"], ROWS, CTX, ())
    small = KeyedContext(attack_key="t", batch_size=3)
    chunked = IfGmi(config).invert(view_of(), priors["vae"], ROWS, small, ())
    torch.testing.assert_close(chunked.images, whole.images, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("n_classes", "loss"), [(49, "cross-entropy"), (50, "poincare")])
def test_few_classes_take_cross_entropy(n_classes, loss, monkeypatch):
    chosen = []
    monkeypatch.setattr("auditor.attacks.ppa.identity", chosen.append)
    view = narrow(ToyTarget(toy_templates(n_classes)), Access.WHITE_BOX)
    IfGmi(IfGmiConfig())._identity(view, ROWS)
    assert chosen == [IDENTITY_LOSSES[loss]]


def test_ppas_adaptive_options_are_its_own_too():
    assert not IfGmi(IfGmiConfig()).adaptive
    assert IfGmi(IfGmiConfig(averaged=4, erase=0.3)).adaptive
