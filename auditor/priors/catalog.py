"""The catalog of priors: add one by writing its file and naming its builder here."""

from auditor.priors.dcgan import DcganBuilder
from auditor.priors.dip import DipBuilder
from auditor.priors.kedmi_gan import KedmiGanBuilder
from auditor.priors.network import PriorBuilder
from auditor.priors.pixel import PixelBuilder
from auditor.priors.pixels import PixelsBuilder
from auditor.priors.plg_gan import PlgGanBuilder
from auditor.priors.tac_gan import TacGanBuilder
from auditor.priors.vae import VaeBuilder
from auditor.priors.vae_gan import VaeGanBuilder
from auditor.registry import Catalog

PRIORS: Catalog[PriorBuilder] = Catalog(
    "prior",
    (
        VaeBuilder,
        VaeGanBuilder,
        DcganBuilder,
        KedmiGanBuilder,
        PlgGanBuilder,
        TacGanBuilder,
        PixelBuilder,
        PixelsBuilder,
        DipBuilder,
    ),
    beside=("onnx",),
)
"""Every image prior by name; `PRIORS.build(name, params).train(public, ctx)` gives the prior.

`onnx` is the team's own generator, which is loaded and not built.
"""
