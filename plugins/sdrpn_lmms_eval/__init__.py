"""sdrpn's models in lmms-eval: ``python -m lmms_eval --model sdrpn`` (extra ``lmms-eval``).

lmms-eval finds :mod:`sdrpn_lmms_eval.manifest` by the entry-point group ``lmms_eval.models``. This
package and the manifest import neither torch nor lmms-eval's models.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["TASKS"]

TASKS = Path(__file__).resolve().parent / "tasks"
"""Folder of the tasks that ship with sdrpn, for ``--include_path``; they need no network."""
