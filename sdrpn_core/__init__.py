"""sdrpn teaches a frozen multimodal LLM where to look.

The public names are listed in ``__init__.pyi``. Each is imported on first use, so that ``import
sdrpn_core`` needs neither torch nor transformers.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
