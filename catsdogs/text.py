"""Text for people: durations in words, file names that are safe to print."""


def duration(seconds: float) -> str:
    """A duration in words: ``"50 seconds"``, ``"7 minutes"``, ``"1 h 20 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} second{'s' if round(seconds) != 1 else ''}"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


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
