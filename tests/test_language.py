"""Plain English and the field's terms, in code and in the pages: words that we do not use.

Comments, docstrings, messages, identifiers, configs and pages are searched. `WORDS` has the usual
term beside each word; where such a word is the usual term itself, `ALLOWED` says why.

    python -m tests.test_language policies docs/policies.md     # what is left in files or folders
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "toto_robot",
    "envs",
    "policies",
    "real_robot",
    "benchmarks",
    "configs",
    "docs",
    "wheels",
)
PAGES = ("README.md", "CONTRIBUTING.md", "CITATION.cff", "Makefile", "pyproject.toml")
# CHANGELOG.md is not searched: it names what was renamed.

WORDS = {
    r"pictures?": "image, frame",
    r"look(?:s|ed|ing)? at": "see, read, encode, inspect",
    r"eyes?": "encoder",
    r"sight(?:ed)?": "vision, images",
    r"theatre": "rollout",
    r"whose word": "expert label",
    r"strange(?:r|rs|ness)?": "anomaly score, unexpected",
    r"promises?": "calibrated threshold, guarantee",
    r"what is usual": "calibration data",
    r"foresight": "prediction",
    r"cards?": "checkpoint metadata",
    r"stamps?": "fingerprint, id, timestamp",
    r"judg(?:e|es|ed|ing)": "evaluate",
    r"exams?": "evaluation",
    r"wish(?:es|ed)?": "requested",
    r"told|tells?": "print, report, state, name",
    r"spoilt|spoils?": "invalid",
    r"late one": "stale",
    r"hurried": "real-time priority",
    r"who|whoever|whom": "the worker, user, process",
    r"nobody|somebody|anybody|everybody": "no user, another process",
    r"dares?|liars?|hopes?|fears?|forgets?|forgotten|remembers?": "plain words",
}
PATTERN = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)
IDENTIFIERS = {"eye"}  # np.eye, torch.eye
# Exceptions: a regular expression around the word, and why it stays.
ALLOWED = {
    r"hand[- ]eye|eye[- ](?:in|to|on)[- ](?:the )?hand|np\.eye|torch\.eye": "calibration; identity",
    r"model cards?|graphics cards?|NVIDIA cards?": "the usual terms",
    r'"(?:[\w.]*\.)?(?:eyes|foresight|exam|theatre|stamp|pictures|spoilt)"': "old names",
    r'"(?:pictures|strangers|strangeness|spoilt)"|/spoilt/|img/foresight.png': "names in files",
    r"(?:TEST_|ARM_|LIBRARY_)?STAMP": "a file of the Makefile, the usual name",
    r"time[- ]?stamps?|stamps? s\b|stamp_s\b|stamp\.\w+": "the time of a frame; recorded columns",
}
FIRST_WORDS = re.compile(r"(Give|Say|Tell|Hand|Hear|Let)s?\b")


def texts(path):
    """Yield (line, text) of what is written in a file."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield from enumerate(token.string.splitlines(), token.start[0])
        elif token.type == tokenize.NAME and token.string not in IDENTIFIERS:
            yield token.start[0], token.string.replace("_", " ")


def violations(path):
    """Return the lines of a file that use such a word, and docstrings that begin with one."""
    found = []
    for line, text in texts(path):
        left = text
        for allowed in ALLOWED:
            left = re.sub(allowed, "", left, flags=re.IGNORECASE)
        for match in PATTERN.finditer(left):
            (usual,) = [u for w, u in WORDS.items() if re.fullmatch(w, match[0], re.IGNORECASE)][:1]
            found.append(f"{line}: {match[0]!r} ({usual}): {text.strip()[:100]}")
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                first = (ast.get_docstring(node) or "").partition("\n")[0]
                line = getattr(node, "lineno", 1)
                if FIRST_WORDS.match(first):
                    found.append(f"{line}: begins with {first.split()[0]!r}: {first[:80]}")
                if isinstance(node, ast.ClassDef) and re.match(r"(Return|Compute|Check)\b", first):
                    found.append(f"{line}: a class begins with a noun: {first[:80]}")
    return found


def files(folders):
    for folder in folders:
        place = ROOT / folder
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            is_text = path.suffix in (".py", ".md", ".yaml", ".toml", ".cff")
            if (is_text or path.name == "Makefile") and path.name != "layout.md":
                yield path


@pytest.mark.parametrize(
    "path", list(files([*FOLDERS, *PAGES])), ids=lambda p: str(p.relative_to(ROOT))
)
def test_plain_english_and_the_terms_of_the_field(path):
    assert not violations(path), "\n".join(violations(path))


if __name__ == "__main__":
    total = 0
    for file in files(sys.argv[1:]):
        for line in violations(file):
            total += 1
            print(f"{file.relative_to(ROOT)}:{line}")
    print(total)
