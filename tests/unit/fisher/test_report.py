import pytest
import torch

from auditor.contracts.fisher import FisherReport
from auditor.contracts.plan import FisherSpec
from auditor.errors import Cancelled, InvalidInput
from auditor.fisher.evidence import Course
from auditor.fisher.report import fisher_report
from auditor.targets.architectures import SmallCnn
from auditor.tensors import ImageBatch, RunContext


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SmallCnn(6, 1, (4, 4, 8, 8)).train()


def pictures(n, seed):
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def course(attack="ppa", *, prior_free=False, seed=1, labels=None, images=None):
    labels = torch.arange(12) % 6 if labels is None else labels
    images = torch.stack([pictures(12, seed), pictures(12, seed + 1)]) if images is None else images
    return Course(attack, "pixels" if prior_free else "vae", prior_free, (0.0, 1.0)[: len(images)], images, labels)


def report(network, *courses, fit=None, ctx=None, spec=None):
    return fisher_report(
        network,
        lambda images: images * 2 - 1,
        fit or ImageBatch(pictures(30, 0), torch.arange(30) % 6),
        courses or [course()],
        ImageBatch(pictures(12, 3), torch.arange(12) % 6),
        spec or FisherSpec(n_classes=5, images_per_class=2),
        ctx or RunContext(batch_size=16),
        n_bootstrap=200,
    )


def test_a_complete_report(network):
    ticks = []
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = report(network, ctx=RunContext(batch_size=16, on_tick=lambda *args: ticks.append(args)))
    assert [unit.name for unit in found.units] == ["features.0", "features.3", "features.7", "features.10", "head"]
    tasks = ("classification_share", "inversion_share", "placebo_share", "empirical_share", "inversion_true_share")
    for task in tasks:
        for aggregator in ("relative", "sum", "density"):
            assert sum(getattr(unit, task)[aggregator] for unit in found.units) == pytest.approx(1)
    assert found.classification_definition == "exact"
    assert found.n_images == 10
    assert found.n_classes == 6
    for unit in found.units:
        for task in ("classification", "inversion", "placebo"):
            low, high = getattr(unit, f"{task}_interval")
            assert low <= getattr(unit, f"{task}_share")["relative"] <= high
    assert sum(unit.inversion_trimmed for unit in found.units) == pytest.approx(1)
    (trajectory,) = found.followed
    assert (trajectory.attack, trajectory.fracs, trajectory.weights) == ("ppa", (0.0, 1.0), (0.5, 0.5))
    assert [sum(step) for step in trajectory.per_step_share] == pytest.approx([1, 1])
    assert found.inversion_true_definition == "sampled:2"
    assert set(found.weighted_boundaries) == {"0.5", "1", "2"}
    assert found.weighted_boundaries["1"] == found.gap_boundary
    assert found.seeds == (0,)
    assert found.verdict == "uninformative"
    assert found.boundary is None
    assert found.candidates
    assert any("20 classes" in note for note in found.notes)
    assert any("Only ppa was followed" in note for note in found.notes)
    assert {stage for stage, _, _ in ticks} == {
        "fisher-classification", "fisher-empirical", "fisher-inversion 1", "fisher-inversion-true 1", "fisher-placebo",
    }  # fmt: skip
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_the_same_seed_gives_the_same_bytes_and_batches_do_not_matter(network):
    first, again = report(network), report(network)
    assert first.model_dump_json() == again.model_dump_json()
    other = report(network, ctx=RunContext(batch_size=3))
    assert [u.contrast for u in other.units] == pytest.approx([u.contrast for u in first.units], rel=1e-3, abs=1e-5)


def test_samples_that_are_not_finite_are_dropped_and_counted(network):
    images = torch.stack([pictures(12, 1), pictures(12, 2)])
    images[1, 4] = torch.nan
    found = report(network, course(images=images))
    assert found.dropped_nonfinite == 1
    assert found.followed[0].n_images == 11


def test_more_classes_than_the_limit_are_sampled(network):
    spec = FisherSpec(n_classes=5, images_per_class=2, exact_up_to=3, label_samples=3)
    assert report(network, spec=spec).classification_definition == "sampled:3"


def test_missing_evidence_is_an_error_not_a_number(network):
    with pytest.raises(InvalidInput, match="labelled"):
        report(network, fit=ImageBatch(pictures(4, 0)))
    with pytest.raises(InvalidInput, match="two classes"):
        report(network, course(labels=torch.zeros(12, dtype=torch.int64)))
    with pytest.raises(InvalidInput, match="two classes"):
        report(network, course(images=torch.full((1, 12, 1, 16, 16), torch.nan)))
    with pytest.raises(InvalidInput, match="two classes"):
        report(network, fit=ImageBatch(pictures(4, 0), torch.zeros(4, dtype=torch.int64)))


def test_private_images_of_the_attacked_classes_come_first(network):
    """Only classes 1 and 4 are attacked, so a draw of two classes takes exactly those."""
    images = torch.full((12, 1, 16, 16), torch.nan)
    labels = torch.arange(12) % 6
    wanted = (labels == 1) | (labels == 4)
    images[wanted] = pictures(int(wanted.sum()), 5)
    found = report(
        network,
        course(labels=torch.tensor([1, 4] * 6)),
        fit=ImageBatch(images, labels),
        spec=FisherSpec(n_classes=2, images_per_class=2),
    )
    assert found.dropped_nonfinite == 0


def test_two_attacks_count_alike_and_are_told_apart(network):
    """A plain mean over all images would let the attack with more of them, or larger gradients, decide."""
    one, other = course("ppa"), course("pixel-tv", prior_free=True, seed=7, images=torch.rand(2, 12, 1, 16, 16).round())
    both = report(network, one, other)
    alone = [report(network, one), report(network, other)]
    for index, unit in enumerate(both.units):
        shares = [found.units[index].inversion_share["relative"] for found in alone]
        assert unit.inversion_share["relative"] == pytest.approx(sum(shares) / 2, rel=1e-6)
    assert [row.attack for row in both.followed] == ["ppa", "pixel-tv"]
    assert both.trajectory_attack == "ppa, pixel-tv"
    assert [row.prior_free for row in both.followed] == [False, True]
    assert {row.attack for row in both.readings} == {"", "ppa", "pixel-tv"}
    assert not any("followed" in note for note in both.notes)
    by_attack = {row.attack: row for row in both.readings if row.attack}
    assert by_attack["ppa"].gap == pytest.approx(alone[0].gap)


def test_an_attack_without_finite_gradients_is_left_out_and_named(network):
    lost = course("pixel-tv", prior_free=True, images=torch.full((2, 12, 1, 16, 16), torch.nan))
    found = report(network, course(), lost)
    assert [row.attack for row in found.followed] == ["ppa"]
    assert any("pixel-tv could not be followed" in note for note in found.notes)
    assert found.dropped_nonfinite == 12


def test_every_reading_names_its_definitions_and_keeps_one_aggregator(network):
    readings = {(r.inversion, r.against, r.aggregator): r for r in report(network).readings}
    assert set(readings) == {
        ("target-label", "true", "relative"), ("target-label", "true", "sum"), ("target-label", "true", "density"),
        ("true", "true", "relative"), ("placebo", "true", "relative"), ("target-label", "empirical", "relative"),
        ("target-label", "placebo", "relative"),
    }  # fmt: skip
    assert all(r.gap_low <= r.gap <= r.gap_high for r in readings.values())


def test_inversions_that_are_the_private_images_leave_no_gap_between_true_fishers(network):
    """The same images under the same definition: whatever gap is found is the sampling of labels."""
    fit = ImageBatch(pictures(12, 0), torch.arange(12) % 6)
    spec = FisherSpec(n_classes=6, images_per_class=2, exact_up_to=1, label_samples=400)
    found = report(network, course(images=fit.images[None], labels=fit.labels), fit=fit, spec=spec)
    reading = next(r for r in found.readings if (r.inversion, r.against) == ("true", "true"))
    assert abs(reading.gap) < 0.02


def test_a_stopped_report_goes_on_without_scoring_a_finished_stage_again(network, tmp_path):
    whole, seen = report(network), []

    def stop(stage, _done, _total):
        seen.append(stage)

    ctx = RunContext(batch_size=16, unfinished=tmp_path, on_tick=stop, is_cancelled=lambda: len(seen) == 3)
    with pytest.raises(Cancelled):
        report(network, ctx=ctx)
    before = list(seen)
    assert report(network, ctx=ctx).model_dump_json() == whole.model_dump_json()
    assert "fisher-classification" in before
    assert "fisher-classification" not in seen[len(before) :]


def test_reports_from_before_several_attacks_still_say_what_was_followed(network):
    new = {"trajectories", "readings", "gap_boundary", "weighted_boundaries", "seeds", "inversion_true_definition"}
    of_unit = {
        "empirical_share", "inversion_true_share", "classification_interval", "inversion_interval", "placebo_interval",
        "classification_trimmed", "inversion_trimmed",
    }  # fmt: skip
    stored = report(network).model_dump(mode="json", exclude=new)
    stored["units"] = [{k: v for k, v in unit.items() if k not in of_unit} for unit in stored["units"]]
    stored["per_step_share"] = [[0.2] * 5, [0.2] * 5]
    (trajectory,) = FisherReport.model_validate(stored).followed
    assert (trajectory.attack, trajectory.fracs) == ("ppa", (0.0, 1.0))
    assert len(trajectory.per_step_share) == 2
