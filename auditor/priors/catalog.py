"""The catalog of priors: add one by writing its file and naming its builder here."""

from auditor.priors.dcgan import DcganBuilder
from auditor.priors.network import PriorBuilder
from auditor.priors.pixel import PixelBuilder
from auditor.priors.vae import VaeBuilder
from auditor.registry import Catalog

PRIORS: Catalog[PriorBuilder] = Catalog("prior", (VaeBuilder, DcganBuilder, PixelBuilder))
"""Every image prior by name; `PRIORS.build(name, params).train(public, ctx)` gives the prior."""
