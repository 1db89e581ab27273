"""Text for people: durations in words, errors, and what keeps printing from stopping a program."""

import os
import sys


class Message:
    """For errors whose text is all that a person needs: notebooks show them without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython shows these lines
        return str(self).splitlines()


def duration(seconds: float) -> str:
    """A duration in words: ``"50 seconds"``, ``"7 minutes"``, ``"1 h 20 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} second{'s' if round(seconds) != 1 else ''}"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def counted(count: int, noun: str) -> str:
    """`count` of something in words: ``"1 photo"``, ``"2,500 photos"``."""
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def percent_confident(confidence: float, digits: int = 0) -> str:
    """A confidence, 0.5 to 1, in percent with `digits` decimals: ``"97%"``.

    Rounded down: no network is 100% certain, and a confidence just below the threshold of "unsure"
    must not look as if it reached it.
    """
    scale = 10**digits
    whole = min(int(confidence * 100 * scale + 1e-6), 100 * scale - 1)
    return f"{whole / scale:.{digits}f}%"


def printable(text) -> str:
    """`text` on one line, with every unprintable character escaped.

    A file's name may hold line breaks, terminal escape sequences, or bytes that are no text.
    """
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "backslashreplace").decode()
        for character in str(text)
    )


def make_printing_safe() -> None:
    """Let no message stop the program that prints it, wherever its output goes.

    A character that the encoding of standard output or error lacks is replaced by a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def open_closed_streams() -> None:
    """Send to the null device what would go to standard streams that were closed at the start.

    Python leaves such a stream out, and the next file that is opened, perhaps a photo's, would get
    its number: a library that writes there would write into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
