"""The judge's search for copies as a part of the prepare unit."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from auditor.contracts.cards import OverlapCheck
from auditor.data.image_set import ImageSet
from auditor.evaluation.judge import supplied_judge
from auditor.service.stages import prepare
from auditor.service.workspace import Workspace
from auditor.tensors import RunContext


def pictures(n, seed):
    coarse = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = interpolate(coarse, (32, 32), mode="bicubic", align_corners=False).clamp(0, 1)
    return (smooth * 255).round().byte().permute(0, 2, 3, 1).numpy()


def embed(images):
    flat = interpolate(images, (8, 8), mode="area").flatten(1)
    return flat - flat.mean(1, keepdim=True)


class Target:
    image_shape = (3, 32, 32)


@pytest.fixture
def sets():
    labels = np.arange(40) % 10
    fit, heldout = ImageSet("fit", pictures(40, 1), labels), ImageSet("heldout", pictures(40, 2), labels)
    cropped = heldout.images[7][2:, :30].repeat(2, axis=0).repeat(2, axis=1)
    stolen = interpolate(torch.from_numpy(cropped).permute(2, 0, 1)[None].float(), (32, 32), mode="area")
    public = np.concatenate([pictures(200, 3), stolen.round().byte().permute(0, 2, 3, 1).numpy()])
    found = prepare.Sets(fit=fit, heldout=heldout, public=ImageSet("public", public))
    found.overlap = OverlapCheck(checked=True, planted=64, planted_found=64, note="Before.")
    return found


def test_a_cropped_held_out_image_among_the_public_ones_is_named_and_the_search_kept(sets, tmp_path, monkeypatch):
    judge = supplied_judge(embed, "digest")
    workspace = Workspace(tmp_path / "one", tmp_path / "cache")
    overlap = prepare.with_copies(workspace, sets, judge, Target, RunContext())
    assert overlap.copies == 1
    assert overlap.note == "Before. Copies by the judge's features (private row/public row): held-out[7]/200"
    assert (overlap.checked, overlap.planted_found) == (True, 64)
    assert overlap.cropped_found > overlap.cropped / 2
    monkeypatch.setattr(prepare, "search_copies", None)
    again = prepare.with_copies(Workspace(tmp_path / "two", tmp_path / "cache"), sets, judge, Target, RunContext())
    assert again == overlap


def test_without_public_images_there_is_nothing_to_search(sets, tmp_path):
    sets.public = None
    judge = supplied_judge(embed, "digest")
    workspace = Workspace(tmp_path / "one", tmp_path / "cache")
    assert prepare.with_copies(workspace, sets, judge, Target, RunContext()) == sets.overlap
