"""What the pages say, in English and Chinese."""

from collections.abc import Mapping

from console.chinese import CHINESE

LANGUAGES = {"en": "English", "zh": "中文"}


class Words:
    """Says English sentences in one language; those without a translation stay English.

    Attributes:
        language: one of LANGUAGES.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self._known: Mapping[str, str] = CHINESE if language == "zh" else {}

    def __call__(self, english: str, **values: object) -> str:
        """Return a sentence with its {places} filled in."""
        sentence = self._known.get(english, english)
        return sentence.format(**values) if values else sentence


def language_of(cookie: str | None, accepted: str) -> str:
    """Return the language that was chosen, else the first of a browser's (Accept-Language) that there is."""
    if cookie in LANGUAGES:
        return cookie
    for one in accepted.split(",")[:20]:
        code = one.split(";")[0].strip().lower().split("-")[0]
        if code in LANGUAGES:
            return code
    return "en"
