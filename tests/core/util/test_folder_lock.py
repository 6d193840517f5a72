"""One writer per folder: the second is refused with the name of the first, a dead one is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from sdrpn_core.errors import SdrpnError
from sdrpn_core.util.folder_lock import hold_folder

HOLD = """
import sys, time
from pathlib import Path
from sdrpn_core.util.folder_lock import hold_folder
with hold_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_with_the_name_of_the_first(holder, tmp_path):
    with pytest.raises(SdrpnError, match=rf"in use by process {holder.pid} on "):
        hold_folder(tmp_path / "run").__enter__()


def test_a_kill_releases_the_folder(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold_folder(tmp_path / "run"):
        pass


def test_an_error_releases_the_folder(tmp_path):
    with pytest.raises(KeyError), hold_folder(tmp_path):
        raise KeyError
    with hold_folder(tmp_path):
        pass


def test_what_killed_writers_left_is_removed_at_every_depth(tmp_path):
    stale = tmp_path / "deep" / f".weights.{os.getpid()}-0123abcd.tmp"
    stale.parent.mkdir()
    stale.write_bytes(b"half")
    kept = tmp_path / ".notes.tmp"
    kept.write_bytes(b"not of ours")
    with hold_folder(tmp_path):
        assert not stale.exists()
        assert kept.exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SdrpnError, match="cannot lock the folder"):
        hold_folder(tmp_path / "file" / "run").__enter__()
