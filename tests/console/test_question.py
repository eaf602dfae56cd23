"""What the page Try asks: an address says it all, and says nothing that is out of bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.question import MOST_RESULTS, SUBJECTS, PageQuestion, PageSetting, Subject
from triptych_client.pb.v1 import triptych_pb2 as pb


def parameters(address: str) -> dict[str, str]:
    from urllib.parse import parse_qsl, urlsplit

    return dict(parse_qsl(urlsplit(address).query, keep_blank_values=True))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
settings_ = st.builds(
    PageSetting,
    k=st.integers(1, MOST_RESULTS),
    kinds=texts,
    where=texts,
    history=st.floats(0, 2),
    words=st.floats(0, 2),
    social=st.floats(0, 2),
    diversity=st.floats(0, 1),
    search=texts,
    search_weight=st.floats(0, 1),
    seen=st.booleans(),
    why=st.booleans(),
    exact=st.booleans(),
)
subjects = st.builds(
    Subject, who=st.sampled_from(SUBJECTS), user=texts, item=texts, text=texts, events=texts, texts=texts
)


@given(st.builds(PageQuestion, subjects, settings_, st.none() | settings_))
def test_an_address_brings_the_question_back(question: PageQuestion) -> None:
    assert PageQuestion.of_address(parameters(question.address())) == question


@given(
    st.dictionaries(st.sampled_from(["who", "k", "history", "b.k", "compare", "seen", "diversity"]), texts)
)
def test_any_address_is_a_question_within_bounds(given_: dict[str, str]) -> None:
    question = PageQuestion.of_address(given_)
    assert question.subject.who in SUBJECTS
    assert 1 <= question.setting.k <= MOST_RESULTS
    assert 0 <= question.setting.history <= 2
    assert 0 <= question.setting.diversity <= 1


@pytest.mark.parametrize(("written", "kept"), [("nan", 1.0), ("inf", 2.0), ("-3", 0.0), ("much", 1.0)])
def test_numbers_of_an_address_are_brought_within_bounds(written: str, kept: float) -> None:
    assert PageQuestion.of_address({"history": written}).setting.history == kept
    assert not math.isnan(PageQuestion.of_address({"history": written}).setting.history)


def test_a_question_as_the_client_takes_it() -> None:
    setting = PageSetting(
        k=5, history=0.5, diversity=0.7, search="jazz", kinds="film, book", where="year>=1999\n\n"
    )
    asked: list[tuple[list[str], list[str]]] = []

    def read(kinds: object, conditions: object) -> pb.Filter:
        asked.append((list(kinds), list(conditions)))  # type: ignore[call-overload]
        return pb.Filter(kinds=["film"])

    fields = setting.query_fields(read)
    assert asked == [(["film", "book"], ["year>=1999"])]
    assert fields["view_weights"] == pb.ViewWeights(history=0.5, text=1, social=1)
    assert (fields["k"], fields["diversity"], fields["text_query"], fields["explain"]) == (
        5,
        0.7,
        "jazz",
        True,
    )
    assert "view_weights" not in PageSetting().query_fields(lambda kinds, conditions: None)


def test_an_anonymous_person_is_made_of_lines() -> None:
    subject = Subject("anonymous", events="i1\n i2 \n", texts="slow jazz", friends="")
    views = subject.query_fields()["views"]
    assert [event.item_id for event in views.events] == ["i1", "i2"]
    assert list(views.texts) == ["slow jazz"]
    assert not subject.is_empty
    assert Subject("anonymous", events=" \n").is_empty
    assert Subject("item", user="alice").is_empty
