"""``python -m sdrpn_core``: the command line for launchers that start a module."""

from __future__ import annotations

from sdrpn_core.cli.main import main

if __name__ == "__main__":
    main()
