"""Full-text search: the same rows on SQLite and PostgreSQL, because one function here says what a text's terms are.

A term is a word without case and accents; of Korean, Chinese and Japanese, which write words together, each two
letters that stand side by side, and each letter. `search_text` holds the terms of a version, each once. The
databases only look terms up (`projects.deliverables.fulltext` has their SQL): neither takes a text apart.
"""

import re
import unicodedata
from collections.abc import Iterator

from django.db.models import F, QuerySet

from projects.deliverables.fulltext import Matches
from projects.models import Deliverable

MAX_TERM = 64  # characters; a longer one is cut
MAX_TERMS_BYTES = 400_000  # of one version: PostgreSQL takes a megabyte of them
MAX_READ = 2_000_000  # characters of one version that can be found
MAX_ASKED = 500  # characters of a question
_SYLLABLES = (
    "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff"  # Hangul
    "\u3040-\u30ff\u31f0-\u31ff"  # Kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese
)
_WORDS = re.compile(rf"((?:(?!\W)[{_SYLLABLES}])+)|([^\W_{_SYLLABLES}]+)")
_ACCENTS = re.compile("[\u0300-\u036f]+")


def terms(*texts: str) -> str:
    """What can be found of `texts`, the most important first: each term once, between spaces."""
    found: dict[str, None] = {}
    room, size = MAX_READ, 0
    for text in texts:
        for letters, word in _words(text[:room]):
            for term in {*letters, *_pairs(letters)} if letters else (word[:MAX_TERM],):
                if term not in found:
                    size += len(term.encode()) + 1
                    if size > MAX_TERMS_BYTES:
                        return " ".join(found)
                    found[term] = None
        room = max(room - len(text), 0)
    return " ".join(found)


def asked(question: str) -> list[tuple[str, bool]]:
    """The terms that a question asks for, all of them, and of each whether longer words that begin so do too.

    That is the last word, which may not be written to its end. What is no word (quotes, operators) is no part of it.
    """
    found: dict[str, bool] = {}
    words = list(_words(question[:MAX_ASKED]))
    for number, (letters, word) in enumerate(words, start=1):
        if letters:
            found.update(dict.fromkeys(_pairs(letters) or letters, False))
        else:
            is_open = number == len(words)
            found[word[:MAX_TERM]] = found.get(word[:MAX_TERM], True) and is_open
    return list(found.items())


def search(queryset: QuerySet[Deliverable], question: str) -> QuerySet[Deliverable]:
    """Those of `queryset` that hold every word of `question`; all of them when it is empty.

    Takes any text. Order, pages and who may see what are the queryset's.
    """
    if not question.strip():
        return queryset
    wanted = asked(question)
    return queryset.filter(Matches(F("pk"), F("search_text"), terms=wanted)) if wanted else queryset.none()


def _words(text: str) -> Iterator[tuple[str, str]]:
    """The words of a text, in order: (letters that are written together, "") or ("", a word)."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).casefold()
        text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text)))
    for match in _WORDS.finditer(text.lower()):
        yield match[1] or "", match[2] or ""


def _pairs(letters: str) -> list[str]:
    return [letters[start : start + 2] for start in range(len(letters) - 1)]
