"""What each paper's own card asks for."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.attacks.augment import SELECT
from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.catalog import ATTACKS
from auditor.attacks.gmi import Gmi, GmiConfig
from auditor.attacks.mirror_b import MirrorB, MirrorBConfig
from auditor.attacks.objectives import max_margin, poincare
from auditor.attacks.ppa import Ppa, PpaConfig
from auditor.attacks.rows import Chunks
from auditor.attacks.selection import best_per_class, robust_confidence
from auditor.contracts.access import Access
from auditor.priors.base import sample_latents
from auditor.priors.vae import VaeBuilder, VaeConfig
from auditor.targets.architectures import SmallCnn
from auditor.targets.views import WhiteBoxView, narrow
from auditor.tensors import RunContext
from auditor.testing import ToyPrior, ToyTarget, toy_card, toy_images, toy_templates

TEMPLATES = toy_templates(6)
ROWS = Rows(torch.tensor([0, 0, 3, 3]), torch.tensor([0, 1, 0, 1]))
CTX = KeyedContext(attack_key="t")


def toy_view(access=Access.WHITE_BOX, **options):
    return narrow(ToyTarget(TEMPLATES, sharpness=2.0), access, **options)


class Decoded(ToyPrior):
    """Remembers every latent it was asked to draw."""

    def __init__(self, **options):
        super().__init__(TEMPLATES, has_critic=True, **options)
        self.seen = []

    def decode(self, latents, labels=None):
        self.seen.append(latents.detach().clone())
        return super().decode(latents)


def test_gmi_latents_end_within_the_clip():
    prior = Decoded()
    Gmi(GmiConfig(steps=50)).invert(toy_view(), prior, ROWS, CTX, ())
    assert float(prior.seen[-1].abs().max()) <= 1.0
    assert float(prior.seen[0].abs().max()) > 1.0


def test_gmi_does_not_make_pictures_less_real():
    prior = ToyPrior(TEMPLATES, latent_dim=12, has_critic=True)
    result = Gmi(GmiConfig(steps=100)).invert(toy_view(), prior, ROWS, CTX, ())
    before, after = prior.critic(result.start), prior.critic(result.images)
    assert float(after.mean()) >= float(before.mean()) - 0.1


def test_gmi_cross_entropy_falls_to_a_tenth():
    view = toy_view()
    result = Gmi(GmiConfig(steps=300)).invert(view, ToyPrior(TEMPLATES, has_critic=True), ROWS, CTX, ())
    with torch.no_grad():
        start, end = (cross_entropy(view.logits(images), ROWS.labels) for images in (result.start, result.images))
    assert float(end) <= 0.1 * float(start)


def test_gmi_step_does_not_depend_on_the_number_of_rows():
    prior = ToyPrior(TEMPLATES, has_critic=True)
    many = Gmi(GmiConfig(steps=40)).invert(toy_view(), prior, ROWS, CTX, ()).images
    one = Rows(ROWS.labels[3:], ROWS.sample[3:])
    torch.testing.assert_close(Gmi(GmiConfig(steps=40)).invert(toy_view(), prior, one, CTX, ()).images, many[3:])


def test_ppa_starts_from_latents_the_target_likes():
    view, prior = toy_view(), ToyPrior(TEMPLATES)
    result = Ppa(PpaConfig(pool=500, steps=1)).invert(view, prior, ROWS, CTX, ())
    random = prior.decode(sample_latents(prior, 4, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        chosen, unguided = (cross_entropy(view.logits(images), ROWS.labels) for images in (result.start, random))
    assert float(chosen) < 0.5 * float(unguided)


def test_ppa_selection_is_never_below_the_unselected():
    view, prior = toy_view(), ToyPrior(TEMPLATES)
    settings = {"pool": 200, "steps": 5, "transforms": 16}
    attack = Ppa(PpaConfig(candidates=4, **settings))
    tried = attack._candidates(ROWS)
    everything = Ppa(PpaConfig(candidates=1, **settings)).invert(view, prior, tried, CTX, ()).images
    kept = attack.invert(view, prior, ROWS, CTX, ()).images
    scores = robust_confidence(
        view, everything, tried, transforms=16, ranges=SELECT, chunks=Chunks(CTX), ctx=CTX, stage="s"
    )
    chosen = best_per_class(scores, tried, ROWS)
    torch.testing.assert_close(kept, everything[chosen])
    for label in (0, 3):
        assert float(scores[chosen][ROWS.labels == label].mean()) >= float(scores[tried.labels == label].mean())


def test_ppa_candidates_are_distinct_and_numbered_within_their_class():
    tried = Ppa(PpaConfig(candidates=3))._candidates(ROWS)
    assert tried.labels.tolist() == [0] * 6 + [3] * 6
    assert tried.sample.tolist() == [*range(6), *range(6)]


@pytest.mark.parametrize(("n_classes", "expected"), [(49, max_margin), (50, poincare)])
def test_ppa_takes_max_margin_below_fifty_classes(n_classes, expected, monkeypatch):
    chosen = []
    monkeypatch.setattr("auditor.attacks.ppa.identity", lambda loss: chosen.append(loss) or (lambda scene: 0))

    target = ToyTarget(toy_templates(n_classes))
    view = WhiteBoxView(target, toy_view().counter)
    Ppa(PpaConfig())._objective(view, ToyPrior(TEMPLATES), ROWS, CTX)
    assert chosen == [expected]


def test_ppa_averaging_makes_it_adaptive_and_costs_that_many_queries():
    prior = ToyPrior(TEMPLATES)
    queries = {}
    for averaged in (1, 3):
        view = toy_view()
        attack = Ppa(PpaConfig(pool=50, steps=10, candidates=1, averaged=averaged))
        attack.invert(view, prior, ROWS, CTX, ())
        queries[averaged] = view.counter.forward
        assert attack.adaptive == (averaged > 1)
        assert view.counter.backward == 4 * averaged * 10
    assert queries == {1: 50 + 40, 3: 50 + 120}


def test_ppa_query_count_is_exact():
    view = toy_view()
    Ppa(PpaConfig(pool=50, steps=10, candidates=2, transforms=7)).invert(view, ToyPrior(TEMPLATES), ROWS, CTX, ())
    assert view.counter.forward == 50 + 8 * 10 + 8 * 7


def test_mirror_b_query_count_is_exact():
    view = toy_view(Access.SCORE)
    config = MirrorBConfig(pool=80, population=10, generations=7, stop_confidence=1.0)
    MirrorB(config).invert(view, ToyPrior(TEMPLATES), ROWS, CTX, ())
    assert view.counter.forward == 80 + 4 * 9 * 7
    assert view.counter.backward == 0


def test_mirror_b_confidence_never_falls_along_the_way():
    view = toy_view(Access.SCORE)
    config = MirrorBConfig(pool=80, population=10, generations=20, stop_confidence=1.0)
    result = MirrorB(config).invert(view, ToyPrior(TEMPLATES), ROWS, CTX, (0.0, 0.25, 0.5, 0.75, 1.0))
    along = torch.stack(
        [view.log_probs(snapshot.images).gather(1, ROWS.labels[:, None])[:, 0] for snapshot in result.snapshots]
    )
    assert bool((along[1:] >= along[:-1] - 1e-6).all())
    assert float(along[-1].mean()) > float(along[0].mean())


def test_measuring_confidence_is_not_booked_as_queries():
    attack = ATTACKS.build("best-of-prior", {"pool": 30})
    view = toy_view(Access.SCORE, max_queries=30)
    result = attack.run(view, ToyPrior(TEMPLATES), (0, 1), 2, RunContext())
    assert view.counter.forward == 30
    assert view.counter.limit == 30
    assert result.complete


def small_setting():
    templates = toy_templates(4, (3, 16, 16))
    public = toy_images(templates, 40, noise=0.1)
    prior = VaeBuilder(VaeConfig(latent_dim=8, width=8, steps=30)).train(public, RunContext(batch_size=64))
    torch.manual_seed(0)
    network = SmallCnn(4, 3, (8, 8)).eval().requires_grad_(False)

    class Target:
        n_classes, image_shape, module = 4, (3, 16, 16), network
        card = toy_card(n_classes=4, image_shape=(3, 16, 16))

        def logits(self, images):
            return network(images)

    return Target(), prior


@pytest.mark.filterwarnings("ignore")
def test_bf16_stays_close_to_fp32():
    with torch.random.fork_rng():
        target, prior = small_setting()
    attack = Ppa(PpaConfig(pool=64, steps=20, candidates=1))
    results = [
        attack.run(narrow(target, Access.WHITE_BOX), prior, (0, 1, 2, 3), 2, RunContext(autocast_bf16=bf16))
        for bf16 in (False, True)
    ]
    assert all(result.images.dtype == torch.float32 for result in results)
    losses = [float(cross_entropy(target.logits(result.images), result.labels)) for result in results]
    assert losses[1] == pytest.approx(losses[0], rel=0.15, abs=0.05)
    assert float((results[0].images - results[1].images).abs().mean()) < 0.05
