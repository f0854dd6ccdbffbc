import pytest
import torch

from auditor.contracts.plan import FisherSpec
from auditor.errors import InvalidInput
from auditor.fisher.report import fisher_report
from auditor.targets.architectures import SmallCnn
from auditor.tensors import ImageBatch, RunContext


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SmallCnn(6, 1, (4, 4, 8, 8)).train()


def pictures(n, seed):
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def report(network, *, fit=None, steps=None, labels=None, ctx=None, spec=None):
    labels = torch.arange(12) % 6 if labels is None else labels
    return fisher_report(
        network,
        lambda images: images * 2 - 1,
        fit or ImageBatch(pictures(30, 0), torch.arange(30) % 6),
        steps or [(0.0, pictures(12, 1)), (1.0, pictures(12, 2))],
        labels,
        pictures(12, 3),
        torch.arange(12) % 6,
        spec or FisherSpec(n_classes=5, images_per_class=2),
        ctx or RunContext(batch_size=16),
        trajectory_attack="ppa",
        n_bootstrap=200,
    )


def test_a_complete_report(network):
    ticks = []
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = report(network, ctx=RunContext(batch_size=16, on_tick=lambda *args: ticks.append(args)))
    assert [unit.name for unit in found.units] == ["features.0", "features.3", "features.7", "features.10", "head"]
    for task in ("classification_share", "inversion_share", "placebo_share"):
        for aggregator in ("relative", "sum", "density"):
            assert sum(getattr(unit, task)[aggregator] for unit in found.units) == pytest.approx(1)
    assert found.classification_definition == "exact"
    assert found.n_images == 10
    assert found.n_classes == 6
    assert found.trajectory == (0.0, 1.0)
    assert [sum(step) for step in found.per_step_share] == pytest.approx([1, 1])
    assert found.verdict == "uninformative"
    assert found.boundary is None
    assert found.candidates
    assert any("20 classes" in note for note in found.notes)
    assert {stage for stage, _, _ in ticks} == {"fisher-classification", "fisher-inversion", "fisher-placebo"}
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_the_same_seed_gives_the_same_bytes_and_batches_do_not_matter(network):
    first, again = report(network), report(network)
    assert first.model_dump_json() == again.model_dump_json()
    other = report(network, ctx=RunContext(batch_size=3))
    assert [u.contrast for u in other.units] == pytest.approx([u.contrast for u in first.units], rel=1e-3, abs=1e-5)


def test_samples_that_are_not_finite_are_dropped_and_counted(network):
    steps = [(0.0, pictures(12, 1)), (1.0, pictures(12, 2))]
    steps[1][1][4] = torch.nan
    assert report(network, steps=steps).dropped_nonfinite == 1


def test_more_classes_than_the_limit_are_sampled(network):
    spec = FisherSpec(n_classes=5, images_per_class=2, exact_up_to=3, label_samples=3)
    assert report(network, spec=spec).classification_definition == "sampled:3"


def test_missing_evidence_is_an_error_not_a_number(network):
    with pytest.raises(InvalidInput, match="labelled"):
        report(network, fit=ImageBatch(pictures(4, 0)))
    with pytest.raises(InvalidInput, match="two classes"):
        report(network, labels=torch.zeros(12, dtype=torch.int64))
    with pytest.raises(InvalidInput, match="two classes"):
        report(network, steps=[(0.0, torch.full((12, 1, 16, 16), torch.nan))])
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
        fit=ImageBatch(images, labels),
        labels=torch.tensor([1, 4] * 6),
        spec=FisherSpec(n_classes=2, images_per_class=2),
    )
    assert found.dropped_nonfinite == 0
