"""The catalog of defenses: adding one is a file in this folder and its class in this tuple."""

from __future__ import annotations

from typing import Any

from auditor.registry import Catalog
from remediation.defenses.base import Defense
from remediation.defenses.bido import Bido
from remediation.defenses.calor import Calor
from remediation.defenses.cem import Cem
from remediation.defenses.confidence_adaptation import ConfidenceAdaptation
from remediation.defenses.dp_sgd import DpSgd
from remediation.defenses.mid import Mid
from remediation.defenses.midre import Midre
from remediation.defenses.neg_ls import NegLs
from remediation.defenses.output_controls import OutputControls
from remediation.defenses.rolss import Rolss
from remediation.defenses.siftfunnel import SiftFunnel
from remediation.defenses.tl_dmi import TlDmi
from remediation.defenses.trap_mid import TrapMid

DEFENSES: Catalog[Defense[Any]] = Catalog(
    "defense",
    (
        TlDmi,
        NegLs,
        Bido,
        Midre,
        TrapMid,
        Mid,
        Calor,
        ConfidenceAdaptation,
        Rolss,
        DpSgd,
        OutputControls,
        Cem,
        SiftFunnel,
    ),
)
