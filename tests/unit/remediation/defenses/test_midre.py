import pytest
import torch

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


def test_it_trains(defended):
    assert torch.isfinite(defended("midre").module.head.weight).all()
