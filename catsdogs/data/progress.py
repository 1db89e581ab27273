"""What a download tells while it runs: messages and, where somebody watches, a progress bar.

The bar is tqdm's where that is installed, else a plain one: standard library only, Python 3.9 or
newer, as downloading needs it before anything is installed.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

#: Seconds between two updates: a notebook keeps every one of them in its file.
INTERVAL = 0.5


def say(*lines: str) -> None:
    """Print to stderr, at once."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def is_watched() -> bool:
    """Whether stderr is a terminal, or the output of a notebook's cell."""
    return sys.stderr.isatty() or "ipykernel" in type(sys.stderr).__module__


@contextlib.contextmanager
def bar(
    title: str, total: int | None, unit: str = " photos", done: int = 0, hidden: bool = False
) -> Iterator[Callable[[int], object]]:
    """Yield ``advance(n)``, which moves the bar from `done` towards `total` (None: not known).

    The unit ``"B"`` is for bytes, shown as MB. Nothing is shown when `hidden`, or unless
    somebody watches.
    """
    if hidden or not is_watched():
        yield lambda n: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        with _plain(title, total, unit, done) as advance:
            yield advance
    else:
        with tqdm(
            desc=title,
            total=total,
            initial=done,
            unit=unit,
            unit_scale=unit == "B",
            mininterval=INTERVAL,
        ) as shown:
            yield shown.update


@contextlib.contextmanager
def _plain(title, total, unit, done):
    """The bar of those who have no tqdm."""
    last = 0.0

    def show(end=""):
        scale, name = (10**6, " MB") if unit == "B" else (1, unit)
        text = f"{done // scale:,}{name}"
        if total:
            filled = "#" * (30 * done // total)
            text = f"[{filled:<30}] {done // scale:,} of {total // scale:,}{name}"
        sys.stderr.write(f"\r{title} {text}{end}")
        sys.stderr.flush()

    def advance(n):
        nonlocal done, last
        done += n
        if time.monotonic() - last >= INTERVAL:
            last = time.monotonic()
            show()

    try:
        yield advance
    finally:
        show("\n")
