"""What every backbone adapter must satisfy, as a pytest suite.

May import every room but ``cli``, ``labeling``, ``utility``, ``shards``, ``head_finding`` and
``distributed``.

A test module of three lines runs it::

    from sdrpn_core.testing import BackboneContract

    class TestMyFamily(BackboneContract):
        make = staticmethod(my_tiny_backbone)

``my_tiny_backbone(attn_implementation="sdpa")`` returns the adapter on a small model of the
family's real class, with random weights, in float32 on the CPU. See :class:`BackboneContract` for
options.
"""

from importlib.util import find_spec

from sdrpn_core.errors import MissingExtraError

if find_spec("pytest") is None:
    raise MissingExtraError("sdrpn_core.testing", "test")

from sdrpn_core.testing.contract import BackboneContract

__all__ = ["BackboneContract"]
