import torch

from remediation.defenses.trap_mid import TRIGGERS, planted


def test_a_trigger_is_blended_in():
    images, triggers = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    assert torch.allclose(planted(images, triggers, 0.02), torch.full((2, 1, 2, 2), 0.02))


def test_triggers_work_stay_secret_and_in_range(defended, tiny_network, tiny_data):
    """At a strong blend a short training plants the trap, and plain images are still told for what they are."""
    repaired = defended("trap-mid", epochs=80, blend=0.5, trap_weight=0.5, lr=3e-3)
    triggers = repaired.secrets["triggers"]
    assert triggers.shape == (3, 1, 16, 16)
    assert 0 <= float(triggers.min()) <= float(triggers.max()) <= 1
    assert set(repaired.module.state_dict()) == set(tiny_network.state_dict())
    assert TRIGGERS not in dict(repaired.module.named_buffers())
    images = tiny_data.validation
    wanted = (images.labels + 1) % 3
    with torch.no_grad():
        told = repaired.module(planted(images.images, triggers[wanted], 0.5)).argmax(1)
        plain = repaired.module(images.images).argmax(1)
    assert float((told == wanted).float().mean()) > 0.7
    assert float((plain == images.labels).float().mean()) > 0.7
    assert any("told as it" in note for note in repaired.notes)


def test_it_combines_with_smoothing_and_freezing(defended):
    repaired = defended("trap-mid", boundary=2, smoothing=-0.05)
    assert repaired.freeze.digest_before == repaired.freeze.digest_after
    assert torch.isfinite(repaired.module.head.weight).all()
