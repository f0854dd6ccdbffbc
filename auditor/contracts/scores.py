"""A score is a measured value with its interval, or the reason why there is none."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from auditor.contracts.base import Contract


class Measured(Contract):
    """A metric that was computed."""

    kind: Literal["measured"] = "measured"
    metric: str
    """Stable snake_case name, e.g. `both_agree_top1`."""
    value: float
    """Point estimate."""
    n: int
    """Number of images (or pairs) behind it."""
    low: float
    """Lower bound of the 95 % interval (bootstrap over classes)."""
    high: float
    """Upper bound of the 95 % interval."""
    unit: str = "frac"
    """`frac` (share in [0, 1]), `ratio` (lift, may leave [0, 1]), `squared_l2`, `dB` or `index` (SSIM, in [-1, 1])."""
    higher_is_riskier: bool = True


class NotMeasured(Contract):
    """A metric that could not be computed; on a required metric this makes the verdict inconclusive."""

    kind: Literal["not_measured"] = "not_measured"
    metric: str
    reason: str


Score = Annotated[Measured | NotMeasured, Field(discriminator="kind")]
