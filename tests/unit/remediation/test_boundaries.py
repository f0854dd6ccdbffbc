import pytest

from auditor.contracts.fisher import FisherReport
from auditor.errors import InvalidInput
from remediation.boundaries import MAX_SWEPT, candidate_boundaries, sweep_boundaries


def fisher(n_units, boundary, candidates=()):
    unit = {
        "name": "u", "parameters": (), "n_parameters": 1, "depth_frac": 0.5, "classification_share": {},
        "inversion_share": {}, "placebo_share": {}, "contrast": 0, "contrast_low": 0, "contrast_high": 0,
    }  # fmt: skip
    return FisherReport(
        units=tuple(unit | {"name": f"u{i}"} for i in range(n_units)),
        classification_definition="exact",
        trajectory=(1.0,),
        trajectory_attack="ppa",
        gap=0.2,
        gap_low=0.1,
        gap_high=0.3,
        boundary=boundary,
        candidates=candidates,
        verdict="uninformative" if boundary is None else "informative",
        n_classes=20,
        n_images=100,
    )


def test_the_fisher_boundary_comes_with_depth_quantiles():
    assert candidate_boundaries(10, fisher(10, 4, (3, 4, 5))) == {3: "quantile", 4: "fisher", 7: "quantile"}


@pytest.mark.parametrize("report", [None, fisher(10, None, (3, 5))])
def test_without_it_depth_alone_decides(report):
    assert candidate_boundaries(10, report) == {3: "quantile", 5: "quantile", 7: "quantile"}


def test_boundaries_are_mapped_by_depth_between_networks():
    assert candidate_boundaries(20, fisher(10, 4), n_wanted=1) == {8: "fisher"}


@pytest.mark.parametrize("n_units", range(2, 9))
def test_at_least_three_where_the_network_has_them_and_never_the_head(n_units):
    found = candidate_boundaries(n_units, fisher(n_units, 1))
    assert len(found) == min(3, n_units - 1)
    assert all(1 <= k <= n_units - 1 for k in found)


def test_named_boundaries_are_taken_and_checked():
    assert candidate_boundaries(10, None, given=(9, 0, 0)) == {0: "user", 9: "user"}
    with pytest.raises(InvalidInput, match="10"):
        candidate_boundaries(10, None, given=(10,))
    with pytest.raises(InvalidInput, match="single unit"):
        candidate_boundaries(1, None)


def test_a_sweep_tries_every_boundary_and_spreads_over_deep_networks():
    assert sweep_boundaries(5, None) == dict.fromkeys(range(5), "sweep")
    assert sweep_boundaries(5, fisher(5, 2))[2] == "fisher"
    deep = sweep_boundaries(100, fisher(100, 37))
    assert (min(deep), max(deep), deep[37]) == (0, 99, "fisher")
    assert len(deep) == MAX_SWEPT + 1
