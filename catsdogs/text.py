"""Words for people: a span of time, a file's name that is safe to print."""


def duration(seconds: float) -> str:
    """A span of time in words: ``"50 seconds"``, ``"7 minutes"``, ``"1 h 20 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} second{'s' if round(seconds) != 1 else ''}"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def printable(text) -> str:
    """`text` on one line, whatever is in it: a file's name may hold line ends, colours for a terminal, or no text at all."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "backslashreplace").decode()
        for character in str(text)
    )
