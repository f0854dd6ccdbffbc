"""Attacks on a cut model: the rules every attack keeps, and what each paper promises, on a network of three layers."""

import hashlib
import math

import pytest
import torch
from torch import nn

from auditor.attacks.base import Rows
from auditor.attacks.catalog import ATTACKS
from auditor.attacks.split.catalog import SPLIT_ATTACKS, catalog_of
from auditor.attacks.split.matching import relative_error, standardised_error, total_variation
from auditor.attacks.split.networks import AsMap, Decoder, Shadow
from auditor.attacks.split.query_free import uninformative
from auditor.contracts.access import Access
from auditor.errors import AccessDenied, Cancelled, InvalidInput
from auditor.evaluation.split_metrics import psnr
from auditor.targets.split import SplitTarget, cut_points, split_at
from auditor.targets.torch_target import TorchTarget
from auditor.targets.views import Knowledge, QueryCounter, SplitView
from auditor.tensors import RunContext
from auditor.testing import toy_templates
from auditor.testing.toy import toy_card

SHAPE, K = (1, 8, 8), 6
DECODER = {"width": 16, "blocks": 1, "steps": 200, "batch": 32}
QUICK = {
    "inverse-network": {"decoder": DECODER},
    "rmle": {"decoder": DECODER, "steps": 60},
    "query-free": {"width": 8, "shadow_steps": 40, "steps": 40},
}
PUBLIC = toy_templates(400, SHAPE, seed=11)
PRIVATE = toy_templates(K, SHAPE, seed=5)
every_attack = pytest.mark.parametrize("name", SPLIT_ATTACKS.names)


class Unchanged(nn.Module):
    """The image itself, through an operation that derivatives see."""

    def forward(self, x):
        return x * 1.0


def network(seed=0):
    torch.manual_seed(seed)
    head = nn.Linear(10, K)
    head.weight.data *= 20  # sure of itself, as a trained network is
    return nn.Sequential(
        Unchanged(),
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(48, 10), nn.ReLU(),
        head,
    )  # fmt: skip


NETWORK = network()
TARGET = TorchTarget(NETWORK, toy_card(n_classes=K, image_shape=SHAPE))
IDENTITY, SHALLOW, MIDDLE, DEEP = "0", "2", "6", "9"


class Watched:
    """A split target that remembers every image its device was given."""

    def __init__(self, split):
        self._split, self.seen = split, []
        for name in ("point", "n_classes", "image_shape", "tail"):
            setattr(self, name, getattr(split, name))

    def encode(self, images):
        self.seen.append(images.detach().clone())
        return self._split.encode(images)


def view_of(name, split, budget=None):
    return SplitView(split, SPLIT_ATTACKS.get(name).knowledge, QueryCounter(limit=budget))


def rows(labels, sample=None):
    labels = torch.tensor(labels)
    return Rows(labels, torch.zeros_like(labels) if sample is None else torch.tensor(sample))


def seen(split, index):
    with torch.no_grad():
        return split.encode(PRIVATE[index]).clone()


_AIDS = {}


def aids_of(name, layer, params, seed=0):
    """Helper networks trained once per test run."""
    attack = SPLIT_ATTACKS.build(name, params)
    key = (layer, seed, name, repr(params))
    if key not in _AIDS:
        _AIDS[key] = attack.prepare(view_of(name, split_at(TARGET, layer)), PUBLIC, RunContext(seed=seed))
    return _AIDS[key]


def run(name, *, layer=SHALLOW, index=range(K), seed=0, batch=512, budget=None, activations=None, **params):
    params = QUICK[name] | params
    split = split_at(TARGET, layer)
    index = list(index)
    attack, view = SPLIT_ATTACKS.build(name, params), view_of(name, split, budget)
    activations = seen(split, index) if activations is None else activations
    context = RunContext(seed=seed, batch_size=batch)
    result = attack.run(view, activations, rows(index), context, aids=aids_of(name, layer, params, seed))
    return result, view


def quality(result, index=range(K)):
    return float(psnr(result.images, PRIVATE[list(index)]).mean())


MEAN_IMAGE = float(psnr(PUBLIC.mean(dim=0).expand_as(PRIVATE), PRIVATE).mean())


def digest(*tensors):
    return hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()


@every_attack
def test_every_entry_is_documented(name):
    entry = SPLIT_ATTACKS.get(name)
    assert entry.__doc__
    assert "Departures:" in entry.__doc__
    assert entry.access is Access.SPLIT
    row = next(row for row in SPLIT_ATTACKS.describe() if row["name"] == name)
    assert set(row["parameters"]) == set(entry.Config.model_fields)


def test_the_two_catalogs_share_no_name():
    assert not set(SPLIT_ATTACKS.names) & set(ATTACKS.names)
    assert catalog_of("rmle") is SPLIT_ATTACKS
    assert catalog_of("ppa") is catalog_of("no-such") is ATTACKS


@every_attack
def test_another_knowledge_is_refused(name):
    attack, split = SPLIT_ATTACKS.build(name, QUICK[name]), split_at(TARGET, SHALLOW)
    for knowledge in set(Knowledge) - {attack.knowledge}:
        with pytest.raises(AccessDenied, match=str(attack.knowledge)):
            attack.run(SplitView(split, knowledge, QueryCounter()), seen(split, [0]), rows([0]), RunContext())
        with pytest.raises(AccessDenied):
            attack.prepare(SplitView(split, knowledge, QueryCounter()), PUBLIC, RunContext())


@every_attack
@pytest.mark.parametrize("budget", [0, 1, 100])
def test_budget_is_never_passed_and_the_partial_result_is_typed(name, budget):
    result, view = run(name, budget=budget)
    assert view.counter.forward <= budget
    assert result.images.shape == (K, *SHAPE)
    assert bool(torch.isfinite(result.images).all())
    asks = view.knowledge is Knowledge.ENCODER  # the others ask nothing once their networks are trained
    assert result.complete is not asks
    assert any("budget" in note for note in result.notes) is asks


@every_attack
def test_a_row_does_not_depend_on_batch_size_or_on_the_other_rows(name):
    whole, _ = run(name)
    chunked, _ = run(name, batch=2)
    alone, _ = run(name, index=[4])
    swapped, _ = run(name, index=[4, 1])
    torch.testing.assert_close(chunked.images, whole.images, atol=1e-4, rtol=0)
    torch.testing.assert_close(alone.images, whole.images[4:5], atol=1e-4, rtol=0)
    torch.testing.assert_close(swapped.images, whole.images[[4, 1]], atol=1e-4, rtol=0)


@every_attack
def test_same_seed_same_bytes_and_another_seed_others(name):
    params = QUICK[name]
    split = split_at(TARGET, SHALLOW)
    attack = SPLIT_ATTACKS.build(name, params)

    def state(seed):
        aids = attack.prepare(view_of(name, split), PUBLIC[:64], RunContext(seed=seed))
        return digest(*aids.state_dict().values())

    assert state(0) == state(0) != state(1)
    assert digest(run(name)[0].images) == digest(run(name)[0].images)


@every_attack
def test_range_shape_and_start(name):
    """What each attack is measured from: rMLE is not credited with what the decoder drew."""
    result, _ = run(name)
    assert result.images.dtype == torch.float32
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1
    start = run("inverse-network")[0].images if name == "rmle" else PUBLIC.mean(dim=0).expand(K, *SHAPE)
    torch.testing.assert_close(result.start, start, atol=1e-6, rtol=0)


def test_a_descent_that_hardly_steps_adds_nothing_to_what_it_started_from():
    idle, _ = run("rmle", steps=2, lr=1e-9)
    assert quality(idle) > MEAN_IMAGE + 3  # the decoder's doing
    torch.testing.assert_close(idle.images, idle.start, atol=1e-6, rtol=0)


@every_attack
def test_target_is_left_as_it_was_and_global_randomness_untouched(name):
    before = digest(*NETWORK.state_dict().values())
    torch.manual_seed(1)
    run(name)
    SPLIT_ATTACKS.build(name, QUICK[name]).prepare(view_of(name, split_at(TARGET, SHALLOW)), PUBLIC[:64], RunContext())
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    assert digest(*NETWORK.state_dict().values()) == before
    assert all(parameter.grad is None for parameter in NETWORK.parameters())
    assert not NETWORK.training
    assert not any(layer._forward_hooks for layer in NETWORK.modules())


@every_attack
def test_writes_no_files_prints_nothing_and_ticks_to_the_end(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    ticks = []
    context = RunContext(on_tick=lambda *tick: ticks.append(tick))
    split, attack = split_at(TARGET, SHALLOW), SPLIT_ATTACKS.build(name, QUICK[name])
    aids = attack.prepare(view_of(name, split), PUBLIC[:64], context)
    attack.run(view_of(name, split), seen(split, [0]), rows([0]), context, aids=aids)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert {stage for stage, *_ in ticks} >= {name}
    assert all(0 < done <= total for _, done, total in ticks)
    assert any(done == total for _, done, total in ticks)


@every_attack
def test_cancelling_stops_it(name):
    with pytest.raises(Cancelled):
        SPLIT_ATTACKS.build(name, QUICK[name]).prepare(
            view_of(name, split_at(TARGET, SHALLOW)), PUBLIC[:64], RunContext(is_cancelled=lambda: True)
        )


@every_attack
def test_wrong_shapes_and_parameters_are_refused(name):
    attack, split = SPLIT_ATTACKS.build(name, QUICK[name]), split_at(TARGET, SHALLOW)
    with pytest.raises(ValueError, match="expected activations"):
        attack.run(view_of(name, split), torch.zeros(1, 3), rows([0]), RunContext())
    with pytest.raises(InvalidInput, match="no_such"):
        SPLIT_ATTACKS.build(name, {"no_such": 1})


def test_rmle_on_an_encoder_that_changes_nothing_finds_the_image():
    result, _ = run("rmle", layer=IDENTITY, start="grey", steps=200, tv_weight=0.0)
    assert quality(result) > 40


def test_rmle_brings_the_features_nearer_and_beats_the_decoder_it_starts_from():
    split = split_at(TARGET, SHALLOW)
    wanted = seen(split, range(K)).flatten(1)
    decoded, _ = run("inverse-network")
    result, view = run("rmle")
    with torch.no_grad():
        first, last = (relative_error(split.encode(r.images).flatten(1), wanted).mean() for r in (decoded, result))
    assert float(last) < 0.5 * float(first)
    assert quality(result) > quality(decoded) + 1
    assert (view.counter.forward, view.counter.backward) == (60 * K, 60 * K)


def test_rmle_needs_no_public_image_when_it_starts_grey():
    attack = SPLIT_ATTACKS.build("rmle", {"start": "grey"})
    assert attack.aids(SHAPE, (8, 8, 8)) is None
    result, _ = run("rmle", start="grey")
    assert torch.equal(result.start, torch.full((K, *SHAPE), 0.5))
    assert quality(result) > MEAN_IMAGE + 3


def test_the_deeper_the_cut_the_less_comes_out():
    for name in ("inverse-network", "rmle"):
        shallow, middle, deep = (quality(run(name, layer=layer)[0]) for layer in (SHALLOW, MIDDLE, DEEP))
        assert shallow > middle + 1 > deep + 2, name


def test_more_weight_on_total_variation_gives_smoother_pictures():
    noise = torch.rand(K, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        activations = split_at(TARGET, SHALLOW).encode(noise)
    variation = [
        float(total_variation(run("rmle", start="grey", tv_weight=w, activations=activations)[0].images).mean())
        for w in (0.0, 0.5, 5.0)
    ]
    assert variation[0] > 1.2 * variation[1] > 1.4 * variation[2]


def test_the_inverse_network_beats_the_mean_image_at_a_shallow_cut():
    result, view = run("inverse-network")
    assert quality(result) > MEAN_IMAGE + 3
    assert view.counter.forward == 0
    assert SPLIT_ATTACKS.build("inverse-network", {}).adaptive


@pytest.mark.parametrize("name", ["inverse-network", "rmle"])
def test_the_decoder_is_shown_public_images_and_no_others(name):
    watched = Watched(split_at(TARGET, SHALLOW))
    attack = SPLIT_ATTACKS.build(name, {"decoder": DECODER | {"steps": 20}})
    view = view_of(name, watched)
    attack.prepare(view, PUBLIC, RunContext())
    allowed = {digest(image) for image in (*PUBLIC, *PUBLIC.flip(3))}
    given = [image for batch in watched.seen for image in batch]
    assert len(given) == view.counter.forward == 20 * DECODER["batch"]
    assert {digest(image) for image in given} <= allowed
    assert view.counter.backward == 0


def test_equal_recipes_give_one_decoder():
    one = SPLIT_ATTACKS.build("inverse-network", {"decoder": DECODER})
    other = SPLIT_ATTACKS.build("rmle", {"decoder": DECODER, "steps": 3})
    split = split_at(TARGET, SHALLOW)
    assert one.recipe == other.recipe
    states = [
        digest(*a.prepare(view_of(a.name, split), PUBLIC[:64], RunContext()).state_dict().values())
        for a in (one, other)
    ]
    assert states[0] == states[1]


def test_with_noise_for_activations_nothing_better_than_chance_comes_out():
    split = split_at(TARGET, SHALLOW)
    with torch.no_grad():
        typical = split.encode(PUBLIC)
    deviation, mean = typical.std(dim=0), typical.mean(dim=0)
    noise = torch.randn(K, *mean.shape, generator=torch.Generator().manual_seed(2)) * deviation + mean
    for name in ("inverse-network", "rmle"):
        result, _ = run(name, activations=noise)
        assert quality(result) < MEAN_IMAGE + 0.5, name
        assert quality(run(name)[0]) > quality(result) + 6, name


class _Blurred(nn.Module):
    """Fixed Gaussian noise on top of a linear view of the image: the best possible error is known in closed form."""

    def __init__(self, sigma):
        super().__init__()
        self.sigma = sigma
        self.seen = Unchanged()
        self.head = nn.Linear(64, K)

    def forward(self, x):
        return self.head(self.seen(x).flatten(1))


def test_no_decoder_beats_the_error_that_noise_allows():
    """Pixels x ~ N(1/2, s^2), observed as x + N(0, t^2): no estimator is under s^2 t^2 / (s^2 + t^2) per pixel.

    The bound exp(2 h(x|v)) / (2 pi e) is met with equality by a Gaussian, so this is the bound of Xia et al. too.
    """
    s, t = 0.12, 0.12
    generator = torch.Generator().manual_seed(0)
    public, private = ((0.5 + s * torch.randn(n, *SHAPE, generator=generator)).clamp(0, 1) for n in (2000, 200))
    target = TorchTarget(_Blurred(t), toy_card(n_classes=K, image_shape=SHAPE))
    clean = split_at(target, "seen")
    noise = torch.Generator().manual_seed(1)

    class Noisy(Watched):
        def encode(self, images):
            features = self._split.encode(images)
            return features + t * torch.randn(features.shape, generator=noise)

    noisy = Noisy(clean)
    attack = SPLIT_ATTACKS.build("inverse-network", {"decoder": DECODER | {"steps": 300}})
    aids = attack.prepare(view_of("inverse-network", noisy), public, RunContext())
    result = attack.run(
        view_of("inverse-network", noisy), noisy.encode(private), rows(range(200)), RunContext(), aids=aids
    )
    error = float((result.images - private).square().mean())
    bound = s**2 * t**2 / (s**2 + t**2)
    entropy = 0.5 * math.log(2 * math.pi * math.e * bound)
    assert bound == pytest.approx(math.exp(2 * entropy) / (2 * math.pi * math.e))
    assert error > 0.97 * bound
    assert error < s**2  # and it does better than not looking


def test_the_query_free_attack_never_asks_the_device():
    watched = Watched(split_at(TARGET, SHALLOW))
    attack = SPLIT_ATTACKS.build("query-free", QUICK["query-free"])
    activations = seen(split_at(TARGET, SHALLOW), [0, 1])
    aids = attack.prepare(view_of("query-free", watched), PUBLIC, RunContext())
    view = view_of("query-free", watched, budget=0)
    attack.run(view, activations, rows([0, 1]), RunContext(), aids=aids)
    assert watched.seen == []
    assert (view.counter.forward, view.counter.backward) == (0, 0)


def test_the_shadow_learns_to_make_the_tail_sure_of_different_classes():
    split = split_at(TARGET, SHALLOW)
    attack = SPLIT_ATTACKS.build("query-free", QUICK["query-free"] | {"shadow_steps": 200})
    with torch.random.fork_rng():
        blank = attack.aids(SHAPE, split.point.shape)
    trained = attack.prepare(view_of("query-free", split), PUBLIC, RunContext())
    with torch.no_grad():
        before, after = (uninformative(split.tail(a.eval()["shadow"](PUBLIC))) for a in (blank, trained))
    assert float(after) < float(before) - 0.3
    assert float(after) >= -math.log(K)


def test_the_query_free_pictures_come_nearer_to_the_features_of_the_shadow():
    split = split_at(TARGET, SHALLOW)
    aids = aids_of("query-free", SHALLOW, QUICK["query-free"])
    result, _ = run("query-free")
    wanted = seen(split, range(K)).flatten(1)
    with torch.no_grad():
        start, end = (standardised_error(aids["shadow"](x).flatten(1), wanted) for x in (result.start, result.images))
    assert bool((end < start).all())


def test_information_maximisation_is_least_when_sure_and_balanced():
    sure = torch.eye(4) * 50
    assert float(uninformative(sure)) == pytest.approx(-math.log(4), abs=1e-4)
    assert float(uninformative(torch.zeros(4, 4))) == pytest.approx(0, abs=1e-6)
    assert float(uninformative(sure[:1].expand(4, 4))) == pytest.approx(0, abs=1e-4)


def test_distances_and_variation_by_hand():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 0.0]])
    assert float(relative_error(a, b)) == pytest.approx(5 / 4)
    assert float(standardised_error(3 * a + 7, a)) == pytest.approx(0, abs=1e-6)
    image = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
    assert float(total_variation(image)) == pytest.approx((1 + 0) / 2 + (0.25 + 0.25) / 2)


@pytest.mark.parametrize(
    ("feature_shape", "image_shape"),
    [((8, 8, 8), (1, 8, 8)), ((12, 2, 2), (3, 17, 23)), ((10,), (1, 8, 8)), ((48, 1, 1), (3, 32, 32)),
     ((17, 6), (3, 32, 32)), ((16, 6), (3, 32, 32)), ((7, 7, 12), (3, 28, 28)), ((5, 3), (1, 16, 16))],
)  # fmt: skip
def test_networks_fit_any_shape_of_features(feature_shape, image_shape):
    features = torch.rand(2, *feature_shape)
    decoder = Decoder(feature_shape, image_shape, width=4, blocks=1).eval()
    assert decoder(features).shape == (2, *image_shape)
    shadow = Shadow(image_shape, feature_shape, width=4).eval()
    assert shadow(torch.rand(2, *image_shape)).shape == features.shape
    as_map = AsMap(feature_shape)
    assert as_map(features).shape == (2, *as_map.shape)
    back = as_map.back(as_map(features))
    tokens = as_map.side**2 if as_map.is_tokens else len(features[0])
    assert torch.equal(back[:, -tokens:], features[:, -tokens:])


def test_cuts_of_the_test_network():
    names = [point.name for point in cut_points(TARGET)]
    assert names == [str(i) for i in range(10)]
    assert isinstance(split_at(TARGET, MIDDLE), SplitTarget)
