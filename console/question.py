"""A question of the page Try, as an address carries it and as the server takes it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints
from urllib.parse import urlencode

from console.config import FilterReader
from triptych_client import QueryFields
from triptych_client.pb.v1 import triptych_pb2 as pb

SUBJECTS = ("user", "anonymous", "item", "text")
MOST_RESULTS = 200
_LONGEST = 10_000  # characters of one value in an address
_MOST_LINES = 100


@dataclass(frozen=True)
class Subject:
    """Whom or what results are asked for.

    Attributes:
        who: one of SUBJECTS.
        user, item, text: ids of a person and of an item, and a text: what `who` names is asked.
        events, texts, friends: of an anonymous person, a line each.
    """

    who: str = "user"
    user: str = ""
    item: str = ""
    text: str = ""
    events: str = ""
    texts: str = ""
    friends: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to ask for yet."""
        if self.who == "anonymous":
            return not (_lines(self.events) or _lines(self.texts) or _lines(self.friends))
        return not str(getattr(self, self.who)).strip()

    def query_fields(self) -> QueryFields:
        """Return the subject as the client takes it."""
        if self.who == "anonymous":
            views = pb.Views(
                events=[pb.Event(item_id=item_id) for item_id in _lines(self.events)],
                texts=_lines(self.texts),
                friends=[pb.Friend(friend_id=friend_id) for friend_id in _lines(self.friends)],
            )
            return {"views": views}
        if self.who == "item":
            return {"item_id": self.item.strip()}
        if self.who == "text":
            return {"text": self.text}
        return {"user_id": self.user.strip()}


@dataclass(frozen=True)
class PageSetting:
    """How results are chosen.

    Attributes:
        k: how many, 1 to 200.
        kinds: separated by commas.
        where: conditions like year>=1999, a line each.
        history, words, social: what the views are multiplied by, 0 to 2.
        diversity: of maximal marginal relevance, 0 to 1; 1 is the order by score.
        search: a text that is blended in, and its weight, 0 to 1.
        seen: whether items of the subject's history come, too.
        why: whether each result says what it is owed to.
        exact: whether every item is compared.
        index: which answers; "" is the one that serves.
    """

    k: int = 10
    kinds: str = ""
    where: str = ""
    history: float = 1.0
    words: float = 1.0
    social: float = 1.0
    diversity: float = 1.0
    search: str = ""
    search_weight: float = 0.5
    seen: bool = False
    why: bool = True
    exact: bool = False
    index: str = ""

    def within_bounds(self) -> "PageSetting":
        """Return the setting with each number within its bounds: an address may say anything."""
        return replace(
            self,
            k=min(max(self.k, 1), MOST_RESULTS),
            history=min(max(self.history, 0.0), 2.0),
            words=min(max(self.words, 0.0), 2.0),
            social=min(max(self.social, 0.0), 2.0),
            diversity=min(max(self.diversity, 0.0), 1.0),
            search_weight=min(max(self.search_weight, 0.0), 1.0),
        )

    def query_fields(self, read_filter: FilterReader) -> QueryFields:
        """Return the setting as the client takes it.  Raises: ValueError, a condition is not of its form."""
        asked: QueryFields = {
            "k": self.k,
            "exclude_seen": not self.seen,
            "explain": self.why,
            "exact": self.exact,
        }
        wanted = read_filter(
            [kind.strip() for kind in self.kinds.split(",") if kind.strip()], _lines(self.where)
        )
        if wanted is not None:
            asked["filter"] = wanted
        if (self.history, self.words, self.social) != (1.0, 1.0, 1.0):
            asked["view_weights"] = pb.ViewWeights(history=self.history, text=self.words, social=self.social)
        if self.diversity < 1.0:
            asked["diversity"] = self.diversity
        if self.search.strip():
            asked["text_query"], asked["text_query_weight"] = self.search, self.search_weight
        return asked


@dataclass(frozen=True)
class PageQuestion:
    """A subject and a setting, or two settings to be compared."""

    subject: Subject = Subject()
    setting: PageSetting = PageSetting()
    other: PageSetting | None = None

    @classmethod
    def of_address(cls, parameters: Mapping[str, str]) -> "PageQuestion":
        """Read the parameters of an address; what is no value of its kind is left as it is by default."""
        setting = _read(PageSetting, parameters, "").within_bounds()
        compared = parameters.get("compare") == "1"
        other = _read(PageSetting, parameters, "b.").within_bounds() if compared else None
        subject = _read(Subject, parameters, "")
        return cls(subject if subject.who in SUBJECTS else replace(subject, who="user"), setting, other)

    def address(self, path: str = "/try") -> str:
        """Return the address that says this: of every field that is not as by default."""
        said = _written(self.subject, "") | _written(self.setting, "")
        if self.other is not None:
            said |= {"compare": "1"} | _written(self.other, "b.")
        return path + ("?" + urlencode(said) if said else "")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()][:_MOST_LINES]


def _read(kind: type[Any], parameters: Mapping[str, str], prefix: str) -> Any:
    """Return a dataclass of the parameters that begin with a prefix."""
    hints, given = get_type_hints(kind), dict[str, object]()
    for field in fields(kind):
        written = parameters.get(prefix + field.name)
        if written is None or len(written) > _LONGEST:
            continue
        hint = hints[field.name]
        try:
            value = written == "1" if hint is bool else hint(written)
        except ValueError:
            continue
        if value == value:  # not "not a number"  # noqa: PLR0124
            given[field.name] = value
    return kind(**given)


def _written(one: Any, prefix: str) -> dict[str, str]:
    plain = type(one)()
    return {
        prefix + field.name: str(int(value)) if isinstance(value, bool) else str(value)
        for field in fields(one)
        if (value := getattr(one, field.name)) != getattr(plain, field.name)
    }
