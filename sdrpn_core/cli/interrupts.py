"""Ctrl-C that no library can swallow.

An import that is interrupted may turn the interrupt into a missing module, and extension modules
drop exceptions that they cannot pass on. So what was asked for once is remembered, and asked for
again until it arrives.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Longer than cleaning up takes, short to somebody who waits.
REPEAT_SECONDS = 1.0


@contextmanager
def interrupts_arrive() -> Iterator[None]:
    """Let Ctrl-C end the block, whatever runs in it when it comes.

    Where interrupts are handled by somebody else, ignored, or not delivered (any thread but the
    main one), nothing changes.

    Raises:
        KeyboardInterrupt: the user interrupted, however that looked to the code in between.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        or not hasattr(signal, "setitimer")
    ):
        yield
        return
    asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
        raise KeyboardInterrupt

    alarm = signal.signal(signal.SIGALRM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
        if asked:
            raise KeyboardInterrupt
    except Exception as error:
        if asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, alarm)
