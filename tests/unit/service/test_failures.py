import pytest

from auditor import errors
from auditor.contracts.jobs import Failed
from auditor.service.failures import error_of, failure_of


def every_error(base=errors.AuditorError):
    return [base, *(found for child in base.__subclasses__() for found in every_error(child))]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_crosses_the_process_boundary_as_itself(kind):
    sent = kind("it went wrong", remedy="do this")
    got = error_of(Failed.model_validate_json(failure_of(sent).model_dump_json()))
    assert type(got).code == kind.code
    assert isinstance(got, kind)
    assert (str(got), got.remedy, got.exit_code) == ("it went wrong", "do this", kind.exit_code)


def test_all_problems_cross_together():
    got = error_of(failure_of(errors.RefusedFile(["one", "two"])))
    assert isinstance(got, errors.RefusedFile)
    assert got.problems == ("one", "two")


def test_a_code_of_a_newer_version_is_still_an_error():
    got = error_of(Failed(code="of_tomorrow", problems=("x",), remedy="y"))
    assert type(got) is errors.AuditorError
    assert got.message == "x"
