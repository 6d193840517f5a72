"""Runs several ``sdrpn`` commands in one process: ``python -m tests.several_commands JSON``.

A launcher takes seconds to start its processes, most of all to import torch. ``JSON`` is a list of
commands, each a list of words.
"""

from __future__ import annotations

import json
import sys

from sdrpn_core.cli.main import main

if __name__ == "__main__":
    for words in json.loads(sys.argv[1]):
        try:
            main(words)
        except SystemExit as end:
            if end.code:
                raise
