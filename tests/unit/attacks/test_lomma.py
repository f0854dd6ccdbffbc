"""What the card of LOMMA asks for: the logit loss, the features it is held by, and the students."""

import onnx
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from auditor.attacks.gmi import GmiConfig, run_gmi
from auditor.attacks.head import NO_HEAD, HeadTap, PublicFeatures, find_head
from auditor.attacks.kedmi import KedmiConfig, run_kedmi
from auditor.attacks.lomma import LogitLoss, Lomma, LommaConfig
from auditor.attacks.objectives import Scene
from auditor.attacks.students import MAX_STUDENTS, agreement, blank_student, distil
from auditor.contracts.access import Access
from auditor.data.network_file import load_exactly, read_network, write_network
from auditor.errors import InvalidInput
from auditor.priors.catalog import PRIORS
from auditor.priors.quality import sample_images
from auditor.service.matching import choose_prior, planned_traits, serves
from auditor.service.plans import PRESETS
from auditor.targets.onnx_graph import interpret
from auditor.targets.torch_target import TorchTarget
from auditor.targets.views import narrow
from auditor.tensors import RunContext
from auditor.testing import ToyPrior, ToyTarget, toy_card, toy_images, toy_templates
from auditor.testing.onnx_models import exported, randomised

K, SHAPE = 6, (1, 8, 8)
TEMPLATES = toy_templates(K)
CTX = RunContext(batch_size=64)
PUBLIC = toy_images(TEMPLATES, 30, noise=0.05).images


class Net(nn.Module):
    """Two layers, of which the first has as many outputs as there are classes, and any ending."""

    def __init__(self, ending: nn.Module, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Linear(64, K)
            self.head = nn.Linear(K, K)
        self.ending = ending

    def forward(self, images):
        return self.ending(self.head(torch.relu(self.first(images.flatten(1)))))


class ConvHead(nn.Module):
    """Ends in a 1x1 convolution and a mean, as SqueezeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(1, K, 1)

    def forward(self, images):
        return self.classifier(images).mean(dim=(2, 3))


def view_of(module):
    card = toy_card(n_classes=K, image_shape=SHAPE)
    return narrow(TorchTarget(randomised(module), card), Access.WHITE_BOX)


def toy_view(**options):
    return narrow(ToyTarget(TEMPLATES, sharpness=2.0), Access.WHITE_BOX, **options)


def prepared(attack, view=None, prior=None):
    return attack.prepare(view or toy_view(), prior or ToyPrior(TEMPLATES, has_critic=True), PUBLIC, CTX)


def head_name(view):
    place = find_head(view, PUBLIC)
    return None if place == NO_HEAD else next(n for n, m in view.layers[0].named_modules() if m is view.layers[place])


def test_the_docstring_names_the_priors_it_accepts_and_the_one_the_presets_use():
    serving = {prior.name for prior in PRIORS if serves(prior.name, prior.traits, Lomma)}
    assert {name for name in PRIORS.names if f"`{name}`" in Lomma.__doc__} == serving
    for plan in PRESETS.values():
        used = {choose_prior(spec, Lomma, planned_traits(plan)) for spec in plan.attacks if spec.name == "lomma"}
        assert used <= {"kedmi-gan"}
    assert "The presets run both forms on it" in Lomma.__doc__


def test_the_head_is_the_layer_that_gives_the_logits():
    view = view_of(Net(nn.Identity()))
    assert head_name(view) == "head"
    assert view.counter.forward == 4


def test_the_head_is_found_behind_a_softmax_and_gives_true_logits():
    view = view_of(Net(nn.LogSoftmax(dim=1)))
    assert head_name(view) == "head"
    with HeadTap(view, find_head(view, PUBLIC)) as tap:
        outputs = view.logits(PUBLIC[:5])
        features, logits = tap.read(outputs)
    assert features.shape == (5, K)
    torch.testing.assert_close(log_softmax(logits, 1), outputs)
    assert not torch.allclose(logits, outputs)
    torch.testing.assert_close(logits, view.layers[0].head(features))


@pytest.mark.parametrize("module", [ConvHead(), Net(nn.Tanh()), Net(nn.BatchNorm1d(K))], ids=["conv", "tanh", "norm"])
def test_a_network_that_ends_otherwise_has_no_head(module):
    view = view_of(module.eval())
    assert find_head(view, PUBLIC) == NO_HEAD
    with HeadTap(view, NO_HEAD) as tap:
        outputs = view.logits(PUBLIC[:3])
        features, logits = tap.read(outputs)
    assert torch.equal(features, outputs)
    assert torch.equal(logits, outputs)


@pytest.mark.parametrize("dynamic", [True, False], ids=["any-batch", "fixed-batch"])
@pytest.mark.parametrize("ending", [nn.Identity(), nn.Softmax(dim=1)], ids=["logits", "softmax"])
def test_the_head_of_a_submitted_graph_is_found(dynamic, ending):
    network = randomised(Net(ending)).eval()
    proto = onnx.load_model_from_string(exported(network, SHAPE, opset=17, dynamo=False, dynamic=dynamic))
    view = narrow(TorchTarget(interpret(proto, SHAPE), toy_card(n_classes=K, image_shape=SHAPE)), Access.WHITE_BOX)
    assert head_name(view) == "head"
    with HeadTap(view, find_head(view, PUBLIC)) as tap:
        outputs = view.logits(PUBLIC[:5])
        features, logits = tap.read(outputs)
    assert features.shape == logits.shape == (5, K)
    torch.testing.assert_close(logits, network.head(features), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_softmax(logits, 1), log_softmax(outputs, 1))


def test_every_hook_is_gone_afterwards():
    view = view_of(Net(nn.Identity()))
    attack = Lomma(LommaConfig(students=0, steps=2))
    aids = prepared(attack, view)
    attack.run(view, ToyPrior(TEMPLATES, has_critic=True), (0, 1), 1, CTX, aids=aids)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in view.layers)


def test_public_features_are_measured_with_one_query_each():
    view, public = view_of(Net(nn.Identity())), PublicFeatures()
    logits = public.measure(view, PUBLIC, CTX, stage="ask")
    assert view.counter.forward == len(PUBLIC) + 4
    with HeadTap(view, int(public.place)) as tap:
        features, expected = tap.read(view.logits(PUBLIC))
    torch.testing.assert_close(logits, expected.detach())
    torch.testing.assert_close(public.mean, features.mean(dim=0).detach())
    torch.testing.assert_close(public.variance, features.var(dim=0, correction=0).mean().detach())
    torch.testing.assert_close(public.scale, expected.abs().mean().detach())


def scene(logits, labels, images=None):
    images = torch.zeros(len(logits), *SHAPE) if images is None else images
    return Scene(torch.zeros(len(logits), 2), images, logits[None], labels, ToyPrior(TEMPLATES))


def term_of(attack, aids, view):
    return LogitLoss(attack.config, HeadTap(view, NO_HEAD), aids["public"], list(aids["students"]), CTX)


def test_the_gradient_does_not_fade_where_that_of_the_cross_entropy_does():
    attack = Lomma(LommaConfig(students=0, normalise=False, feature_weight=0.0))
    view = toy_view()
    term = term_of(attack, prepared(attack, view), view)
    logits = torch.zeros(1, K)
    logits[0, 2] = 24.0
    gradients = []
    for loss in (term, lambda s: cross_entropy(s.logits[0], s.labels, reduction="none")):
        leaf = logits.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(scene(leaf, torch.tensor([2]))).sum(), leaf)
        gradients.append(float(gradient[0, 2]))
    assert gradients[0] == -1
    assert abs(gradients[1]) < 1e-8


def test_the_loss_by_hand():
    attack = Lomma(LommaConfig(students=2, epochs=1, feature_weight=0.5))
    view = toy_view()
    aids = prepared(attack, view)
    public, students = aids["public"], list(aids["students"])
    images, labels = PUBLIC[::40], torch.arange(5) % K
    with torch.no_grad():
        logits = view.logits(images)
        wanted = [logits[torch.arange(5), labels] / public.scale]
        wanted += [s.network(images)[torch.arange(5), labels] / s.scale for s in students]
        pull = (logits - public.mean).square().mean(dim=1) / public.variance
        loss = term_of(attack, aids, view)(scene(logits, labels, images))
    torch.testing.assert_close(loss, -torch.stack(wanted).mean(dim=0) + 0.5 * pull)


@pytest.mark.parametrize("base", ["gmi", "kedmi"])
def test_alone_and_without_the_pull_it_is_the_base_attack_on_minus_the_logit(base):
    prior = ToyPrior(TEMPLATES, has_critic=True)
    attack = Lomma(LommaConfig(base=base, students=0, normalise=False, feature_weight=0.0, steps=20))
    result = attack.run(toy_view(), prior, (1, 4), 2, CTX, aids=prepared(attack))

    class Plain(Lomma):
        def invert(self, view, prior, rows, ctx, snapshot_fracs):
            def term(scene):
                return -scene.logits[0].gather(1, scene.labels[:, None]).squeeze(1)

            run, config = {
                "gmi": (run_gmi, GmiConfig(steps=20)),
                "kedmi": (run_kedmi, KedmiConfig(steps=20)),
            }[base]
            return run(view, prior, rows, ctx, snapshot_fracs, term, config, stage="plain")

    plain = Plain(LommaConfig(base=base)).run(toy_view(), prior, (1, 4), 2, CTX)
    torch.testing.assert_close(result.images, plain.images)


def test_the_pull_brings_features_nearer_to_the_public_mean():
    view, prior = view_of(Net(nn.Identity())), ToyPrior(TEMPLATES, has_critic=True)
    distances = []
    for weight in (0.0, 30.0):
        attack = Lomma(LommaConfig(students=0, steps=60, lr=0.1, feature_weight=weight))
        aids = prepared(attack, view)
        images = attack.run(view, prior, (0, 3), 3, CTX, aids=aids).images
        with HeadTap(view, int(aids["public"].place)) as tap, torch.no_grad():
            features, _ = tap.read(view.logits(images))
        distances.append(float((features - aids["public"].mean).square().mean()))
    assert distances[1] < 0.5 * distances[0]


def test_students_cost_the_target_nothing_after_they_were_taught():
    views = [toy_view(), toy_view()]
    for n_students, view in enumerate(views):
        attack = Lomma(LommaConfig(base="gmi", students=n_students, epochs=1, steps=10))
        aids = prepared(attack)
        attack.run(view, ToyPrior(TEMPLATES, has_critic=True), (0, 1), 3, CTX, aids=aids)
    assert [view.counter.forward for view in views] == [10 * 6, 10 * 6]


def test_no_more_public_images_are_shown_than_allowed():
    attack, view = Lomma(LommaConfig(students=1, epochs=1, public_images=50)), toy_view()
    prepared(attack, view)
    assert view.counter.forward == 50


def test_the_students_change_the_result_and_the_notes_say_how_good_they_are():
    prior = ToyPrior(TEMPLATES, has_critic=True)
    images = []
    for n_students in (0, 1):
        attack = Lomma(LommaConfig(students=n_students, epochs=1, steps=10))
        result = attack.run(toy_view(), prior, (0, 1), 2, CTX, aids=prepared(attack))
        images.append(result.images)
        assert any("no last linear layer" in note for note in result.notes)
        assert any("%" in note for note in result.notes) == bool(n_students)
    assert not torch.allclose(images[0], images[1], atol=1e-3)


def test_without_its_students_it_refuses():
    attack = Lomma(LommaConfig(steps=2))
    with pytest.raises(ValueError, match="students"):
        attack.run(toy_view(), ToyPrior(TEMPLATES, has_critic=True), (0,), 1, CTX)


def test_aids_are_stored_whatever_the_number_of_features(tmp_path):
    attack, view = Lomma(LommaConfig(students=2, epochs=1)), view_of(Net(nn.Identity()))
    aids, path = prepared(attack, view), tmp_path / "aids.safetensors"
    write_network(path, "aids-1", aids.state_dict(), {})
    blank = attack.aids(SHAPE, K)
    load_exactly(blank, read_network(path, "aids-1")[1], path)
    assert all(torch.equal(value, blank.state_dict()[name]) for name, value in aids.state_dict().items())
    with pytest.raises(InvalidInput, match="does not fit"):
        load_exactly(Lomma(LommaConfig(students=1)).aids(SHAPE, K), aids.state_dict(), path)


@pytest.mark.parametrize("index", range(MAX_STUDENTS))
def test_a_student_learns_to_agree(index):
    target = ToyTarget(TEMPLATES, sharpness=2.0)
    images = sample_images(ToyPrior(TEMPLATES), 300, torch.Generator().manual_seed(1), CTX)
    with torch.no_grad():
        answers = log_softmax(target.logits(images), dim=1)
    torch.manual_seed(0)
    student = blank_student(index, K, 1)
    untaught = agreement(student, images[:60], answers[:60], CTX)
    state = torch.get_rng_state()
    distil(student, images[60:], answers[60:], CTX, epochs=12, stage="s", batch_size=32)
    assert torch.equal(torch.get_rng_state(), state)
    assert agreement(student, images[:60], answers[:60], CTX) > max(0.6, untaught + 0.2)
    assert not student.training


def test_students_differ_and_follow_the_seed():
    attack = Lomma(LommaConfig(students=MAX_STUDENTS, epochs=1))
    first, second = (prepared(attack).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    sizes = {sum(p.numel() for p in blank_student(i, K, 1).parameters()) for i in range(MAX_STUDENTS)}
    assert len(sizes) == MAX_STUDENTS
