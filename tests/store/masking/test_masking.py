"""Masking: what is found in 300 strings, what masked text looks like, and texts that come in by import."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.exchange import masking_of
from store.home import Home
from store.imports import ImportRejectedError
from store.masking import KINDS, UNMASKED, Masker, Masking, UnknownMaskingError
from store.store import Store
from store.writes.request import BehaviorRow, Behaviors, Request, TextRow, Texts
from tests.import_folder import Folder
from tests.store.masking.measure import strings, table

DOCUMENT = Path(__file__).parents[3] / "docs" / "data-protection.md"
ALL = Masker(Masking(KINDS))


def test_the_table_of_precision_and_recall_is_the_documented_one() -> None:
    assert len(strings()) == 300
    assert table() in DOCUMENT.read_text("utf-8")


def test_each_kind_is_replaced_by_its_name_and_counted() -> None:
    masked = ALL.mask("写信给zhang@qq.com或li@qq.com，电话13812345678。")
    assert masked.text == "写信给[email]或[email]，电话[phone]。"
    assert masked.counts == {"email": 2, "phone": 1}
    only = Masker(Masking(("phone",)))
    assert only.mask("zhang@qq.com, 13812345678").text == "zhang@qq.com, [phone]"
    assert not Masker(UNMASKED)
    assert Masker(UNMASKED).mask("zhang@qq.com") == ("zhang@qq.com", {})


def test_regions_decide_which_numbers_without_a_country_code_are_telephones() -> None:
    text = "030 901820, 650-253-0000, +49 30 901820"
    assert Masker(Masking(("phone",), ("DE",))).mask(text).text == "[phone], 650-253-0000, [phone]"
    assert Masker(Masking(("phone",), ("US",))).mask(text).text == "030 901820, [phone], [phone]"


@given(st.text(max_size=60))
def test_masking_changes_nothing_else_and_nothing_twice(text: str) -> None:
    found = ALL.find(text)
    ends = [place for (start, end), _ in found for place in (start, end)]
    assert ends == sorted(ends)
    rest = text
    for (start, end), kind in reversed(found):
        rest = f"{rest[:start]}[{kind}]{rest[end:]}"
    masked = ALL.mask(text).text
    assert masked == rest
    assert ALL.mask(masked).text == masked


def test_unknown_kinds_and_regions_are_refused() -> None:
    with pytest.raises(
        UnknownMaskingError, match="kind of masking 'passport' is none of card, email"
    ) as error:
        Masking(("passport",))
    assert error.value.value == "passport"
    with pytest.raises(UnknownMaskingError, match="region of masking 'XX' is none of AC, AD"):
        Masking(("phone",), ("XX",))
    assert Masking.named("email, phone", "de".upper()) == Masking(("email", "phone"), ("DE",))
    assert Masking.named("all").kinds == KINDS
    assert Masking(("ip",)).joined(Masking(("email",), ("FR",))) == Masking(("email", "ip"), ("FR",))


def test_an_import_masks_texts_and_their_rejects_before_it_writes_them(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.csv("items", "item_id,title", "i1,write to shop@example.com")
    folder.csv("texts", "user_id,item_id,text", "ann@example.com,i1,ask bob@example.com or 13812345678",
               "u,i1,我的邮箱zhang@qq.com", "u,none,refused eve@example.com")  # fmt: skip
    report = folder.load_with(masking=Masking(("email", "phone"))).tables["texts"]
    assert report.masked == {"email": 3, "phone": 1}
    assert report.rejected == {"unknown_item": 1}
    assert sorted(folder.rows("SELECT user_id, text FROM data.texts")) == [
        ("ann@example.com", "ask [email] or [phone]"),  # who it is of stays who it is of
        ("u", "我的邮箱[email]"),
    ]
    assert folder.rows("SELECT title FROM data.items") == [("write to shop@example.com",)]
    assert report.rejects_file is not None
    refused = report.rejects_file.read_text("utf-8")
    assert json.loads(refused)["values"]["text"] == "refused [email]"
    assert "eve@example.com" not in refused


def test_an_import_without_masking_changes_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.csv("items", "item_id", "i1")
    folder.csv("texts", "user_id,item_id,text", "u,i1,bob@example.com")
    assert folder.load().tables["texts"].masked == {}
    assert folder.rows("SELECT text FROM data.texts") == [("bob@example.com",)]


def test_a_strict_import_shows_no_value_that_may_be_personal(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.csv("items", "item_id", "i1")
    folder.csv("texts", "user_id,item_id,text", "u,i1," + "x" * 100_001)
    with pytest.raises(ImportRejectedError, match=r"row 1: text_too_long: text \(not shown") as error:
        folder.load(strict=True)
    assert "xxx" not in str(error.value)
    folder.csv("texts", "user_id,item_id,text", "ann@example.com" * 20 + ",i1,hello")
    with pytest.raises(ImportRejectedError, match=r"id_too_long: user_id \(not shown") as error:
        folder.load(strict=True)
    assert "ann@" not in str(error.value)


def test_a_request_is_masked_once_and_says_how_much() -> None:
    texts = Request(Texts([TextRow("u", "bob@example.com"), TextRow("u", "nothing")]), "id", "digest")
    masked = texts.masked_by(ALL)
    assert masked.content == Texts([TextRow("u", "[email]"), TextRow("u", "nothing")])
    assert (masked.masked, masked.request_id, masked.digest) == ({"email": 1}, "id", "digest")
    behaviors = Request(Behaviors([BehaviorRow("bob@example.com", "i1")]))
    assert behaviors.masked_by(ALL) is behaviors
    assert texts.masked_by(Masker(UNMASKED)) is texts


def test_an_import_without_a_server_masks_what_the_home_says(tmp_path: Path) -> None:
    (tmp_path / "triptych.toml").write_text('[privacy]\nmask = "email,phone"\nmask_regions = "DE"\n')
    assert masking_of(Home(tmp_path)) == Masking(("email", "phone"), ("DE",))
    assert masking_of(Home(tmp_path / "missing")) == UNMASKED


def test_the_command_masks_what_it_is_told_to_and_says_how_much(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "texts.csv").write_text("user_id,text\nu,bob@example.com and 13812345678\n")
    home = tmp_path / "home"
    code, out, err = run("import", tmp_path / "tables", "--home", home, "--mask", "email,passport")
    assert (code, "'passport' is none of" in err) == (2, True), out
    code, out, err = run("import", tmp_path / "tables", "--home", home, "--mask", "all")
    assert (code, "texts: masked 1 email, 1 phone" in out) == (0, True), err
    with Store.open(Home(home).database) as store:
        assert store.texts_of("u") == {"[email] and [phone]"}
