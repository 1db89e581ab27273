"""The errors that end a download, each with the exit status that it stands for."""

from catsdogs.files import DISK_FULL
from catsdogs.text import Message

__all__ = ["DISK_FULL", "ArchiveError", "DownloadError", "UnreachableError"]


class DownloadError(Message, Exception):
    """The photos cannot be had; the message says what was found, what was expected, what to do."""

    status = 1


class UnreachableError(DownloadError):
    """No source answers: there is no network, or nothing at the address any more."""

    status = 3


class ArchiveError(DownloadError):
    """The archive cannot be used; the message says what was found and what was expected."""


class DamagedError(ArchiveError):
    """The archive is not as its maker left it: another copy of it may be good."""
