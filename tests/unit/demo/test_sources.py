"""Demo data: right splits, plain words, and a clear answer when a source cannot be had."""

import importlib
import types
import urllib.error

import numpy as np
import pytest

from auditor.data.overlap import require_disjoint
from auditor.demo.sources import demo_data, demo_names
from auditor.errors import InvalidInput, UnknownName


def test_identities_are_the_default_and_say_what_they_are():
    data = demo_data(size=32, seed=1, n_private=4, n_public=6, per_private=3, per_public=2)
    assert (len(data.private), len(data.heldout), len(data.public)) == (12, 20, 12)
    assert data.private.images.shape[1:] == (32, 32, 3)
    assert "none of whom exists" in data.description
    assert demo_names()[0] == "identities"
    assert data.private.digest == demo_data("identities", 32, 1, n_private=4, n_public=6, per_private=3).private.digest


def test_digits():
    pytest.importorskip("sklearn")
    data = demo_data("digits", 32, 0)
    assert data.private.class_names == ("0", "1", "2", "3", "4")
    assert data.public.class_names == ("5", "6", "7", "8", "9")
    assert data.private.images.shape[1:] == (32, 32, 1)
    assert len(data.private) + len(data.heldout) == 901
    assert sorted(set(data.public.labels.tolist())) == [0, 1, 2, 3, 4]
    assert not data.mirror_keeps_class
    assert data.private.images.max() == 255
    require_disjoint(data.private, data.public)
    require_disjoint(data.heldout, data.private)


def fake(monkeypatch, **functions):
    monkeypatch.setattr(importlib, "import_module", lambda _name: types.SimpleNamespace(**functions))


def test_olivetti(monkeypatch):
    images = np.random.default_rng(0).random((400, 64, 64)).astype(np.float32)
    loaded = types.SimpleNamespace(images=images, target=np.repeat(np.arange(40), 10))
    fake(monkeypatch, fetch_olivetti_faces=lambda: loaded)
    data = demo_data("olivetti", 32, 0)
    assert (len(data.private), len(data.heldout), len(data.public)) == (160, 40, 200)
    assert (data.private.n_classes, data.public.n_classes) == (20, 20)
    assert data.private.images.shape[1:] == (32, 32, 1)


def test_lfw_takes_the_most_frequent_people_as_private(monkeypatch):
    counts = [3, 9, 4, 8]
    labels = np.repeat(np.arange(4), counts)
    images = np.random.default_rng(0).random((24, 64, 64, 3)).astype(np.float32) * 255
    loaded = types.SimpleNamespace(images=images, target=labels, target_names=np.array(["a", "b", "c", "d"]))
    fake(monkeypatch, fetch_lfw_people=lambda **_options: loaded)
    data = demo_data("lfw", 32, 0, n_private=2, per_public=2)
    assert data.private.class_names == ("b", "d")
    assert data.public.class_names == ("c", "a")
    assert np.bincount(data.public.labels).tolist() == [2, 2]
    assert 200 < data.private.images.max() <= 255


@pytest.mark.parametrize("name", ["olivetti", "lfw"])
def test_no_network_is_said(monkeypatch, name):
    def fail(**_options):
        raise urllib.error.URLError("Name or service not known")

    fake(monkeypatch, fetch_olivetti_faces=fail, fetch_lfw_people=fail)
    with pytest.raises(InvalidInput, match=r"could not be downloaded: URLError: .*Name or service not known") as caught:
        demo_data(name)
    assert "--data identities" in caught.value.remedy


def test_missing_scikit_learn_is_said(monkeypatch):
    real = importlib.import_module

    def missing(name, *arguments):
        if name.startswith("sklearn"):
            raise ImportError("No module named 'sklearn'")
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InvalidInput, match="needs scikit-learn") as caught:
        demo_data("digits")
    assert "auditor[demo-data]" in caught.value.remedy


def test_unknown_source():
    with pytest.raises(UnknownName, match="Known: identities, digits, olivetti, lfw"):
        demo_data("faces")
