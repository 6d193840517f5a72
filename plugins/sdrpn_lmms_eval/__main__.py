"""``python -m sdrpn_lmms_eval``: print the folder of the tasks, for ``--include_path``."""

from __future__ import annotations

from sdrpn_lmms_eval import TASKS

if __name__ == "__main__":
    print(TASKS)
