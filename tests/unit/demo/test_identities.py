"""The renderer: deterministic, disjoint, with identities that differ more than images of one identity."""

import hashlib

import numpy as np
import pytest
import torch

from auditor.data.overlap import check_overlap
from auditor.demo.identities import (
    IdentityParameters,
    draw_identities,
    private_and_public,
    render_identities,
)
from auditor.demo.painting import NUISANCES, PARAMETERS, paint


def distance(a, b):
    return np.sqrt(np.square(a[:, None] - b[None]).mean(axis=2))


def test_the_same_seed_gives_the_same_bytes():
    people = draw_identities(5, 3)
    first, second = (render_identities(people, 3, 32, 7) for _ in range(2))
    assert first.digest == second.digest
    assert first.images.shape == (15, 32, 32, 3)
    assert first.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert len(first.class_names) == 5
    assert render_identities(people, 3, 32, 8).digest != first.digest
    assert render_identities(draw_identities(5, 4), 3, 32, 7).digest != first.digest


def test_an_image_does_not_depend_on_the_others():
    people = draw_identities(40, 0)
    whole = render_identities(people, 3, 32, 1).images
    alone = render_identities(IdentityParameters(people.values[:2]), 2, 32, 1).images
    assert np.array_equal(alone[[0, 1, 2, 3]], whole[[0, 1, 3, 4]])


def test_public_people_keep_away_from_private_ones():
    people = draw_identities(30, 0)
    others = draw_identities(200, 1, apart_from=people)
    assert distance(people.values, others.values).min() >= 0.55
    among = distance(others.values, others.values) + 9 * np.eye(200)
    assert among.min() >= 0.55
    copies = draw_identities(30, 0, apart_from=people)
    assert distance(people.values, copies.values).min() >= 0.55


def test_public_and_private_come_from_one_distribution():
    values = [draw_identities(300, seed).values for seed in (0, 1)]
    assert np.abs(values[0].mean(axis=0) - values[1].mean(axis=0)).max() < 0.4
    assert np.abs(np.concatenate(values).std(axis=0) - 1).max() < 0.15


def test_private_heldout_and_public_share_no_image():
    private, heldout, public = private_and_public(6, 12, 4, 3, 32, 0, per_heldout=2)
    assert [len(part) for part in (private, heldout, public)] == [24, 12, 36]
    assert private.class_names == heldout.class_names
    every = [hashlib.sha256(image.tobytes()).digest() for part in (private, heldout, public) for image in part.images]
    assert len(set(every)) == len(every)
    check = check_overlap(private, public)
    assert (check.exact_duplicates, check.near_duplicates) == (0, 0)


def test_people_differ_more_than_pictures_of_one_person():
    """Nearest centroid on raw pixels is far above chance and far from perfect."""
    people = draw_identities(20, 0)
    train, test = (render_identities(people, 10, 32, seed).images.reshape(200, -1) / 255.0 for seed in (1, 2))
    centroids = train.reshape(20, 10, -1).mean(axis=1)
    nearest = np.square(test[:, None] - centroids[None]).sum(axis=2).argmin(axis=1)
    accuracy = (nearest == np.repeat(np.arange(20), 10)).mean()
    assert 0.2 < accuracy < 0.98


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_changes_the_face_smoothly(name):
    steps = torch.linspace(-2, 2, 21)
    parameters = torch.zeros(21, len(PARAMETERS))
    if name == "glasses_size":
        parameters[:, PARAMETERS.index("glasses")] = 2
    if name == "hair_red":
        parameters[:, PARAMETERS.index("hair_tone")] = 1
    parameters[:, PARAMETERS.index(name)] = steps
    faces = paint(parameters, torch.zeros(21, len(NUISANCES)), 32)
    whole = float((faces[-1] - faces[0]).abs().amax())
    jumps = (faces.diff(dim=0)).square().mean(dim=(1, 2, 3)).sqrt()
    assert whole > 0.05
    assert float(jumps.max()) < 0.09


@pytest.mark.parametrize("name", NUISANCES)
def test_every_nuisance_changes_the_picture(name):
    nuisance = torch.zeros(2, len(NUISANCES))
    nuisance[:, NUISANCES.index(name)] = torch.tensor([-2.0, 2.0])
    pictures = paint(torch.zeros(2, len(PARAMETERS)), nuisance, 32)
    assert float((pictures[1] - pictures[0]).abs().amax()) > 0.03
    assert bool(torch.isfinite(pictures).all())


def test_other_sizes_show_the_same_face():
    people = torch.from_numpy(draw_identities(4, 0).values)
    nuisance = torch.zeros(4, len(NUISANCES))
    small, large = paint(people, nuisance, 32), paint(people, nuisance, 64)
    halved = torch.nn.functional.avg_pool2d(large, 2)
    assert float((small - halved).abs().mean()) < 0.03
