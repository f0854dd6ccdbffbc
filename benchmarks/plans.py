"""The plans of the submissions that `benchmarks.real_data` makes."""

from __future__ import annotations

from typing import Any

_VAE: dict[str, Any] = {"name": "vae", "params": {"latent_dim": 384, "steps": 0}}
TRAINED: dict[str, Any] = {"priors": [_VAE, {"name": "dcgan", "params": {"steps": 300, "lr": 5e-4}}]}
"""The default prior in its linear form, fitted in seconds and the strongest at this size, and GMI's."""
RANDOM: dict[str, Any] = {"priors": [_VAE], "attacks": [{"name": "ppa"}, {"name": "mirror-b"}]}
"""One white-box and one score-level attack: enough to show that a network that knows nobody gives no lift."""


_AVERAGED: dict[str, Any] = {"averaged": 3}
EVERY: dict[str, Any] = {
    "overrides": {"fisher": {"enabled": False}, "autocast_bf16": True},
    "priors": [
        {"name": "vae", "params": {"latent_dim": 256, "steps": 0}},
        {"name": "vae-gan", "params": {"latent_dim": 256, "steps": 150, "gan_steps": 150}},
        {"name": "dcgan", "params": {"steps": 300, "lr": 5e-4}},
        {"name": "kedmi-gan", "params": {"width": 16}},
        *({"name": name} for name in ("plg-gan", "tac-gan", "pixels", "dip")),
    ],
    "attacks": [
        {"name": "ppa"},
        {"name": "ppa", "label": "ppa-averaged", "params": _AVERAGED},
        {"name": "ppa", "label": "ppa-scrub", "params": _AVERAGED | {"erase": 0.4, "scrub": 1.0}},
        {"name": "if-gmi"},
        {"name": "if-gmi", "label": "if-gmi-gan", "prior": "vae-gan"},
        {"name": "mirror-w"},
        {"name": "gmi", "prior": "dcgan"},
        {"name": "kedmi"},
        {"name": "vmi"},
        {"name": "lomma", "params": {"base": "gmi"}},
        {"name": "plg-mi"},
        {"name": "mirror-b"},
        {"name": "smile", "params": {"queries": 301}},
        {"name": "c2fmi"},
        {"name": "rlb-mi", "params": {"steps": 100}},
        *({"name": name} for name in ("lokt", "brep-mi", "deep-inversion", "dip", "pixel-tv", "mi-face")),
    ],
}
"""Every attack of the catalog on a prior that suits it; trainings sized for a CPU."""


_NO_LAYERS: dict[str, Any] = {"overrides": {"fisher": {"enabled": False}}}
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "white-box": {"attacks": [{"name": "ppa"}, {"name": "ppa", "label": "ppa-averaged", "params": _AVERAGED}]},
    "score": _NO_LAYERS
    | {"attacks": [{"name": "mirror-b"}, {"name": "c2fmi"}, {"name": "smile", "params": {"queries": 301}}]},
    "split": _NO_LAYERS
    | {"split": "features.6", "priors": [], "attacks": [{"name": "inverse-network"}, {"name": "rmle"}]},
}
"""The part of a plan for those who reach a model so; the cut is one of `small-cnn`."""


TEN: dict[str, Any] = _NO_LAYERS | {
    "attacks": [
        {"name": "ppa"},
        {"name": "ppa", "label": "erased", "params": {"averaged": 4, "erase": 0.4}},
        *({"name": name} for name in ("mirror-w", "if-gmi", "kedmi", "plg-mi")),
        {"name": "lomma", "params": {"base": "gmi"}},
        {"name": "mirror-b"},
        {"name": "c2fmi"},
        {"name": "brep-mi", "params": {"iterations": 100, "patience": 20}},
    ]
}
"""For a repaired model beside its submission: attacks of every access, in three priors."""
_TARGETED = [{"name": "kedmi-gan", "params": {"width": 16}}, {"name": "plg-gan"}]


def repair_plan(latent_dim: int, n_classes: int, samples: int, deployment: str, *, ten: bool = False) -> dict[str, Any]:
    """Plan and policy of what `benchmarks.repairs` compares by, for one that is deployed as `DEPLOYMENTS` says.

    White-box: PPA plain and averaged, in the linear prior, with layer scores; or `TEN` attacks.
    """
    prior = {"name": "vae", "params": {"latent_dim": latent_dim, "steps": 0}}
    plan = {"preset": "standard", "n_classes": n_classes, "samples_per_class": samples, "priors": [prior]}
    if ten:
        return {"plan": plan | {"priors": [prior, *_TARGETED]} | TEN}
    return {"plan": plan | DEPLOYMENTS[deployment], "policy": {"deployment_access": deployment}}
