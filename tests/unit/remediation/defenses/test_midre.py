import pytest
import torch

from auditor.errors import InvalidInput
from remediation.defenses import midre
from remediation.defenses.catalog import DEFENSES
from remediation.defenses.midre import LEAST_AREA, random_erasing

FILL = torch.tensor([0.9, 0.1])
IMAGES = torch.full((200, 2, 16, 16), 0.5)


@pytest.mark.parametrize("largest", [0.4, 0.8])
def test_a_part_of_every_image_is_erased_within_its_bounds_and_filled(largest):
    erased = random_erasing(FILL, largest)(IMAGES, torch.Generator().manual_seed(0))
    holes = erased[:, 0] != 0.5
    shares = holes.float().mean(dim=(1, 2))
    assert float(shares.min()) >= LEAST_AREA - 1e-6
    assert float(shares.max()) <= largest + 1e-6
    assert len(shares.unique()) > 3
    assert torch.equal(erased[:, 0][holes], FILL[0].expand(int(holes.sum())))
    assert torch.equal(erased[:, 1][holes], FILL[1].expand(int(holes.sum())))
    covered = holes.float().mean(dim=0)
    assert float(covered.min()) > 0  # every place is hidden at some time, and none always
    assert float(covered.max()) < 1


def test_one_seed_erases_one_way():
    first, again, other = (random_erasing(FILL, 0.4)(IMAGES, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_part_of_the_images_own_proportions_is_erased():
    images = torch.full((200, 2, 24, 40), 0.5)
    holes = random_erasing(FILL, 0.4)(images, torch.Generator().manual_seed(0))[:, 0] != 0.5
    rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
    assert torch.equal(holes.sum((1, 2)), rows * columns)
    assert float((rows / 24 - columns / 40).abs().max()) < 1 / 24 + 1 / 40
    assert float(holes.float().mean((1, 2)).min()) >= LEAST_AREA
    assert float(holes.float().mean((1, 2)).max()) <= 0.4


def test_every_training_image_is_erased_in_their_mean_colour(monkeypatch, defended, tiny_data):
    seen = []

    def spied(fill, max_area):
        change = random_erasing(fill, max_area)

        def erase(images, generator):
            erased = change(images, generator)
            seen.append((fill, max_area, (erased != images).float().mean((1, 2, 3))))
            return erased

        return erase

    monkeypatch.setattr(midre, "random_erasing", spied)
    defended("midre", max_area=0.6)
    assert len(seen) == 2 * 48 // 16  # epochs * images / batch
    for fill, max_area, shares in seen:
        assert max_area == 0.6
        torch.testing.assert_close(fill, tiny_data.fit.images.mean((0, 2, 3)))
        assert float(shares.min()) > LEAST_AREA - 0.01


def test_erasing_nearly_everything_is_refused():
    with pytest.raises(InvalidInput, match="max_area"):
        DEFENSES.build("midre", {"max_area": 0.9})
