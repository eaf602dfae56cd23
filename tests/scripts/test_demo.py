import json
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from encoder.dataset import load_dataset
from encoder.text.cache import TextCache
from encoder.text.encoder import TextEncoder
from indexer.publish import current_index, load_index
from scripts.demo import NotADemoHomeError, ServerStartError, demo_command, demo_server
from scripts.evaluate.protocol import Evaluator, VocabularyError
from scripts.home_access import NoSuchHomeError, ServerOwnsStoreError, existing_home, writable_store
from store.export import Export
from store.home import Home
from tests.live_server import copy_home


def test_the_demo_clears_nothing_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(NotADemoHomeError, match="was not made by the demo"):
        demo_command(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_server_that_does_not_start_names_its_log(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    home.current_index.write_text("nowhere\n")
    with pytest.raises(ServerStartError, match=r"see .*server\.log"), demo_server(home, 0, keep=False):
        pass
    assert "CURRENT: names 'nowhere'" in (home.path / "server.log").read_text()


def test_the_demo_server_answers_and_is_gone_afterwards(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with demo_server(home, 0, keep=False) as address:
        said = json.loads(home.server_file.read_text())
        assert said["address"] == address
        with (
            pytest.raises(ServerOwnsStoreError, match=f"a server on {said['local']} owns"),
            writable_store(home),
        ):
            pass
    assert not home.server_file.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(said["pid"], 0)
    host, _, port = address.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=1)


def test_a_directory_without_a_store_is_no_home(tmp_path: Path) -> None:
    with pytest.raises(NoSuchHomeError, match="is no Triptych home"):
        existing_home(tmp_path)


def test_a_model_is_not_measured_on_other_items_than_it_was_trained_on(
    small_home: Home, tmp_path: Path
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    pair = load_index(home, current_index(home).name)
    encoder = TextEncoder.load(home.text_models / pair.model.text_model_id)
    cache = TextCache.open(home.text_cache)
    with Export.open(home.exports / pair.model.export_id) as export:
        data = load_dataset(export, encoder, cache)
    cache.close()
    others = pa.array([f"other-{item}" for item in data.items.to_pylist()])
    with pytest.raises(VocabularyError, match="other items than its export's"):
        Evaluator(replace(data, items=others), pair, "test")
    shutil.rmtree(home.path)
