import numpy as np
import pytest
import torch

from auditor.attacks.split.catalog import catalog_of
from auditor.data.image_set import ImageSet
from auditor.errors import InvalidInput, UnknownName
from auditor.fisher.units import execution_units
from auditor.targets.architectures import build_architecture
from auditor.tensors import ImageBatch, RunContext
from auditor.training import TrainHistory
from remediation.defenses.base import Defense, DefenseConfig, DivergedTraining, RepairData, Tuned
from remediation.defenses.catalog import DEFENSES
from remediation.freezing import FrozenStateMoved
from remediation.offers import GAMMA, OFFERS, attacks_knowing
from remediation.preparation import validation_split


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_architecture("small-cnn", n_classes=3, channels=1)


def repair_data():
    generator = torch.Generator().manual_seed(0)

    def batch(n):
        labels = torch.arange(n) % 3
        return ImageBatch((torch.rand(n, 1, 16, 16, generator=generator) + labels.view(-1, 1, 1, 1)) / 3, labels)

    return RepairData(batch(24), batch(9), batch(9), ImageBatch(batch(16).images), flip=False)


def run(defense, boundary=2, ctx=None):
    module = network()
    units = execution_units(module, torch.zeros(1, 1, 16, 16))
    return defense.fit(
        module, units, "head", boundary, repair_data(), ctx or RunContext(), prepare=lambda images: images
    )


def tl_dmi(**params):
    return DEFENSES.build("tl-dmi", {"epochs": 2, "batch_size": 8, "augment": False} | params)


@pytest.mark.parametrize("mode", ["frozen", "reference", "recalibrate_public"])
def test_every_norm_mode_proves_what_it_promises(mode):
    repaired = run(tl_dmi(norm_mode=mode))
    freeze = repaired.freeze
    assert (freeze.digest_before == freeze.digest_after) == (mode != "reference")
    fresh = network().state_dict()
    state = repaired.module.state_dict()
    assert all(torch.equal(state[name], fresh[name]) for name in freeze.parameters)
    statistics = [name for name in freeze.buffers if name.endswith("running_mean")]
    assert all(torch.equal(state[name], fresh[name]) for name in statistics) == (mode == "frozen")
    assert not repaired.module.training
    assert repaired.history.best_epoch == int(np.argmax(repaired.history.validation_accuracy))


def test_one_seed_gives_one_result():
    first, again, other = run(tl_dmi()), run(tl_dmi()), run(tl_dmi(), ctx=RunContext(seed=1))
    weights = [r.module.head.weight for r in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_diverged_training_is_not_a_repair():
    with pytest.raises(DivergedTraining, match="not finite"):
        run(tl_dmi(lr=1e30))


class Careless(Defense[DefenseConfig]):
    """Trains in training mode throughout, as published code does."""

    name = "careless"
    paper = "own"

    def tune(self, job):
        job.module.train()
        job.module(job.data.fit.images)
        return Tuned(job.module, TrainHistory())


def test_a_defense_that_lets_frozen_statistics_move_is_caught():
    with pytest.raises(FrozenStateMoved, match="statistics"):
        run(Careless(DefenseConfig()))


def test_the_catalog_names_what_is_wrong():
    with pytest.raises(UnknownName, match="tl-dmi"):
        DEFENSES.get("tl_dmi")
    with pytest.raises(InvalidInput, match=r"epochs.*|learning_rate.*"):
        DEFENSES.build("tl-dmi", {"epochs": 0, "learning_rate": 1})
    row = DEFENSES.describe()[0]
    assert row["name"] == "tl-dmi"
    assert "2405.05588" in row["paper"]
    assert {"norm_mode", "boundaries", "pretrain_objective"} <= set(row["parameters"])


def test_every_defense_is_offered_and_every_offer_is_a_defense():
    assert tuple(DEFENSES.names) == tuple(OFFERS)
    for defense in DEFENSES:
        offer = OFFERS[defense.name]
        assert defense.paper == offer.paper
        frozen = defense.freezes or DEFENSES.build(defense.name, {}).own_boundaries(7) != (0,)
        assert offer.freezes == frozen, "whether a repair may freeze decides whether it may pass"
        for attack in offer.adaptive:
            catalog_of(attack.name).configure(attack.name, attack.params)


def test_what_attacks_follow_are_parameters_of_the_defenses_and_left_unset_nothing_changes():
    def default(name):
        return DEFENSES.build(name, {}).config.model_dump(mode="json")

    assert default("calor")["gamma"] == default("confidence-adaptation")["gamma"] == GAMMA
    for name in OFFERS:
        set_as_they_are = {key: default(name)[key] for key in ("gamma", "max_area") if key in default(name)}
        assert attacks_knowing(OFFERS[name], set_as_they_are) == OFFERS[name].adaptive


def images(labels):
    pixels = np.random.default_rng(0).integers(0, 255, (len(labels), 8, 8, 1)).astype(np.uint8)
    return ImageSet("private", pixels, np.array(labels, dtype=np.int64), ("a", "b", "c"))


def test_a_class_of_one_image_is_trained_on_and_not_validated():
    train, validation = validation_split(images([0] * 10 + [1] * 10 + [2]), 0.2, 0)
    assert len(train) + len(validation) == 21
    assert 2 in train.labels
    assert set(validation.labels) == {0, 1}


def test_without_a_second_image_in_any_class_no_epoch_can_be_chosen():
    with pytest.raises(InvalidInput, match="choose the epoch"):
        validation_split(images([0, 1, 2]), 0.2, 0)
