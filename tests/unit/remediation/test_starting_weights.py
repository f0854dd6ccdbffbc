import pytest
import torch
from safetensors.torch import save_file

from auditor.contracts.jobs import UnitSpec
from auditor.data.overlap import require_disjoint
from auditor.errors import AuditorError, InvalidInput
from auditor.fisher.units import execution_units
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext
from remediation.stages import repair_pretrain
from remediation.starting_weights import check_not_in_place, check_trained, load_public_weights, shared_layers

HEAD = ("head.weight", "head.bias")


def network(seed, n_classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_architecture("small-cnn", n_classes=n_classes, channels=1)


def units_of(module):
    return execution_units(module, torch.zeros(1, 1, 16, 16))


def trained(seed):
    """Weights as training leaves them: norms have seen data."""
    module = network(seed).train()
    module(torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(seed)))
    return module


def pretrain(submission):
    return repair_pretrain(UnitSpec(kind="repair-pretrain", key="pretrain"), submission.workspace(), RunContext())


def give(submission, weights):
    save_file({k: v.detach().contiguous().clone() for k, v in weights.items()},
              submission.root / "inputs/weights.safetensors")  # fmt: skip
    return submission


def test_only_the_head_may_be_missing_or_differ():
    module, state = network(0), trained(1).state_dict()
    load_public_weights(module, {k: v for k, v in state.items() if k not in HEAD}, HEAD)
    load_public_weights(module, state | {"head.weight": torch.zeros(99, 7)}, HEAD)
    assert torch.equal(module.features[0].weight, state["features.0.weight"])
    wrong = {k: v for k, v in state.items() if k != "features.3.weight"}
    wrong |= {"backbone.features.3.weight": state["features.3.weight"], "features.0.weight": torch.zeros(3, 3)}
    with pytest.raises(InvalidInput) as error:
        load_public_weights(module, wrong, HEAD)
    text = error.value.message
    assert "lack features.3.weight" in text
    assert "unexpected backbone.features.3.weight" in text
    assert "another shape for features.0.weight" in text


def test_layers_with_random_initial_values_are_refused():
    module, units = network(0), units_of(network(0))
    fresh = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(InvalidInput, match="random initial"):
        check_trained(module, fresh, units[:2])
    module.load_state_dict(trained(1).state_dict())
    check_trained(module, fresh, units[:6])
    module.load_state_dict({**module.state_dict(), "features.3.weight": fresh["features.3.weight"]})
    with pytest.raises(InvalidInput, match=r"features\.3"):
        check_trained(module, fresh, units[:2])
    check_trained(module, fresh, units[:1])


def test_another_random_network_is_refused_by_its_norms():
    module = network(1)
    fresh = {k: v.clone() for k, v in network(0).state_dict().items()}
    with pytest.raises(InvalidInput, match=r"features\.1"):
        check_trained(module, fresh, units_of(module)[:2])


@pytest.mark.parametrize(("architecture", "size"), [("swin_t", 64), ("convnext_tiny", 32)])
def test_another_random_transformer_is_refused_by_its_norms(architecture, size):
    def drawn(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_architecture(architecture, n_classes=3, channels=3)

    module, fresh = drawn(1), {k: v.clone() for k, v in drawn(0).state_dict().items()}
    units = execution_units(module, torch.zeros(1, 3, size, size))
    with pytest.raises(InvalidInput, match=r"features\.0\.1|features\.0\.2"):
        check_trained(module, fresh, units[:1])


def test_layers_of_the_submission_are_recognised_also_when_folded():
    module, submitted = trained(0), trained(0)
    units = units_of(module)
    with torch.no_grad():
        factor = torch.linspace(-2, 3, 32).view(-1, 1, 1, 1)
        folded = [p.detach() * factor if name == "features.3.weight" else torch.randn_like(p)
                  for name, p in submitted.named_parameters()]  # fmt: skip
    check_not_in_place(module, folded, units[:1])
    with pytest.raises(InvalidInput, match="restart from weights"):
        check_not_in_place(module, folded, units[:2])
    check_not_in_place(module, [p.detach() for p in trained(5).parameters()], units[:6])


def test_a_network_that_keeps_the_version_of_its_layers_is_loaded():
    module = build_architecture("mnasnet0_5", n_classes=3, channels=3)
    given = build_architecture("mnasnet0_5", n_classes=3, channels=3).state_dict()
    load_public_weights(module, dict(given), ())
    assert torch.equal(module.state_dict()["layers.0.weight"], given["layers.0.weight"])


def test_layers_of_the_submission_are_recognised_after_a_little_change():
    module, own = trained(0), [p.detach().clone() for p in trained(0).parameters()]
    units = units_of(module)
    generator = torch.Generator().manual_seed(0)
    noisy = [w + 0.1 * w.std() * torch.randn(w.shape, generator=generator) if w.ndim >= 2 else w for w in own]
    assert "features.3.weight" in shared_layers(module, noisy, units[:6])
    for weight in own:
        if weight.ndim >= 2:
            weight[: len(weight) // 2] = torch.randn(weight[: len(weight) // 2].shape, generator=generator)
    assert "features.3.weight" in shared_layers(module, own, units[:6])
    assert shared_layers(module, [p.detach() for p in trained(5).parameters()], units[:6]) == []


@pytest.mark.parametrize(("defense", "boundaries"), [("tl-dmi", [0]), ("bido", []), ("dp-sgd", [0])])
def test_the_submission_is_no_start_where_nothing_is_frozen_either(make_submission, submitted, defense, boundaries):
    given = {"boundaries": boundaries} if boundaries else {}
    with pytest.raises(InvalidInput, match="training on from them"):
        pretrain(give(make_submission(defense=defense, **given), submitted.state_dict()))


@pytest.mark.parametrize("kind", ["safetensors", "onnx-named"])
def test_freezing_the_submission_in_place_is_refused_with_the_reason(make_submission, submitted, kind):
    submission = give(make_submission(kind), submitted.state_dict())
    with pytest.raises(InvalidInput, match="trained on the private data") as error:
        pretrain(submission)
    assert "public" in error.value.remedy


def test_the_team_may_state_that_shared_layers_are_public(make_submission, submitted):
    body = {name: value for name, value in submitted.state_dict().items() if name not in HEAD}
    value = pretrain(give(make_submission(weights_are_public=True), body))
    assert any("states that layers shared" in note for note in value["notes"])


def test_no_statement_makes_the_submission_itself_public(make_submission, submitted):
    """Its classifier gives it away: a model that was public knows no private class."""
    with pytest.raises(InvalidInput, match="they are the submission itself"):
        pretrain(give(make_submission(weights_are_public=True), submitted.state_dict()))


def test_supplied_public_weights_are_taken(make_submission):
    submission = give(make_submission(without=("public.npz",)), trained(3).state_dict())
    value = pretrain(submission)
    assert "supplied by the team" in value["pretraining"]
    assert value["parameters"]["patience"] is None, "what was not set is told as well"
    assert any("cannot be verified" in note for note in value["notes"])


def test_supplied_random_weights_are_refused(make_submission):
    with pytest.raises(InvalidInput, match="random initial"):
        pretrain(give(make_submission(), network(3).state_dict()))


def test_without_weights_and_public_data_there_is_no_repair(make_submission):
    with pytest.raises(InvalidInput, match="never saw"):
        pretrain(make_submission(without=("public.npz",)))


def test_private_images_among_the_public_ones_are_found(data):
    """Positive control of the overlap check."""
    mixed = data["public.npz"].select(torch.arange(5).numpy())
    require_disjoint(data["fit.npz"], mixed)
    with pytest.raises(AuditorError):
        require_disjoint(data["fit.npz"], data["fit.npz"].select(torch.arange(1).numpy()))
