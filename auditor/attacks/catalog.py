"""The catalog of attacks: add one by writing its file and naming its class here."""

from typing import Any

from auditor.attacks.base import Attack
from auditor.attacks.best_of_prior import BestOfPrior
from auditor.attacks.brep_mi import BrepMi
from auditor.attacks.c2fmi import C2fmi
from auditor.attacks.deep_inversion import DeepInversion
from auditor.attacks.dip import Dip
from auditor.attacks.gmi import Gmi
from auditor.attacks.if_gmi import IfGmi
from auditor.attacks.kedmi import Kedmi
from auditor.attacks.lokt import Lokt
from auditor.attacks.lomma import Lomma
from auditor.attacks.mi_face import MiFace
from auditor.attacks.mirror_b import MirrorB
from auditor.attacks.mirror_w import MirrorW
from auditor.attacks.pixel_tv import PixelTv
from auditor.attacks.plg_mi import PlgMi
from auditor.attacks.ppa import Ppa
from auditor.attacks.rlb_mi import RlbMi
from auditor.attacks.smile import Smile
from auditor.attacks.vmi import Vmi
from auditor.registry import Catalog

ATTACKS: Catalog[Attack[Any]] = Catalog(
    "attack",
    (
        Gmi,
        Kedmi,
        Vmi,
        Lomma,
        PlgMi,
        Ppa,
        IfGmi,
        MirrorW,
        MirrorB,
        C2fmi,
        RlbMi,
        Smile,
        BrepMi,
        Lokt,
        MiFace,
        PixelTv,
        Dip,
        DeepInversion,
        BestOfPrior,
    ),
)
"""Every attack by name, controls included."""
