"""Waiting for the other processes of a run, for as long as they are alive.

torch's barriers time out after a fixed time, or never. Neither suits a stage whose processes do
different work: one may be hours behind another, and one may be dead on a machine whose launcher
died with it. So every process sends a heartbeat to the store through which the process group was
formed, and a process that waits checks the heartbeats of those that are late.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from datetime import timedelta

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]  # documented

from sdrpn_core.errors import SdrpnError

__all__ = ["Heartbeat"]

#: Heartbeats within the time after which a process counts as dead: a few may come late.
_BEATS_PER_TIMEOUT = 10
_MAX_BEAT_SECONDS = 10.0

_FIRST_POLL_SECONDS = 0.01
_MAX_POLL_SECONDS = 1.0


class Heartbeat:
    """Sends the heartbeat of this process, and watches those of the others.

    Args:
        rank: this process, from 0.
        world_size: how many there are.
        timeout: seconds without a heartbeat after which a process counts as dead.
    """

    def __init__(self, rank: int, world_size: int, timeout: float) -> None:
        self.rank = rank
        self.world_size = world_size
        self.timeout = timeout
        # A launcher that starts the processes again may keep the store.
        self._prefix = f"sdrpn/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._store = self._connect()
        self._round = 0
        threading.Thread(target=self._beat, name="sdrpn-heartbeat", daemon=True).start()

    def wait(self) -> None:
        """Return when every process has called this as often as this one.

        Raises:
            SdrpnError: a process died; names it.
        """
        self._round += 1
        try:
            self._store.set(self._arrival(self.rank), "")
            self._wait_for(set(range(self.world_size)) - {self.rank})
        except DistError as error:
            raise SdrpnError(
                "lost the connection to the process group: rank 0, its launcher or its machine "
                "died; run the command again to finish"
            ) from error

    def _wait_for(self, late: set[int]) -> None:
        last: dict[int, tuple[bytes, float]] = {}
        poll = _FIRST_POLL_SECONDS
        while late := {rank for rank in late if not self._store.check([self._arrival(rank)])}:
            now = time.monotonic()
            for rank in late:
                beat = self._beat_of(rank)
                if rank not in last or last[rank][0] != beat:
                    last[rank] = (beat, now)
            silent = [rank for rank in late if now - last[rank][1] > self.timeout]
            if silent:
                raise SdrpnError(
                    f"{_ranks(silent)} of {self.world_size} sent no heartbeat for "
                    f"{self.timeout:g} s: dead, or cut off; run the command again to finish"
                )
            time.sleep(poll)
            poll = min(2 * poll, _MAX_POLL_SECONDS)

    def _beat_of(self, rank: int) -> bytes:
        key = f"{self._prefix}/beat/{rank}"
        # Reading a key that is not there would block.
        return self._store.get(key) if self._store.check([key]) else b""

    def _beat(self) -> None:
        interval = min(self.timeout / _BEATS_PER_TIMEOUT, _MAX_BEAT_SECONDS)
        count = 0
        try:
            store = self._connect()  # of its own: a store answers one thread at a time
            while True:
                count += 1
                store.set(f"{self._prefix}/beat/{self.rank}", str(count))
                time.sleep(interval)
        except DistError:
            return  # the run is over, or the main thread will find out when it waits

    def _arrival(self, rank: int) -> str:
        return f"{self._prefix}/arrived/{self._round}/{rank}"

    def _connect(self) -> TCPStore:
        return TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=self.timeout),
            wait_for_workers=False,
        )


def _ranks(ranks: Iterable[int]) -> str:
    listed = sorted(ranks)
    return f"rank{'s' if len(listed) > 1 else ''} {', '.join(map(str, listed))}"
