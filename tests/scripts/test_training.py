"""What `triptych train` takes beside the data: settings, a task head, Weights & Biases."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from encoder.config import SettingsError, TowerConfig
from encoder.fit import TrainOptions
from encoder.learned.config import LearnConfig
from scripts.training import WandbMissingError, attributes_and_kinds, train_options, wandb_report
from store.export import Export
from store.home import Home
from tests.command_line import Run
from tests.live_server import copy_home


def test_learned_is_the_default_and_the_closed_forms_have_no_learned_blocks() -> None:
    options = train_options("learned", {"share": 2.0}, None, 7, 3, 5)
    assert options.base == TowerConfig(fusion="ridge", actions={"share": 2.0})
    assert options.learn == LearnConfig(epochs=7, members=3, seed=5)
    assert train_options("maxvar", {}, None, None, None, 0).learn is None
    assert train_options("ridge", {}, None, None, None, 0).base.fusion == "ridge"


def test_a_file_of_settings_names_both_forms_and_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    closed, learned = TowerConfig(dim=8, half_life=3.0), LearnConfig(dim=9)
    path.write_text(json.dumps(closed.as_json() | {"learned": learned.as_json()}), "utf-8")
    options = train_options("learned", {}, path, None, None, 0)
    assert (options.base, options.learn, options.search) == (closed, learned, False)
    path.write_text(json.dumps(closed.as_json() | {"learned": {"depth": 3}}), "utf-8")
    with pytest.raises(SettingsError, match="depth"):
        train_options("learned", {}, path, None, None, 0)


@pytest.mark.skipif(find_spec("wandb") is not None, reason="Weights & Biases is installed")
def test_weights_and_biases_that_is_not_installed_is_an_error_that_says_what_to_do() -> None:
    with wandb_report(TrainOptions(), wandb=False) as report:
        assert report is None
    with (
        pytest.raises(WandbMissingError, match="pip install wandb"),
        wandb_report(TrainOptions(), wandb=True),
    ):
        pass


def test_every_task_head_is_trained_saved_and_evaluated(small_home: Home, tmp_path: Path, run: Run) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with Export.latest(home.exports) as export:
        attributes, kinds = attributes_and_kinds(export)
    name = sorted(next(one for one in attributes if one))[0] if any(attributes) else None
    label = f"attributes.{name}" if name else "kind"
    assert len(kinds) == len(attributes) == 150
    quick = ("--home", home.path, "--fusion", "ridge", "--dim", 16)
    code, out, err = run("train", *quick, "--task", "click", "--task", "category", "--label", label)
    assert code == 0, err
    assert "heads: click, category" in out
    assert run("reindex", "--home", home.path)[0] == 0
    code, out, err = run("evaluate", "--home", home.path, "--json", tmp_path / "out.json")
    assert code == 0, err
    heads = json.loads((tmp_path / "out.json").read_text("utf-8"))["heads"]
    assert list(heads) == ["click", "category"]
    for (task, one), metric in zip(heads.items(), ("auc", "accuracy"), strict=True):
        assert (one["task"], one["split"]) == (task, "test")
        assert metric in one["metrics"]
        assert set(one["metrics"]) >= set(next(iter(one["baselines"].values())))
        assert task in out
    assert "reliability" in out
    (page,) = home.reports.glob("*/report.html")
    assert 'id="calibration"' in page.read_text("utf-8")
    code, out, err = run("train", "--home", home.path, "--from", "LATEST")  # its heads are fitted again
    assert code == 0, err
    assert "heads: click, category" in out


def test_heads_are_fitted_to_a_model_as_it_is(small_home: Home, tmp_path: Path, run: Run) -> None:
    home = copy_home(small_home, tmp_path / "home")
    words = ("train", "--home", home.path, "--heads-of")
    code, out, err = run(*words, "LATEST", "--task", "category", "--label", "kind")
    assert code == 0, err
    assert "heads: category" in out
    for wrong, said in (
        (("LATEST",), "needs a --task"),
        (("LATEST", "--task", "click", "--dim", "4"), "takes --task and --label only"),
        (("nothing", "--task", "click"), "no such model as"),
    ):
        code, out, err = run(*words, *wrong)
        assert code == 2
        assert said in out + err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "category"), "label"),
        (("--task", "rating"), "every label is 1"),  # nobody rates in this world
        (("--task", "category", "--label", "attributes.nothing"), "attributes.nothing"),
        (("--epochs", "3", "--config", "somewhere.json"), "leave the others out"),
    ],
)
def test_what_makes_no_sense_is_refused(
    small_home: Home, tmp_path: Path, run: Run, words: tuple[str, ...], said: str
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    code, out, err = (
        run("train", "--home", home.path, "--fusion", "ridge", "--dim", 16, *words)
        if ("--config" not in words)
        else run("train", "--home", home.path, *words)
    )
    assert code in (1, 2)
    assert said in out + err
