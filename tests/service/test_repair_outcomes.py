"""What a repair wrote is known when it is submitted, or given as weights, again; on in-memory ports."""

from dataclasses import replace

import pytest
from repair_house import FRONT, House

from auditor.contracts.jobs import WEIGHTS
from auditor.contracts.submission import ModelFormat, TargetCard
from auditor.errors import InvalidInput
from auditor.evaluation.paired import plan_differences
from auditor.service.outcomes import as_repaired, origins
from auditor.service.records import LOCAL_TEAM
from auditor.testing.handlers import PLAN
from auditor.testing.reports import sample_report, sample_target


class TestARepairedFileIsSubmitted:
    """By a CI job, say, which knows nothing of the repair."""

    @pytest.fixture
    def house(self, tmp_path):
        house = House(tmp_path, public=True)
        house.changes_report(plan=PLAN)
        return house

    def test_it_meets_who_knows_the_defense_and_what_is_withheld_stays_withheld(self, house):
        repair = house.start(defense="trap-mid")
        house.makes(b"repaired", repair)
        plan = house.submits(b"repaired")
        assert plan.attacks == repair.plan.attacks
        assert {"adaptive-scrub", "adaptive-erased", "adaptive-confidence"} <= {attack.key for attack in plan.attacks}
        assert plan.withheld == repair.plan.withheld is not None
        assert [origin.defense for origin in plan.repairs] == ["trap-mid"]
        assert "the outcome of repair" in origins(plan)[0].message
        assert "trap-mid" in origins(plan)[0].message

    def test_its_audit_can_be_compared_with_that_of_the_repair_both_ways(self, house):
        repair = house.start(defense="calor", params={"gamma": 1})
        house.makes(b"repaired", repair)
        own, submitted = (
            sample_report().model_copy(update={"plan": plan}) for plan in (repair.plan, house.submits(b"repaired"))
        )
        assert plan_differences(own, submitted) == plan_differences(submitted, own) == []

    def test_who_attacks_it_has_the_public_layers_that_the_repair_left_in_it(self, house):
        house.makes(b"repaired", house.start(defense="tl-dmi"))
        house.submits(b"repaired")
        assert house.submitted.target.public_front == FRONT
        card = house.store.get_bytes(house.submitted.inputs["target.json"])
        assert TargetCard.model_validate_json(card) == house.submitted.target
        house.submits(b"another")
        assert house.submitted.target.public_front is None

    def test_who_attacks_a_file_written_anew_has_them_too(self, house):
        house.makes(b"repaired weights:tuned", house.start(defense="tl-dmi"))
        house.submits(b"written by another tool weights:tuned")
        assert house.submitted.target.public_front == FRONT

    def test_another_file_is_audited_as_it_was(self, house):
        house.makes(b"repaired", house.start(defense="trap-mid"))
        plan = house.submits(b"another")
        assert (plan, origins(plan)) == (PLAN, ())

    def test_weights_that_were_written_anew_are_known(self, house):
        repair = house.start(defense="calor")
        house.makes(b"repaired weights:tuned", repair)
        assert house.submits(b"written by another tool weights:tuned").repairs

    def test_a_file_of_another_format_is_known_by_its_answers(self, house):
        """Whoever deploys exports, folds norms and quantises; every tensor of that file is another."""
        house.has_images(10_000, 5)
        house.makes(b"repaired weights:tuned answers:10,-5,3,0", house.start(defense="bido"), front=None)
        exported = house.submits(b"exported weights:folded answers:10.2,-5.1,2.9,0.1")
        assert {"adaptive-averaged", "adaptive-erased"} <= {attack.key for attack in exported.attacks}
        assert [origin.is_alike for origin in exported.repairs] == [True]
        assert "answers like the outcome of repair" in origins(exported)[0].message
        assert exported.withheld is None
        assert [origin.is_alike for origin in house.submits(b"again weights:tuned answers:10,-5,3,0").repairs] == [
            False
        ]
        assert not house.submits(b"another weights:other answers:10,5,-3,0").repairs

    def test_public_layers_that_it_does_not_show_keep_it_from_a_pass(self, house):
        house.has_images(10_000, 5)
        house.makes(b"repaired weights:tuned answers:10,-5,3,0", house.start(defense="tl-dmi"))
        exported = house.submits(b"exported weights:folded answers:10,-5,3,0")
        assert "the layers that the repair left public" in exported.withheld.reason
        assert "model.public_model" in exported.withheld.need

    def test_the_very_file_lacks_no_public_layers_of_another_that_answers_alike(self, house):
        house.has_images(10_000, 5)
        house.makes(b"frozen weights:one answers:10,-5,3,0", house.start(defense="tl-dmi"))
        house.makes(b"tuned weights:two answers:10,-5,3.1,0", house.start(defense="bido"), front=None)
        plan = house.submits(b"tuned weights:two answers:10,-5,3.1,0")
        assert {origin.defense: origin.is_alike for origin in plan.repairs} == {"tl-dmi": True, "bido": False}
        assert "could not be found" not in getattr(plan.withheld, "reason", "")

    def test_layers_of_one_format_are_not_looked_for_in_another(self, house):
        """The weights of a network without norms are the same there, and its layers have other names."""
        house.has_images(10_000, 5)
        house.makes(b"repaired weights:tuned", house.start(defense="tl-dmi"), format=ModelFormat.SAFETENSORS)
        plan = house.submits(b"exported weights:tuned")
        assert house.submitted.target.public_front is None
        assert "the layers that the repair left public" in plan.withheld.reason

    def test_the_submission_is_not_the_outcome_of_a_repair_that_hardly_changed_it(self, tmp_path):
        house = House(tmp_path, public=True, model=b"submitted answers:10,-5,3,0")
        house.changes_report(plan=PLAN)
        repair = house.start(defense="confidence-adaptation")
        house.makes(b"repaired weights:tuned answers:10,-5,3.5,0", repair, front=None)
        assert not house.submits(b"exported weights:folded answers:10,-5,3.1,0").repairs
        assert house.submits(b"exported weights:folded answers:10,-5,3.25,0").repairs, "in doubt it is the outcome"
        assert house.submits(b"exported weights:folded answers:10,-5,3.4,0").repairs

    def test_a_control_of_the_output_leaves_the_weights_so_the_submission_is_not_its_outcome(self, house):
        repair = house.start(defense="output-controls")
        house.makes(b"rounded", repair)
        assert not house.submits(b"weights").repairs
        assert house.submits(b"rounded").repairs

    def test_its_answers_tell_a_control_of_the_output_where_the_weights_do_not(self, tmp_path):
        house = House(tmp_path, public=True, model=b"submitted answers:10,-5,3,0")
        house.changes_report(plan=PLAN)
        house.makes(b"labels answers:10,0,0,0", house.start(defense="output-controls"), front=None)
        assert house.submits(b"labels, written anew answers:10,0,0,0").repairs
        assert not house.submits(b"submitted, written anew answers:10,-5,3,0").repairs

    def test_what_older_versions_audited_is_told_by_its_weights(self, house):
        house.makes(b"rounded", house.start(defense="output-controls"), is_old=True)
        assert not house.submits(b"written anew").repairs

    def test_another_teams_repair_tells_nothing(self, house):
        house.makes(b"repaired", house.start(defense="trap-mid"))
        assert house.submits(b"repaired", team_id="another") == PLAN

    def test_one_file_of_two_repairs_meets_the_attackers_of_both(self, house):
        for defense in ("neg-ls", "trap-mid"):
            house.makes(b"repaired", house.start(defense=defense))
        plan = house.submits(b"repaired")
        assert {"adaptive-label", "adaptive-scrub"} <= {attack.key for attack in plan.attacks}
        assert len({attack.key for attack in plan.attacks}) == len(plan.attacks)
        assert {origin.defense for origin in plan.repairs} == {"neg-ls", "trap-mid"}
        assert "triggers" in plan.withheld.reason

    def test_its_repair_goes_on_to_withhold_unless_it_starts_from_public_weights(self, house):
        house.makes(b"repaired", house.start(defense="trap-mid"))
        plan = house.submits(b"repaired")
        house.has_images(10_000, 5)
        house.changes_report(plan=plan)
        tuned, retrained = house.start(defense="neg-ls"), house.start(defense="bido")
        assert tuned.plan.withheld == plan.withheld
        assert retrained.plan.withheld is None
        assert {repair.plan.repairs for repair in (tuned, retrained)} == {()}

    def test_its_weights_are_not_public_whatever_the_next_repair_is_told(self, house, tmp_path):
        """Else what keeps it from a pass would be forgotten, and who knows its defense left out."""
        house.makes(b"repaired", house.start(defense="trap-mid"))
        weights = tmp_path / "public.safetensors"
        weights.write_bytes(b"repaired")
        with pytest.raises(InvalidInput, match=r"the outcome of repair \w+, trained on private data"):
            house.start(defense="bido", weights=str(weights))
        weights.write_bytes(b"public")
        assert house.start(defense="bido", weights=str(weights)).data["weights.safetensors"]

    def test_what_an_older_version_repaired_is_to_be_repaired_again(self, house):
        house.has_images(10_000, 5)
        repair = house.start(defense="bido")
        assert repair.plan.withheld is None
        house.makes(b"repaired", repair, is_old=True)
        withheld = house.submits(b"repaired").withheld
        assert "by an older version" in withheld.reason
        assert withheld.need == "repair the model again"
        house.makes(b"repaired now", house.start(defense="midre"))
        assert house.submits(b"repaired now").withheld is None

    def test_cut_where_its_repair_was_not_it_meets_nobody_who_knows_the_defense_and_does_not_pass(self, house):
        house.has_images(10_000, 5)
        house.makes(b"repaired", house.start(defense="bido"))
        card = sample_target(digest=house.store.put_bytes(b"repaired"))
        whole, cut = (
            as_repaired(plan, card, LOCAL_TEAM, house.transactions, house.store)[0]
            for plan in (PLAN, PLAN.model_copy(update={"split": "features.2"}))
        )
        assert whole.withheld is None
        assert "attacks that know this defense are part" in origins(whole)[0].message
        assert cut.attacks == PLAN.attacks
        assert "for another deployment" in cut.withheld.reason
        assert "no attack that knows this defense is part" in origins(cut)[0].message

    def test_a_later_repair_that_makes_the_same_file_renames_no_attack(self, house):
        plans = []
        for gamma in (1, 0.5):
            house.makes(b"repaired", house.start(defense="calor", params={"gamma": gamma}))
            plans.append(house.submits(b"repaired"))
            house.clock.sleep(100)
        before, after = ({attack.key: attack for attack in plan.attacks} for plan in plans)
        assert before.items() <= after.items()
        assert after.keys() - before.keys() == {"adaptive-confidence-2"}


def test_weights_that_the_manifest_names_are_not_a_repairs_outcome_either(tmp_path):
    weights = tmp_path / "public.safetensors"
    weights.write_bytes(b"repaired")
    house = House(tmp_path, public=True, weights=str(weights))
    with house.transactions() as tx:
        submission = tx.submissions.get(tx.jobs.get(house.audit).submission_id)
        inputs = {**submission.inputs, WEIGHTS: house.store.put_bytes(b"repaired")}
        tx.submissions.add(replace(submission, inputs=inputs))
    house.makes(b"repaired", house.start(defense="trap-mid"))
    with pytest.raises(InvalidInput, match="the outcome of repair"):
        house.start(defense="bido")
    assert house.start(defense="neg-ls").plan
    assert house.start(defense="bido", weights="torchvision:ResNet18_Weights.IMAGENET1K_V1").published
