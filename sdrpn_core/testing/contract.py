"""The whole contract, one base class per subject."""

from __future__ import annotations

from sdrpn_core.testing.batches import BatchChecks
from sdrpn_core.testing.devices import DeviceChecks
from sdrpn_core.testing.geometry import GeometryChecks
from sdrpn_core.testing.layout import LayoutChecks
from sdrpn_core.testing.limits import LimitChecks
from sdrpn_core.testing.positions import PositionChecks
from sdrpn_core.testing.prefix import PrefixChecks
from sdrpn_core.testing.presets import PresetChecks
from sdrpn_core.testing.rpn import RPNChecks
from sdrpn_core.testing.stock import StockChecks
from sdrpn_core.testing.taps import TapChecks


class BackboneContract(
    LayoutChecks,
    GeometryChecks,
    PositionChecks,
    StockChecks,
    TapChecks,
    PrefixChecks,
    BatchChecks,
    RPNChecks,
    PresetChecks,
    LimitChecks,
    DeviceChecks,
):
    """Checks of one backbone adapter; subclass it in a test module and set ``make``.

    The options are the class attributes of
    :class:`~sdrpn_core.testing.subject.ContractSubject`.
    """
