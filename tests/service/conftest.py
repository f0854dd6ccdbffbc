"""Fixtures of the use-cases' tests."""

import pytest
from audit_house import House


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)
