"""The adapter keeps sdrpn's contract."""

from typing import ClassVar

from sdrpn_core.testing import BackboneContract
from tiny_internvl import tiny_internvl


class TestInternVL(BackboneContract):
    """Everything that sdrpn relies on, against the stock classes."""

    make = staticmethod(tiny_internvl)
    stock_options: ClassVar = {"crop_to_patches": False}

    @classmethod
    def crop_frame(cls, backbone):
        """A crop is one more tile of its image, within the same frame."""
        return [], []
