"""What `triptych train` and `tune` cannot do, said before the language model and the texts are touched."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encoder.config import SettingsError, TowerConfig
from encoder.learned.config import LearnConfig
from encoder.tower.alignment import Covariances, ridge_alignment
from encoder.views import view_batch
from store.home import Home
from tests.command_line import Run

Train = Callable[..., tuple[int, str]]

ITEMS = "item_id,kind,attributes\n" + "\n".join(f'i{n},film,"{{""genre"": ""g{n % 3}""}}"' for n in range(6))
ROWS = [(f"u{u}", f"i{(u + n) % 6}", "share" if n else "like", 1) for u in range(3) for n in range(4)]


@pytest.fixture
def train(tmp_path: Path, run: Run) -> Train:
    """Run a command on a home with some behaviours; return exit code and what was said."""

    def call(
        rows: list[tuple[object, ...]], *words: object, header: str = "user_id,item_id,action,weight"
    ) -> tuple[int, str]:
        data, home = tmp_path / "data", Home(tmp_path / "home")
        data.mkdir(exist_ok=True)
        (data / "items.csv").write_text(ITEMS + "\n")
        (data / "behaviors.csv").write_text(
            "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"
        )
        assert run("import", data, "--home", home.path)[0] == 0
        command, *others = words or ("train",)
        code, out, err = run(command, "--home", home.path, *others)
        assert not home.text_models.exists()  # nothing was exported or encoded
        assert not home.models.exists()
        return code, " ".join((out + err).replace("│", " ").split())

    return call


@pytest.mark.parametrize("command", ["train", "tune"])
def test_an_action_that_is_not_there_is_a_usage_error_that_names_the_nearest(
    train: Train, command: str
) -> None:
    code, said = train(ROWS, command, "--action", "shar=2")
    assert (
        code,
        "no behaviour has the action 'shar': did you mean 'share'? there are like, share" in said,
    ) == (2, True)
    code, said = train(ROWS, command, "--action", "wear=2")
    assert (code, "no behaviour has the action 'wear': there are like, share" in said) == (2, True)


def test_a_label_is_for_a_category_and_a_category_needs_one(train: Train) -> None:
    code, said = train(ROWS, "train", "--label", "attributes.genre")
    assert (code, "--label is for --task category" in said) == (2, True)
    code, said = train(ROWS, "train", "--task", "category")
    assert (code, "--task category needs a --label" in said) == (2, True)
    code, said = train(ROWS, "train", "--task", "category", "--label", "attributes.gener")
    assert (code, "no item has it; items have kind, attributes.genre" in said) == (1, True)


def test_labels_that_cannot_teach_a_task_are_refused(train: Train) -> None:
    code, said = train(ROWS, "train", "--task", "rating")
    assert (
        code,
        "every label is 1: nothing to tell apart; a rating is the weight of a behaviour" in said,
    ) == (1, True)
    code, said = train(ROWS, "train", "--task", "category", "--label", "kind")
    assert (code, "its only class is 'film'" in said) == (1, True)
    everything = [(f"u{u}", f"i{n}", "like", 1) for u in range(3) for n in range(6)]
    code, said = train(everything, "train", "--task", "click")
    assert (code, "nobody has an unseen item" in said) == (1, True)


@pytest.mark.parametrize(
    ("share", "trouble"),
    [
        (0.9, "3 of 3 here, and nobody who did anything is left"),
        (0.01, "0 of 3 here, and nobody would be unseen"),
    ],
)
def test_a_share_of_users_that_leaves_out_all_or_none_is_refused(
    train: Train, share: float, trouble: str
) -> None:
    code, said = train(ROWS, "train", "--holdout-users", share)
    assert (code, trouble in said) == (1, True)
    assert f"a share of {share} of the users" in said


def test_behaviours_that_all_weigh_nothing_are_nothing_to_learn_from(train: Train) -> None:
    code, said = train([("u", "i1", "view", 0), ("v", "i2", "view", 0)])
    assert (code, "every behaviour weighs 0, nothing to learn: import weights above 0" in said) == (1, True)
    code, said = train(ROWS, "train", "--action", "like=0", "--action", "share=0")
    assert (code, "give one of these actions a weight above 0: like, share" in said) == (1, True)


def test_no_behaviours_and_none_that_are_visible_are_told_apart(train: Train) -> None:
    code, said = train([])
    assert (code, "has no behaviours, nothing to learn: import a table behaviors" in said) == (1, True)
    rows = [("u", "i1", "valid"), ("v", "i2", "test")]
    code, said = train(rows, header="user_id,item_id,split")
    assert (code, "all 2 behaviours of export" in said, "leave some in split train" in said) == (
        1,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "is not JSON"),
        ("[1]", "[1] is no JSON object"),
        (json.dumps(TowerConfig().as_json() | {"depth": 3}), "there is no 'depth'; there are dim,"),
        (json.dumps(TowerConfig().as_json() | {"dim": "8"}), "dim is '8', not a finite number"),
        (json.dumps(TowerConfig().as_json() | {"damping": float("nan")}), "damping is nan, not a finite"),
        (json.dumps(TowerConfig().as_json() | {"gates": 1}), "gates 1 are not three numbers"),
        (json.dumps(TowerConfig().as_json() | {"actions": {"like": 1e309}}), "like is inf, not a finite"),
        (json.dumps(TowerConfig().as_json() | {"learned": {"dim": None}}), "dim is None, not a finite"),
    ],
)  # fmt: skip
def test_a_file_of_settings_that_is_none_is_refused_in_our_words(
    train: Train, tmp_path: Path, text: str, wrong: str
) -> None:
    (tmp_path / "settings.json").write_text(text)
    code, said = train(ROWS, "train", "--config", tmp_path / "settings.json")
    assert (code, wrong in said) == (1, True), said


def test_an_action_weight_has_a_bound(train: Train) -> None:
    code, said = train(ROWS, "train", "--action", "like=1e13")
    assert (code, "the weight must be a number from 0 to 1e+12" in said) == (1, True)


def test_a_ridge_of_nothing_says_so_where_a_regression_needs_one() -> None:
    covariances = Covariances((2, 3, 2))
    text = np.tile(np.float32([1, 0, 0]), (4, 1))
    covariances.add(
        view_batch(np.ones((4, 2), np.float32), text, np.ones((4, 2), np.float32), np.ones((4, 3)))
    )
    with pytest.raises(SettingsError, match="ridge 0 leaves a regression without one solution"):
        ridge_alignment(covariances, 0.0)
    assert all(np.isfinite(one).all() for one in ridge_alignment(covariances, 0.1).matrices)


def test_settings_of_a_learned_block_are_numbers() -> None:
    for wrong in (float("inf"), -1, "3", None, True):
        with pytest.raises(SettingsError, match="weight_decay is "):
            LearnConfig(weight_decay=wrong)  # type: ignore[arg-type]
