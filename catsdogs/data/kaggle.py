"""Downloads a competition's archive with the ``kaggle`` command, and explains its refusals.

Standard library only, Python 3.9 or newer. What the command prints is never shown, as it may hold
the token: only known sentences in it are looked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from catsdogs import paths
from catsdogs.data.errors import DownloadError, UnreachableError
from catsdogs.data.progress import is_watched, say

#: The competitions of these photos, of 2013 and 2016, with their archives of unlabelled photos.
COMPETITIONS = {"dogs-vs-cats": "test1.zip", "dogs-vs-cats-redux-kernels-edition": "test.zip"}
NEW_TOKEN = 'open https://www.kaggle.com/settings/api and click "Generate New Token"'


def download(folder: Path, test_only: bool, inherit: int) -> Path:
    """Download a competition's archive below `folder`; returns the archive.

    `test_only` asks for the unlabelled photos only. The descriptor `inherit` is left open in the
    command. Raises DownloadError or UnreachableError.
    """
    command = find_command()
    chosen = os.environ.get("CATSDOGS_COMPETITION")
    if chosen and not re.fullmatch(r"\w[\w-]*", chosen, re.ASCII):
        raise DownloadError(
            f"CATSDOGS_COMPETITION is {ascii(chosen)}; the name of a competition, such as "
            f"{next(iter(COMPETITIONS))}, was expected."
        )
    for competition in [chosen] if chosen else COMPETITIONS:
        target = folder / (competition + ("-test" if test_only else ""))
        file = COMPETITIONS.get(competition, "test.zip") if test_only else None
        if ask(command, competition, file, target, inherit):
            for archive in complete_files(target):
                return archive
            raise DownloadError(
                f"The kaggle command reported success but left no archive in {target}. "
                "Run this again."
            )
    rules = f"https://www.kaggle.com/competitions/{competition}/rules"
    raise DownloadError(
        "Kaggle refused the download (403): your account has not accepted the rules of "
        f"{competition}.\nOpen {rules}, "
        'click "Late Submission" (or "Join Competition"), accept, and run this again.'
    )


def find_command() -> str:
    """The kaggle command to use; raises DownloadError if there is none."""
    chosen = os.environ.get("CATSDOGS_KAGGLE")
    scripts = paths.PROJECT / ".venv" / ("Scripts" if os.name == "nt" else "bin")
    beside = Path(sys.executable).parent if sys.executable else scripts
    for name in [chosen] if chosen else [scripts / "kaggle", beside / "kaggle", "kaggle"]:
        if found := shutil.which(str(name)):
            return found
    raise DownloadError(
        "The kaggle command was not found.\n"
        "Run `make install` first, or use the source microsoft instead."
    )


def complete_files(folder: Path) -> Iterator[Path]:
    """The files in `folder`, whose names are Kaggle's to choose, without incomplete ones."""
    for file in sorted(folder.iterdir()):
        marker = ".kaggle-partial"
        if file.is_file() and file.suffix != marker and not Path(f"{file}{marker}").exists():
            yield file


def ask(command: str, competition: str, file: str | None, folder: Path, inherit: int) -> bool:
    """Run the kaggle command; False if the rules of the competition have not been accepted.

    Raises DownloadError or UnreachableError for every other refusal.
    """
    name = f"{competition}/{file}" if file else competition
    say(f"Asking Kaggle for {name}")
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["competitions", "download", competition, *(["-f", file] if file else [])]
    status, output = run([command, *arguments, "-p", str(folder), "-q"], folder, inherit)
    if status == 0:
        return True
    with contextlib.suppress(OSError):
        folder.rmdir()  # unless part of the archive is in it
    if re.search("Authentication required|Invalid credentials|401 Client Error|Unauth", output):
        place = credentials()
        if not place:
            raise DownloadError(
                f"No Kaggle credentials were found: {NEW_TOKEN}.\nSave the token as "
                "~/.kaggle/access_token, or put it into KAGGLE_API_TOKEN, then run this again."
            )
        raise DownloadError(
            f"Kaggle refused the credentials in {place} (401): they are wrong, or no longer "
            f"valid.\nTo get new ones, {NEW_TOKEN}; put the token there instead, then run this "
            "again."
        )
    if re.search("rules|403 Client Error|Forbidden|Permission.*denied", output, re.DOTALL):
        return False
    if re.search("ConnectionError|Max retries exceeded|Failed to resolve|timed out", output):
        raise UnreachableError(
            "Cannot reach Kaggle: is there a network?\n"
            "Run this again later, or use a different source: microsoft, zip FILE or synthetic."
        )
    if re.search("404 Client Error|Not Found", output):
        raise DownloadError(
            f"Kaggle has nothing called {name} (404).\n"
            "Unset CATSDOGS_COMPETITION, or use the source microsoft instead."
        )
    if "No space left" in output:
        raise DownloadError(
            f"The disk of {folder} is full.\nMake room, then run this again to resume."
        )
    raise DownloadError(
        f"The kaggle command failed (exit status {status}).\n"
        f'To see why, run: kaggle competitions download {competition} -p "{folder}"'
    )


def run(command: list[str], folder: Path, inherit: int) -> tuple[int, str]:
    """Run `command`, which is kept quiet and stopped if we are; returns its status and output.

    Shows how much has come into `folder` meanwhile, if somebody watches.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # With VERBOSE, the command would print the token.
        env={**os.environ, "VERBOSE": "false", "VERBOSE_OUTPUT": "false"},
        pass_fds=(inherit,) if os.name == "posix" else (),
    )
    meter = False
    try:
        while True:
            try:
                output, _ = process.communicate(timeout=2)
                break
            except subprocess.TimeoutExpired:
                if is_watched():
                    came = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
                    print(f"\r{came // 10**6:,} MB so far ", end="", file=sys.stderr, flush=True)
                    meter = True
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        if meter:
            say()
    return process.returncode, output.decode("utf-8", "replace")


def credentials() -> str | None:
    """Where the kaggle command (2.x) finds credentials, in its order; they are not read."""
    home, environment = Path.home(), os.environ
    config = Path(environment.get("KAGGLE_CONFIG_DIR") or home / ".kaggle")
    if not environment.get("KAGGLE_CONFIG_DIR") and not config.is_dir():
        config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"

    def first(*places: Path) -> str | None:
        return next((str(p) for p in places if p.is_file() and p.stat().st_size), None)

    if environment.get("KAGGLE_API_TOKEN"):
        return "KAGGLE_API_TOKEN"
    if found := first(home / ".kaggle/access_token", home / ".kaggle/access_token.txt"):
        return found
    if environment.get("KAGGLE_USERNAME") and environment.get("KAGGLE_KEY"):
        return "KAGGLE_USERNAME and KAGGLE_KEY"
    return first(config / "kaggle.json", home / ".kaggle/credentials.json")
