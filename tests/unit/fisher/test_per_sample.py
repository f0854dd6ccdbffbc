import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy

from auditor.contracts.plan import FisherSpec
from auditor.errors import AuditorError, Cancelled
from auditor.fisher.diagonal import FisherScorer, exact_cotangents, sampled_cotangents, target_cotangents
from auditor.fisher.per_sample import SquaredGradients
from auditor.fisher.units import execution_units
from auditor.tensors import RunContext


class Mixed(nn.Module):
    """Every kind of layer that has a rule, in-place activations included."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.group = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.prelu = nn.PReLU(8)
        self.point = nn.Conv2d(8, 6, 1)
        self.groupnorm = nn.GroupNorm(2, 6)
        self.tokens = nn.Linear(6, 5)
        self.layernorm = nn.LayerNorm(5)
        self.offset = nn.Parameter(torch.randn(5))
        self.scale = nn.Parameter(torch.rand(1, 1, 5) + 0.5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        y = self.act(self.stem(x))
        y = y + self.prelu(self.norm(self.group(y)))
        y = self.groupnorm(self.point(y)).flatten(2).transpose(1, 2)
        y = self.layernorm(self.tokens(y)) * self.scale + self.offset
        return self.head(y.mean(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    module = Mixed()
    module.norm.running_mean.normal_()
    module.norm.running_var.uniform_(0.5, 2)
    return module.eval()


def images(n, seed=0):
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def score(module, x, *, batch_size=4, engine=None, seed=0, spec=None):
    units = execution_units(module, x[:1])
    scorer = FisherScorer(module, lambda t: t, units, RunContext(batch_size=batch_size, seed=seed), engine=engine)
    return scorer.true(x, spec or FisherSpec())[0], scorer.gradients.engine


def slow_fisher(module, x):
    """Definition, word by word: for each image and class, backward, square, weight, sum."""
    units, rows = execution_units(module, x[:1]), []
    parameters = dict(module.named_parameters())
    for image in x:
        row = torch.zeros(2, len(units), dtype=torch.float64)
        probabilities = module(image[None]).softmax(1)[0].detach()
        for label, p in enumerate(probabilities):
            module.zero_grad()
            cross_entropy(module(image[None]), torch.tensor([label])).backward()
            for index, unit in enumerate(units):
                for name in unit.parameters:
                    g2 = parameters[name].grad.double() ** 2
                    row[0, index] += p * g2.sum()
                    row[1, index] += p * (parameters[name].detach().double() ** 2 * g2).sum()
        rows.append(row)
    module.zero_grad()
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("engine", ["layerwise", "functional", "loop"])
def test_every_engine_equals_the_slow_definition(network, engine):
    x = images(5)
    expected = slow_fisher(network, x)
    found, used = score(network, x, engine=engine)
    assert used == engine
    torch.testing.assert_close(found.squared, expected[0], rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(found.relative, expected[1], rtol=1e-5, atol=1e-12)


def test_the_fast_engine_is_chosen_where_it_agrees(network):
    assert score(network, images(5))[1] == "layerwise"


class Reused(nn.Module):
    """One layer applied twice: squares of its two gradients do not add up to the square of their sum."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(432, 6)
        self.again = nn.Linear(6, 6)

    def forward(self, x):
        return self.again(torch.tanh(self.again(torch.tanh(self.stem(x.flatten(1))))))


class Folded(nn.Module):
    """Moves the batch into dimension 1, so that layer rules would mix samples up."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(36, 6)
        self.head = nn.Linear(18, 4)

    def forward(self, x):
        y = self.stem(x.reshape(len(x), 4, 3, 36).sum(2).permute(1, 0, 2))  # (4, B, 6): with B = 4 it looks right
        return self.head(y.permute(1, 0, 2)[:, :3].flatten(1))


@pytest.mark.parametrize("module", [Reused(), Folded()], ids=["reused", "folded"])
def test_networks_that_the_layer_rules_would_get_wrong_take_another_engine(module):
    x = images(6)
    expected = slow_fisher(module, x)
    found, used = score(module, x, batch_size=4)
    assert used == "functional"
    torch.testing.assert_close(found.squared, expected[0], rtol=1e-4, atol=1e-10)


def test_a_vision_transformer_is_scored_layer_by_layer():
    """Attention, its norms, the class token and the positions; the slower engines take several times as long."""
    torch.manual_seed(0)
    module = torchvision.models.VisionTransformer(12, 4, 2, 2, 8, 16, num_classes=3).eval()
    torch.nn.init.normal_(module.heads.head.weight)  # torchvision starts the head at zero, which hides what is before
    torch.nn.init.normal_(module.class_token)
    x = images(5)
    expected = slow_fisher(module, x)
    found, used = score(module, x)
    assert used == "layerwise"
    assert bool((expected > 0).all())
    torch.testing.assert_close(found.squared, expected[0], rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(found.relative, expected[1], rtol=1e-4, atol=1e-12)


class Crossed(nn.Module):
    """Attention between two sequences has no layer rule."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        y = x.flatten(2)
        return self.head(self.attention(y, y * 2, y, need_weights=False)[0].mean(1))


def test_attention_without_a_rule_takes_another_engine():
    module, x = Crossed(), images(3)[..., :4, :3]
    found, used = score(module, x)
    assert used != "layerwise"
    torch.testing.assert_close(found.squared, slow_fisher(module, x)[0], rtol=1e-4, atol=1e-10)


def test_last_linear_layer_has_its_closed_form(network):
    x = images(7)
    features = []
    handle = network.head.register_forward_hook(lambda _m, args, out: features.append((args[0], out)))
    network(x)
    handle.remove()
    h, p = features[0][0].detach(), features[0][1].detach().softmax(1)
    expected = (1 - (p**2).sum(1)) * ((h**2).sum(1) + 1)
    found, _ = score(network, x)
    torch.testing.assert_close(found.squared[:, -1], expected.double(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_and_order_do_not_matter(network, batch_size):
    x = images(7)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    reference, _ = score(network, x, batch_size=4)
    found, _ = score(network, x[order], batch_size=batch_size)
    torch.testing.assert_close(found.squared, reference.squared[order], rtol=1e-4, atol=1e-10)
    torch.testing.assert_close(found.relative, reference.relative[order], rtol=1e-4, atol=1e-10)


def test_duplicates_score_alike(network):
    found, _ = score(network, images(3).repeat(2, 1, 1, 1))
    torch.testing.assert_close(found.squared[:3], found.squared[3:], rtol=1e-5, atol=1e-12)


class BatchSquared(SquaredGradients):
    """The mistake of published code: squares the gradient of the batch and shares it out."""

    def _batch(self, x, index, cotangents):
        leaves = list(self.module.parameters())
        outputs = self.module(x)
        total = x.new_zeros(2, len(x), self.n_units, dtype=torch.float64)
        for cotangent in cotangents(outputs.detach(), index):
            gradients = torch.autograd.grad(outputs, leaves, cotangent / len(x), retain_graph=True)
            for (name, _), g in zip(self.module.named_parameters(), gradients, strict=True):
                total[:, :, self._unit_of[name]] += g.double().square().sum()
        return total


class Counted(SquaredGradients):
    """Says which samples are really scored."""

    def _batch(self, x, index, cotangents):
        self.scored = [*getattr(self, "scored", []), *index.tolist()]
        return super()._batch(x, index, cotangents)


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_stopped_scoring_goes_on_behind_its_last_batch(network, tmp_path, stop_after):
    """Without the checkpoint a killed unit would begin again; with a wrong one it would end with other numbers."""
    x, units = images(6), execution_units(network, images(1))
    wanted = target_cotangents(torch.arange(6) % 4)
    whole = SquaredGradients(network, units, rows=2)(x, wanted, RunContext(), stage="fisher")
    ticks = []
    ctx = RunContext(
        unfinished=tmp_path, on_tick=lambda *tick: ticks.append(tick), is_cancelled=lambda: len(ticks) == stop_after
    )
    first = Counted(network, units, rows=2)
    with pytest.raises(Cancelled):
        first(x, wanted, ctx, stage="fisher")
    again = Counted(network, units, rows=2)
    found = again(x, wanted, ctx, stage="fisher")
    assert first.scored + getattr(again, "scored", []) == [0, 1, 2, 3, 4, 5]
    torch.testing.assert_close(found.squared, whole.squared, rtol=0, atol=0)
    torch.testing.assert_close(found.relative, whole.relative, rtol=0, atol=0)


def test_squaring_batch_gradients_would_be_caught(network):
    """The invariances above must fail for code that squares after averaging."""
    x, labels = images(8), torch.arange(8) % 4
    units = execution_units(network, x[:1])

    def mean(kind, rows):
        gradients = kind(network, units, rows=rows)
        return gradients(x, target_cotangents(labels), RunContext(), stage="fisher").squared.mean(0)

    reference = mean(SquaredGradients, 8)
    torch.testing.assert_close(mean(SquaredGradients, 3), reference, rtol=1e-4, atol=1e-10)
    torch.testing.assert_close(mean(BatchSquared, 1), reference, rtol=1e-4, atol=1e-10)
    for rows in (2, 4, 8):
        assert not torch.allclose(mean(BatchSquared, rows), reference, rtol=0.1)


def test_a_sample_that_is_not_finite_stays_alone(network):
    x = images(6)
    reference, _ = score(network, x)
    x[2, 0, 0, 0] = torch.nan
    found, used = score(network, x)
    assert used == "layerwise"
    assert found.finite.tolist() == [True, True, False, True, True, True]
    torch.testing.assert_close(found.select(found.finite).squared, reference.select(found.finite).squared)


def test_frozen_parameters_are_scored_and_nothing_changes(network):
    reference, _ = score(network, images(4))
    network.train()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for engine in ("layerwise", "functional", "loop"):
        found, _ = score(network, images(4), engine=engine)
        torch.testing.assert_close(found.squared, reference.squared, rtol=1e-5, atol=1e-12)
    assert network.training
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_sampled_labels_give_the_true_fisher_of_the_outputs():
    """Averaged over draws, the outer product of the cotangent is diag(p) - p p^T; the exact sum gives it at once."""
    outputs = torch.tensor([[0.3, -1.2, 2.0, 0.0]])
    p = outputs.softmax(1)[0]
    expected = torch.diag(p) - p[:, None] * p
    draws = torch.rand(1, 4000, generator=torch.Generator().manual_seed(0))
    for cotangents in (exact_cotangents, sampled_cotangents(draws)):
        found = sum(c[0, :, None] * c[0] for c in cotangents(outputs, torch.tensor([0])))
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02 if cotangents is not exact_cotangents else 1e-6)


def test_sampled_labels_do_not_depend_on_the_batch(network):
    x, units = images(5), execution_units(network, images(1))
    spec = FisherSpec(exact_up_to=1, label_samples=3)
    reference, _ = score(network, x, spec=spec)
    found, _ = score(network, x, spec=spec, batch_size=2)
    torch.testing.assert_close(found.squared, reference.squared, rtol=1e-5, atol=1e-10)
    other, _ = score(network, x, spec=spec, seed=1)
    assert not torch.allclose(other.squared, reference.squared)
    scorer = FisherScorer(network, lambda t: t, units, RunContext())
    assert scorer.true(x, spec)[1] == "sampled:3"


def test_sampling_follows_the_probabilities_even_where_they_round_to_one():
    outputs = torch.tensor([[40.0, 0.0, 0.0]])
    draws = torch.tensor([[0.0, 0.5, 1.0 - 2**-24]])
    for cotangent in sampled_cotangents(draws)(outputs, torch.tensor([0])):
        assert cotangent.argmin() == 0


def test_target_fisher_is_the_squared_gradient_of_the_wanted_class(network):
    x, labels = images(3), torch.tensor([2, 0, 3])
    units = execution_units(network, x[:1])
    found = FisherScorer(network, lambda t: t, units, RunContext(batch_size=2)).labelled(x, labels)
    for row in range(3):
        network.zero_grad()
        cross_entropy(network(x[row : row + 1]), labels[row : row + 1]).backward()
        parameters = dict(network.named_parameters())
        expected = [sum(float(parameters[n].grad.double().square().sum()) for n in unit.parameters) for unit in units]
        assert found.squared[row].tolist() == pytest.approx(expected, rel=1e-4)


def test_sampled_fisher_averages_to_the_exact_one(network):
    """2000 draws of labels that are all likely: within 6 % of the sum over all classes in every unit."""
    network.head.weight.data.mul_(0.1)
    x, units = images(2), execution_units(network, images(1))
    scorer = FisherScorer(network, lambda t: t, units, RunContext())
    exact, _ = scorer.true(x, FisherSpec())
    sampled, definition = scorer.sampled(x, FisherSpec(label_samples=2000))
    assert definition == "sampled:2000"
    torch.testing.assert_close(sampled.squared, exact.squared, rtol=0.06, atol=0)


def test_eight_bit_images_are_read_as_shares_of_white(network):
    x, units = (images(3) * 255).round().to(torch.uint8), execution_units(network, images(1))
    scorer = FisherScorer(network, lambda t: t * 2 - 1, units, RunContext())
    labels = torch.tensor([2, 0, 3])
    torch.testing.assert_close(scorer.labelled(x, labels).squared, scorer.labelled(x / 255, labels).squared)


def test_outputs_that_cannot_be_differentiated_are_refused():
    class Labels(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(432, 3)

        def forward(self, x):
            return self.head(x.flatten(1)).argmax(1, keepdim=True).float()

    module = Labels()
    units = execution_units(module, images(1))
    with pytest.raises(AuditorError, match="differentiable"):
        FisherScorer(module, lambda t: t, units, RunContext()).true(images(2), FisherSpec())
