"""What a person reads uses the field's terms: none of the home-made words that they replaced."""

import io
import json
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

from catsdogs import paths

PER = r"(?:step|second|minute|batch|line|row|photo|image|class|request|epoch|side|file)"
COUNTED = r"(?:pixels?|photos?|images?|requests?|lines?|rows?|files?|pictures?|seconds?|steps?|px)"

#: A space, or the end of a line, but not of a paragraph.
SPACE = r"(?:[ \t]*\n[ \t]*|[ \t]+)"

#: Pattern: the term to use. A space stands for SPACE, so that phrases may be wrapped.
WORDS = {
    rf"\b{COUNTED} an? {PER}\b(?! time)|\b(?:once|one|an?) an? epoch\b": "per",
    rf"\b(?:a|one) (?:seed|dot|bar|object|network) an? {PER}\b": "one per",
    r"\bfrom nothing\b": "from scratch",
    r"\bby heart\b": "overfit, memorize the training set",
    r"\bmirrored (?:too|photos?)\b|\bphotos? mirrored\b|\bmirror images?\b": (
        "test-time augmentation, horizontal flip"
    ),
    r"\bnothing (?:was|were|is|has been) trained on\b": "held-out test set",
    r"\bheld back from\b": "regularized",
    # Not a folder called Dog, nor a label called DOG.
    r"\b(?-i:[Cc]alled (?:an? )?(?:dogs?|cats?))\b": "classified as dog",
    r"\b(?:model|network) says\b|\bsaid of (?:the|a) photos?\b": "predicts",
    r"\bdoors?\b|\b(?:other|main|own) roads?\b|\broads of\b": "interface; optional notebook",
    r"\bsurest\b|\bhow sure it is\b": "most confident; confidence",
    r"\bcertaint(?:y|ies)\b": "confidence",
    r"\bbetter by\b|\btimes better\b": "speedup",
    r"\bpeers?\b": "baseline",
    r"\| wanted \||\"wanted\"|'wanted'": "target",
    r"\brunning average\b": "exponential moving average (EMA) of the weights",
    r"\bvary the photos\b|\bphotos (?:are |were |that are )?varied\b|\bvaried photos\b": (
        "data augmentation, augmented"
    ),
    r"\bdrawings\b|\bdrawn (?:cats?|dogs?|photos?|pictures?|sample|ones)\b"
    r"|\b(?:cats|dogs|photos|pictures|ones) (?:is|are|was|were) drawn\b": "synthetic sample",
    r"\bthrough the network together\b|\bputs? (?:\w+ )?through the network\b": "dynamic batching",
    r"\bhand(?:s|ed|ing)? (?:\w+ )?out\b": "static site, deploy",
    r"\bguessing\b": "chance",
    r"\b(?:one|two|both|each) protocols?\b|\bprotocols? (?:`|full\b|says?\b)": "split",
    r"\bseeds'? recipe\b|\bseed-8000\b|\bmake seeds\b": "the baseline, baseline-8000",
    r"\bwhere it looked\b|\bwhat spoke for\b": "regions that contributed most to the prediction",
    r"\b(?:photos|pictures) of neither\b": "out-of-distribution images, neither",
    r"\b(?:model that|what) ships\b|\bshipped (?:model|records?)\b": "included model",
    r"\bgo(?:es)? on where\b": "resumes",
    r"\blistens? to this machine\b": "binds to localhost by default",
}
PATTERNS = {
    re.compile(pattern.replace(" ", SPACE), re.IGNORECASE): term for pattern, term in WORDS.items()
}
#: What would hide that two lines are one sentence: the signs of comments and of lists.
MARKS = re.compile(r"^[ \t]*(?:#:?|//|\*|>|<!--)[ \t]?", re.MULTILINE)


def test_the_words_are_the_fields():
    found = []
    for file in read_by_people():
        for where, text in passages(file):
            found += [f"{paths.shown(file)}{where}:{line}" for line in complaints(text)]
    assert not found, "\n" + "\n".join(found)


def test_the_requirements_that_are_named_exist():
    named = re.compile(r"(?:tests/|\.ci/)?\brequirements[\w-]*\.txt")
    found = [
        f"{paths.shown(file)}{where} names {name}, which is not there"
        for file in read_by_people()
        for where, text in passages(file)
        for name in named.findall(text)
        if not (paths.PROJECT / name).exists()
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("64 pixels a\nside", "1: 'pixels a side' → per"),
        ("\nTrained from nothing.", "2: 'from nothing' → from scratch"),
        ("a line a photo", "1: 'line a photo' → per"),
        ("| ours | peer |", "1: 'peer' → baseline"),
        ("| ours | wanted |", "1: '| wanted |' → target"),
        ("photos 1 to 9; cats are drawn", "1: 'cats are drawn' → synthetic sample"),
        ("The protocol says", "1: 'protocol says' → split"),
        ("the model that ships", "1: 'model that ships' → included model"),
        ("Called a dog by it", "1: 'Called a dog' → classified as dog"),
    ],
)
def test_a_home_made_word_is_found(text, line):
    assert line in complaints(text)


@pytest.mark.parametrize(
    "text",
    [
        "per photo, per side, uncertainty, images a second time, an epoch, a photo",
        "a mirror of the archive; the HTTP protocol; location.protocol; the figure is drawn",
        "## Look at the photos\n\nAn image has rows",
        "nothing else: shown a chair, it still says cat or dog; the folder called Cat",
    ],
)
def test_legitimate_uses_pass(text):
    assert complaints(text) == []


def test_in_python_only_comments_strings_and_names_of_tests_are_read():
    code = (
        "def test_it_has_doors():\n    # photos a\n    # step\n    peer = f'from '\n    'nothing'"
    )
    assert complaints(python_prose(code)) == [
        "2: 'photos a step' → per",
        "4: 'from nothing' → from scratch",
        "1: 'doors' → interface; optional notebook",
    ]


# --- what is read ---------------------------------------------------------------------------------


def read_by_people() -> list[Path]:
    """The project's files that hold prose, comments or messages, except this one."""
    if not (paths.PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(
        command, cwd=paths.PROJECT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    endings = {".md", ".py", ".ipynb", ".js", ".html", ".css", ".sh", ".cff", ".toml", ".txt"}
    names = {"Makefile", "Containerfile", "run"}
    files = [paths.PROJECT / name for name in listed]
    return [
        file
        for file in files
        if (file.suffix in endings or file.name in names)
        and file != Path(__file__)
        and file.exists()
    ]


def passages(file: Path):
    """Pairs: where in `file`, and the text there. Only notebooks have more than one."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(text)["cells"], 1):
            yield f", cell {number}", MARKS.sub("", "".join(cell["source"]))
    elif file.suffix == ".py":
        yield "", python_prose(text)
    else:
        yield "", MARKS.sub("", text)


def python_prose(code: str) -> str:
    """`code` with everything but comments, strings and the names of tests made unreadable.

    Lines stay where they are. Comments on successive lines, and adjacent strings, become one text.
    """
    lines = [re.sub(r"\S", "·", line) for line in code.splitlines()]
    strings = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        text = token.string
        if token.type == tokenize.COMMENT:
            text = re.sub(r"^#:?", lambda mark: " " * len(mark[0]), text)
        elif token.type in strings:
            text = re.sub(
                r"^\w*([\"']{3}|[\"'])|([\"']{3}|[\"'])$", lambda m: " " * len(m[0]), text
            )
        elif token.type == tokenize.NAME and text.startswith("test_"):
            text = text.replace("_", " ")
        elif token.type in {getattr(tokenize, f"FSTRING_{end}", None) for end in ("START", "END")}:
            text = " " * len(text)
        else:
            continue
        (row, column), parts = token.start, text.split("\n")
        for index, part in enumerate(parts):
            line, start = lines[row - 1 + index], column if index == 0 else 0
            lines[row - 1 + index] = line[:start] + part + line[start + len(part) :]
    return "\n".join(lines)


def complaints(text: str) -> list[str]:
    """One line per home-made word in `text`: its line number, the words, and the term to use."""
    return [
        f"{text.count(chr(10), 0, match.start()) + 1}: {' '.join(match[0].split())!r} → {term}"
        for pattern, term in PATTERNS.items()
        for match in pattern.finditer(text)
    ]
