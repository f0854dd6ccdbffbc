"""What an attack will send through the networks, by its parameters alone: the basis of a plan's estimates."""

from __future__ import annotations

from pydantic import Field

from auditor.contracts.base import Contract


class Cost(Contract):
    """Counts of images for one run of an attack over some classes.

    Exact unless `bound`; the query counter of a run without a budget ends at `forward` and `backward`.
    """

    forward: int = Field(ge=0)
    """Images sent to the target."""
    backward: int = Field(default=0, ge=0)
    """Of `forward`: images whose gradient is taken."""
    shared: int = Field(default=0, ge=0)
    """Of `forward`: images sent however many rows are attacked, e.g. a pool that serves all classes."""
    once: int = Field(default=0, ge=0)
    """Images sent while the helper networks are trained, once per target; not in `forward`."""
    decodes: int = Field(default=0, ge=0)
    """Pictures drawn by the prior without a gradient."""
    gradient_decodes: int = Field(default=0, ge=0)
    """Pictures drawn by the prior whose gradient is taken."""
    helper_passes: int = Field(default=0, ge=0)
    """Images sent, with a gradient, through networks that stand in for target or prior: students, surrogates."""
    bound: bool = False
    """The counts are upper bounds: the method may stop early."""
