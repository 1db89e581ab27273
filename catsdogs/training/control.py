"""One training at a time: what may start one, what stops it, and the errors that end it."""

import contextlib
import threading
from collections.abc import Iterator


class _Message:
    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()  # IPython shows these lines in place of a traceback


class TrainingError(_Message, ValueError):
    """Why nothing can be trained, or why training ended: a message for the person who trains.

    In a notebook it is shown without a traceback, and the cells queued behind it do not run.
    """


class BusyError(TrainingError):
    """A different thread is training: that of the notebook's cells, or that of the panel."""


class DivergedError(TrainingError):
    """The loss is no longer a finite number."""

    def __init__(self, epoch: int):
        super().__init__(
            f"Training diverged: in epoch {epoch} the loss is no longer a finite number, so the "
            "run has ended and nothing of it is kept. Most often LEARNING_RATE is too high: try a "
            "tenth of it, or a longer WARMUP."
        )


class StoppedError(_Message, KeyboardInterrupt):
    """The person who trains has stopped the run; the message says how to resume it."""


_lock = threading.RLock()
_depth = 0  # how many times the thread that trains holds the lock
_stop = threading.Event()


@contextlib.contextmanager
def one_training() -> Iterator[None]:
    """Within this context no other thread can train; raises `BusyError` while one does.

    Two trainings at once would share the processor, and their times would mean nothing. Raises
    `StoppedError` where training is interrupted at once, in the middle of an epoch.
    """
    global _depth
    if not _lock.acquire(blocking=False):
        raise BusyError(
            "Another run is being trained, in a cell or in the panel: let it finish, or stop it "
            "(■ for a cell, Stop in the panel), and start this one again."
        )
    if _depth == 0:
        _stop.clear()
    _depth += 1
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError("Stopped at once; the epoch begun is lost.") from None
    finally:
        _depth -= 1
        _lock.release()


def request_stop() -> None:
    """Ask the run that is being trained, in whatever thread, to stop after its current step."""
    _stop.set()


def stop_requested() -> bool:
    """Whether `request_stop` was called since this training began."""
    return _stop.is_set()
