"""What the cards of C2FMI, RLB-MI and SMILE ask for."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.attacks.c2fmi import C2fmi, C2fmiConfig
from auditor.attacks.catalog import ATTACKS
from auditor.attacks.long_tailed import Experts, Imitation, class_weights
from auditor.attacks.rlb_mi import FLOOR, Best, RlbMi, RlbMiConfig, reward
from auditor.attacks.score_map import Components, ScoreMap
from auditor.attacks.smile import Smile, SmileConfig
from auditor.contracts.access import Access
from auditor.priors.base import sample_latents
from auditor.priors.quality import sample_images
from auditor.targets.views import narrow
from auditor.tensors import RunContext
from auditor.testing import ToyPrior, ToyTarget, toy_templates

K = 8
TEMPLATES = toy_templates(K)
TARGET = ToyTarget(TEMPLATES, sharpness=2.0)
CTX = RunContext()
C2FMI = {"components": 8, "epochs": 10, "candidates": 6, "kept": 4, "population": 8, "generations": 6}
SMILE = {
    "pool": 300,
    "epochs": 12,
    "batch_size": 32,
    "lr": 5e-3,
    "width": 8,
    "steps": 20,
    "queries": 61,
    "children": 10,
}
RLB = {"steps": 60, "width": 32, "batch_size": 32}


def public(n=300):
    return sample_images(ToyPrior(TEMPLATES), n, torch.Generator().manual_seed(9), CTX)


def attack_with(attack, *, prior=None, budget=None, fracs=(), classes=(0, 3, 6), samples=2, change=lambda aids: None):
    """Result, view of the attack and view of its preparation."""
    prior = prior or ToyPrior(TEMPLATES)
    training, view = narrow(TARGET, Access.SCORE), narrow(TARGET, Access.SCORE, max_queries=budget)
    aids = attack.prepare(training, prior, public(), CTX)
    if aids is not None:
        change(aids)
    result = attack.run(view, prior, classes, samples, CTX, snapshot_fracs=fracs, aids=aids)
    return result, view, training


def loss_of(images, labels):
    with torch.no_grad():
        return float(cross_entropy(TARGET.logits(images), labels))


@pytest.mark.parametrize(("name", "params"), [("c2fmi", C2FMI), ("smile", SMILE), ("rlb-mi", RLB)])
def test_a_conditional_prior_is_told_the_class(name, params):
    result, *_ = attack_with(ATTACKS.build(name, params), prior=ToyPrior(TEMPLATES, conditional=True))
    assert result.complete
    assert float(result.end_confidence.mean()) > float(result.start_confidence.mean())


@pytest.mark.parametrize(("name", "params"), [("c2fmi", C2FMI), ("smile", SMILE), ("rlb-mi", RLB)])
def test_confidence_never_falls_along_the_way(name, params):
    result, *_ = attack_with(ATTACKS.build(name, params), fracs=(0.25, 0.5, 0.75, 1.0))
    losses = torch.stack(
        [cross_entropy(TARGET.logits(s.images), result.labels, reduction="none") for s in result.snapshots]
    ).detach()
    assert bool((losses[1:] <= losses[:-1] + 1e-5).all())
    assert float(losses[-1].mean()) < float(losses[0].mean())


@pytest.mark.parametrize(("name", "params"), [("c2fmi", C2FMI), ("smile", SMILE)])
def test_without_its_helper_networks_an_attack_says_so(name, params):
    with pytest.raises(ValueError, match="prepare"):
        ATTACKS.build(name, params).run(narrow(TARGET, Access.SCORE), ToyPrior(TEMPLATES), (0,), 1, CTX)


# C2FMI


def test_c2fmi_coarse_stage_asks_nothing_and_still_comes_closer():
    result, view, _ = attack_with(C2fmi(C2fmiConfig(**C2FMI)), budget=0, fracs=(0.0, 1.0), classes=tuple(range(K)))
    assert view.counter.forward == 0
    assert float(result.end_confidence.mean()) > 2 * float(result.start_confidence.mean())
    assert not result.complete


def test_c2fmi_asks_about_each_public_image_once_and_counts_exactly():
    attack = C2fmi(C2fmiConfig(**C2FMI))
    result, view, training = attack_with(attack)
    assert training.counter.forward == 300
    assert view.counter.forward == 6 * (6 + 4 + 8 * 6) == attack.cost(3, 2, K).forward
    assert view.counter.backward == 0
    assert result.complete
    capped = C2fmi(C2fmiConfig(**C2FMI, public_images=100))
    assert attack_with(capped)[2].counter.forward == 100


def test_c2fmi_population_may_be_the_candidates_alone():
    _, view, _ = attack_with(C2fmi(C2fmiConfig(**C2FMI | {"kept": 9, "candidates": 9})))
    assert view.counter.forward == 6 * (9 + 8 * 6)


def test_embedding_has_unit_deviations_on_public_images():
    images = public()
    embedder = Components((1, 8, 8), 5)
    embedder.fit(images, seed=0)
    embedded = embedder(images)
    torch.testing.assert_close(embedded.mean(dim=0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(embedded.std(dim=0), torch.ones(5), atol=0.02, rtol=0)


def test_embedding_ignores_directions_that_public_images_lack():
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + torch.einsum("nk,kchw->nchw", torch.randn(50, 3, generator=generator), TEMPLATES[:3] - 0.5) / 10
    embedder = Components((1, 8, 8), 12)
    embedder.fit(images, seed=0)
    assert int((embedder(public(4)).abs().amax(dim=0) > 0).sum()) == 3
    few = Components((1, 8, 8), 12)
    few.fit(public(3), seed=0)
    assert bool(few(public(4)).isfinite().all())


def test_score_map_reads_a_certain_answer_as_the_class_alone():
    score_map = ScoreMap(K, 5, 16, top=3)
    score_map.floor.fill_(-6.0)
    answers = torch.full((2, K), -40.0)
    answers[0, 2] = answers[1, 5] = 0.0
    torch.testing.assert_close(score_map.certain(torch.tensor([2, 5])), score_map(answers))
    assert not torch.allclose(score_map(answers)[0], score_map(answers)[1])


def test_score_map_looks_at_the_top_scores_only():
    score_map = ScoreMap(K, 5, 16, top=2)
    score_map.floor.fill_(-50.0)
    scores = torch.linspace(-1, -8, K)[None]
    other = scores.clone()
    other[0, 5] = -7.5
    torch.testing.assert_close(score_map(scores), score_map(other))


# SMILE


def test_smile_queries_are_the_shared_pool_and_what_each_row_may_spend():
    attack = Smile(SmileConfig(**SMILE))
    result, view, training = attack_with(attack)
    assert training.counter.forward == 300
    assert view.counter.forward == 6 * 61 == attack.cost(3, 2, K).forward
    assert result.complete
    odd = Smile(SmileConfig(**SMILE | {"queries": 48}))
    assert attack_with(odd)[1].counter.forward == 6 * 41


def test_smile_takes_the_surrogates_picture_when_the_target_agrees():
    result, view, _ = attack_with(Smile(SmileConfig(**SMILE | {"queries": 1})), classes=tuple(range(K)))
    assert view.counter.forward == 2 * K
    assert bool((result.end_confidence >= result.start_confidence - 1e-6).all())
    assert int((result.end_confidence > result.start_confidence + 1e-3).sum()) > K


def test_smile_refuses_a_surrogate_that_leads_astray():
    def mislead(aids):
        for expert in aids["surrogate"].experts:
            expert[-1].weight.data.neg_()

    attack = Smile(SmileConfig(**SMILE | {"queries": 1}))
    result, *_ = attack_with(attack, classes=tuple(range(K)), change=mislead)
    assert bool((result.end_confidence >= result.start_confidence - 1e-6).all())
    assert int((result.end_confidence == result.start_confidence).sum()) > K


def test_smile_starts_from_the_pool_members_the_target_likes_best():
    result, *_ = attack_with(Smile(SmileConfig(**SMILE)), samples=3)
    confidence = result.start_confidence.view(3, 3)
    assert bool((confidence[:, :-1] >= confidence[:, 1:]).all())
    random = ToyPrior(TEMPLATES).decode(sample_latents(ToyPrior(TEMPLATES), 9, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        unguided = TARGET.logits(random).softmax(dim=1).gather(1, result.labels[:, None])
    assert float(confidence.mean()) > 2 * float(unguided.mean())


def test_smile_surrogate_agrees_with_the_target_on_fresh_samples():
    aids = Smile(SmileConfig(**SMILE)).prepare(narrow(TARGET, Access.SCORE), ToyPrior(TEMPLATES), public(), CTX)
    fresh = sample_images(ToyPrior(TEMPLATES), 400, torch.Generator().manual_seed(77), CTX)
    with torch.no_grad():
        guessed = aids["surrogate"](fresh).mean(dim=0).argmax(dim=1)
        agreement = float((guessed == TARGET.logits(fresh).argmax(dim=1)).float().mean())
    assert agreement > 0.5


def imitation(**options):
    return Imitation(epochs=1, batch_size=4, lr=1e-3, **{"hard_weight": 0.15, "diversity_weight": 0.0} | options)


def test_sample_weights_act_sample_by_sample():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, K, generator=generator, requires_grad=True)
    scores = torch.randn(4, K, generator=generator).log_softmax(dim=1)
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0])
    (weighted,) = torch.autograd.grad(imitation().loss(logits, scores, weights), logits)
    (plain,) = torch.autograd.grad(imitation().loss(logits, scores, torch.ones(4)), logits)
    torch.testing.assert_close(weighted, plain * weights[None, :, None])
    assert float(plain.abs().min()) > 0


def test_imitation_is_complete_when_the_scores_are_equal_and_diversity_rewards_distance():
    scores = torch.randn(4, K, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    alike = scores.expand(3, 4, K)
    assert float(imitation(hard_weight=0.0).loss(alike, scores, torch.ones(4))) == pytest.approx(0.0, abs=1e-5)
    noise = torch.randn(3, 4, K, generator=torch.Generator().manual_seed(1))
    diverse = imitation(hard_weight=0.0, diversity_weight=1.0)
    price = [float(diverse.loss(each, scores, torch.zeros(4))) for each in (alike + 0.1 * noise, alike + noise)]
    assert price[0] > price[1]


def test_rare_classes_weigh_more():
    winners = torch.tensor([0] * 20 + [1] * 3)
    scores = torch.full((23, K), -9.0).scatter(1, winners[:, None], 0.0)
    weights = class_weights(scores)
    assert float(weights[0]) == pytest.approx(0.1 / (1 - 0.9**21), rel=1e-4)
    assert float(weights[1]) == pytest.approx(0.1 / (1 - 0.9**4), rel=1e-4)
    assert float(weights[2]) == pytest.approx(1.0, rel=1e-4)


def test_experts_share_a_trunk_and_differ():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        experts = Experts(3, K, 4).eval()
    opinions = experts(torch.rand(2, 3, 13, 9, generator=torch.Generator().manual_seed(0)))
    assert opinions.shape == (3, 2, K)
    assert not torch.allclose(opinions[0], opinions[1])


# RLB-MI


def test_reward_is_finite_for_a_losing_class_and_follows_its_formula():
    log_probs = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [1.0, 0.0, 0.0]]).log().clamp_min(-90)
    values = reward(log_probs, torch.zeros(3, dtype=torch.int64))
    expected = [4 * math.log(0.7) + 8 * math.log(0.5), 4 * math.log(0.2) + 8 * math.log(FLOOR), 0.0]
    torch.testing.assert_close(values, torch.tensor(expected) / 12)
    assert bool(reward(torch.full((1, 3), -200.0), torch.zeros(1, dtype=torch.int64)).isfinite().all())


@pytest.fixture
def scored(monkeypatch):
    """Every (log-probabilities of the class, reward) of a run, in order."""
    seen = []

    def spy(log_probs, labels):
        value = reward(log_probs, labels)
        seen.append((log_probs.gather(1, labels[:, None]).squeeze(1), value))
        return value

    monkeypatch.setattr("auditor.attacks.rlb_mi.reward", spy)
    return seen


def test_rlb_agents_earn_more_at_the_end(scored):
    attack_with(RlbMi(RlbMiConfig(**RLB | {"steps": 200})), classes=tuple(range(K)))
    rewards = torch.stack([value for _, value in scored]).mean(dim=1)
    assert float(rewards[-20:].mean()) > float(rewards[:20].mean()) + 1.0


def test_rlb_keeps_the_best_of_everything_it_scored(scored):
    result, view, _ = attack_with(RlbMi(RlbMiConfig(**RLB)))
    best = torch.stack([scores for scores, _ in scored]).view(-1, 6, 4).amax(dim=(0, 2))
    torch.testing.assert_close(result.end_confidence, best.exp(), atol=1e-4, rtol=0)
    assert view.counter.forward == 6 * 4 * 60


def test_rlb_sends_no_gradient_through_prior_or_target():
    prior, enabled = ToyPrior(TEMPLATES), []
    draw = prior.decode
    prior.decode = lambda latents, labels=None: enabled.append(torch.is_grad_enabled()) or draw(latents, labels)
    _, view, _ = attack_with(RlbMi(RlbMiConfig(**RLB)), prior=prior)
    assert enabled
    assert not any(enabled)
    assert view.counter.backward == 0


def test_rlb_latents_stay_within_reach():
    prior, seen = ToyPrior(TEMPLATES), []
    draw = prior.decode
    prior.decode = lambda latents, labels=None: seen.append(float(latents.abs().max())) or draw(latents, labels)
    attack_with(RlbMi(RlbMiConfig(**RLB | {"reach": 0.5, "steps": 5})), prior=prior)
    assert max(seen[:5]) <= 0.5


def test_the_best_is_replaced_by_better_offers_only():
    best = Best(torch.zeros(2, 1))
    best.offer(torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.tensor([[-1.0, -2.0], [-5.0, -4.0]]))
    assert best.latents.flatten().tolist() == [1.0, 4.0]
    best.offer(torch.tensor([[[7.0]], [[8.0]]]), torch.tensor([[-1.5], [-0.5]]))
    assert best.latents.flatten().tolist() == [1.0, 8.0]
    assert best.scores.tolist() == [-1.0, -0.5]
