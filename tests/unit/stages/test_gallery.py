"""Which classes a gallery shows: those that leak most, and after a repair those that leaked most before."""

import numpy as np

from auditor.service.stages.gallery import MAX_CLASSES, GalleryEntry, build_gallery
from auditor.testing.reports import sample_outcome, sample_report, sample_target

N_CLASSES = 40
NAMES = [f"person-{label:03d}" for label in range(N_CLASSES)]


def entry(leaking, key="ppa"):
    """Two pictures of every class, of which both are accepted where it leaks."""
    labels = np.repeat(np.arange(N_CLASSES), 2)
    images = np.zeros((len(labels), 3, 32, 32), np.uint8)
    return GalleryEntry(key, images, labels, np.isin(labels, leaking))


def shown(entries, before=None):
    gallery = build_gallery(entries, None, sample_target(), NAMES, before)
    return [row.label for row in gallery.rows]


def report(leaking):
    outcome = sample_outcome("ppa", n_classes=N_CLASSES)
    rows = tuple(row.model_copy(update={"both": float(row.label in leaking)}) for row in outcome.per_class)
    return sample_report(attacks=(outcome.model_copy(update={"per_class": rows}),), n_classes=N_CLASSES)


def test_those_that_leak_most_come_first():
    assert shown([entry([37, 39])]) == [37, 39, *range(MAX_CLASSES - 2)]


def test_after_a_repair_it_shows_those_of_the_audit_before():
    """The same classes in the same order, by the numbers that the report before holds."""
    before = report([37, 39])
    assert shown([entry([30, 31])], before) == shown([entry([37, 39])])


def test_an_attack_that_the_audit_before_had_not():
    assert shown([entry([30, 31], key="adaptive-x")], report([37, 39]))[:2] == [30, 31]


def test_a_class_that_is_not_attacked_any_more_leaves_its_place_to_others():
    whole = entry([30, 31])
    kept = whole.labels != 37
    fewer = GalleryEntry("ppa", whole.images[kept], whole.labels[kept], whole.accepted[kept])
    assert shown([fewer], report([37, 39])) == [39, *range(MAX_CLASSES - 2), MAX_CLASSES - 2]
