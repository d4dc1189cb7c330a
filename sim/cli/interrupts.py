"""How a command ends that is interrupted: by INT (Ctrl-C) or TERM, without a traceback.

Until the program is loaded there is nothing to keep, and it ends at once. Then the first interrupt
is a KeyboardInterrupt, so that what is done can be kept; a second one ends it at once. One that
falls where Python can only print it (a destructor, a callback) comes again a moment later.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

INTERRUPTED = 130
_AGAIN_S = 0.01
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_heard = False


def at_once() -> None:
    """From now on an interrupt ends the process."""
    for number in _SIGNALS:
        signal.signal(number, _end)


def kept() -> None:
    """From now on the first interrupt is a KeyboardInterrupt."""
    sys.unraisablehook = _unraisable
    for number in _SIGNALS:
        signal.signal(number, _interrupt)


def done() -> None:
    """All is written: from now on an interrupt is too late to matter."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """End without waiting for threads and workers, who end by themselves."""
    at_once()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _end(number: int, frame: Any) -> None:
    os.write(2, b"podscope: interrupted\n")
    os._exit(INTERRUPTED)


def heard() -> bool:
    """Whether there was an interrupt: another error then is what it turned into on its way up."""
    return _heard


def _interrupt(number: int, frame: Any) -> None:
    global _heard
    _heard = True
    at_once()
    raise KeyboardInterrupt


def _unraisable(what: Any) -> None:
    if not issubclass(what.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(what)
        return
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()
