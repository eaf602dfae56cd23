"""Options of a server: file, environment, flags; what is wrong with one; what SIGHUP changes."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from server.config import ServerConfig, options
from server.rereading import Rereading
from server.settings import SettingsSource, WrongSettingError, flag_of, options_table
from store.home import Home
from tests.command_line import Run
from tests.live_server import copy_home, run_server, server, soon

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for one in options():
        monkeypatch.delenv(f"TRIPTYCH_{one.name.upper()}", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def write(home: Path, text: str) -> None:
    (home / "triptych.toml").write_text(text, "utf-8")


def test_without_anything_the_defaults_hold(home: Path) -> None:
    assert SettingsSource(home).load() == ServerConfig(Home(home))


def test_the_environment_beats_the_file_and_flags_beat_both(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, '[server]\nport = 1\nworkers = 2\nqueue = 3\nhost = "::1"\n')
    monkeypatch.setenv("TRIPTYCH_WORKERS", "20")
    monkeypatch.setenv("TRIPTYCH_QUEUE", "30")
    config = SettingsSource(home, flags={"queue": 300}).load()
    assert (config.host, config.port, config.workers, config.queue) == ("::1", 1, 20, 300)


def test_an_empty_variable_counts_as_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_PORT", "")
    assert SettingsSource(home).load().port == 50051


def test_a_file_may_lie_elsewhere_and_its_paths_are_beside_it(home: Path, tmp_path: Path) -> None:
    write(home, "[server]\nport = 1\n")
    file = tmp_path / "other.toml"
    file.write_text('[server]\nport = 2\n[tls]\ncert = "a.pem"\nkey = "/b.pem"\n')
    config = SettingsSource(home, file).load()
    assert (config.port, config.tls_cert, config.tls_key) == (2, tmp_path / "a.pem", Path("/b.pem"))
    with pytest.raises(FileNotFoundError, match="absent"):
        SettingsSource(home, tmp_path / "absent.toml").load()


def test_every_option_survives_the_way_to_another_process(home: Path) -> None:
    other = {int: 7, float: 2.5, bool: False, Path: Path("/somewhere"), str: "else"}
    values = {one.attribute: other[one.kind] for one in options()}
    config = ServerConfig(Home(home), ("a", "b"), "a", **values)
    assert ServerConfig.from_json(config.to_json()) == config
    assert "\n" not in config.to_json()


def test_auto_is_as_many_processes_as_processors(home: Path) -> None:
    write(home, '[server]\nprocesses = "auto"\n')
    assert SettingsSource(home).load().processes >= 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 1\n", "there is no option [server] prot; the nearest one is [server] port"),
        ("[tsl]\ncert = 'c'\n", "there is no option [tsl] cert; the nearest one is [tls] cert"),
        ("port = 1\n", "port stands in no table; the nearest one is [server] port"),
        ("[server]\nport = 70000\n", "[server] port is 70000, not a number in 0..65535"),
        ("[server]\nport = 'http'\n", "[server] port is 'http', not a number in 0..65535"),
        ("[server]\nport = true\n", "[server] port is True, not a number in 0..65535"),
        ("[server]\ngrace = nan\n", "[server] grace is nan, not a number in 0..3600"),
        ("[server]\nprocesses = 'all'\n", "[server] processes is 'all', not auto or a number in 1..256"),
        ("[server]\nspare = 'perhaps'\n", "[server] spare is 'perhaps', not true or false"),
        ("[server]\nspare = 1\n", "[server] spare is 1, not true or false"),
        ("[log]\nlevel = 'loud'\n", "[log] level is 'loud', not debug or info or warning or error"),
        ("[tls]\ncert = 3\n", "[tls] cert is 3, not a path"),
        ("[server\n", "is no TOML"),
        ("\udcff", "is no TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(home: Path, text: str, said: str) -> None:
    (home / "triptych.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(WrongSettingError) as caught:
        SettingsSource(home).load()
    assert f"{home / 'triptych.toml'}" in str(caught.value)
    assert said in str(caught.value)


def test_a_wrong_variable_and_a_wrong_flag_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "[server]\nworkers = 1\n")
    monkeypatch.setenv("TRIPTYCH_WORKERS", "many")
    with pytest.raises(WrongSettingError, match=r"^TRIPTYCH_WORKERS is 'many', not a number in 1..256$"):
        SettingsSource(home).load()
    with pytest.raises(WrongSettingError, match=r"^--metrics-port is 70000, not a number in 0..65535$"):
        SettingsSource(home, flags={"workers": 1, "metrics_port": 70_000}).load()
    with pytest.raises(WrongSettingError, match=r"^--workers is 999, not a number in 1..256$"):
        SettingsSource(home, flags={"workers": 999}).load()


def test_the_document_lists_every_option() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert options_table() in text, "say what `python -m server.settings` prints"


def test_every_option_is_a_flag_of_serve(run: Run) -> None:
    code, out, _ = run("serve", "--help")
    assert code == 0
    assert [one.name for one in options() if flag_of(one) not in out] == []


def test_a_server_says_what_is_wrong_with_its_file(home: Path) -> None:
    write(home, "[server]\nprot = 1\n")
    ended = run_server(Home(home))
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(f"server: {home / 'triptych.toml'}: there is no option [server] prot")
    assert "Traceback" not in ended.stderr


def test_what_can_change_does_and_the_rest_is_named(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, heard = ServerConfig(Home(home)), []
    wanted = replace(config, grace_seconds=3.0, port=1)
    settings = Rereading(config, lambda: wanted)
    settings.listen(heard.append)
    with caplog.at_level("INFO"):
        settings.reread()
    assert settings.config == replace(config, grace_seconds=3.0)
    assert heard == [config, settings.config]
    assert "changed: grace_seconds" in caplog.text
    assert "only a restart changes [server] port" in caplog.text


def test_settings_that_cannot_be_used_change_nothing(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, heard = ServerConfig(Home(home)), []
    settings = Rereading(config, lambda: replace(config, grace_seconds=3.0))

    def refuse(new: ServerConfig) -> None:
        if new != config:
            raise ValueError("not these")

    settings.listen(heard.append)
    settings.listen(refuse)
    settings.reread()
    assert settings.config == config
    assert [one.grace_seconds for one in heard] == [10.0, 3.0, 10.0]
    assert "the settings stay as they are: not these" in caplog.text


@pytest.mark.parametrize("options", [(), ("--processes", "2", "--no-spare")])
def test_a_hang_up_reads_the_settings_again(
    small_home: Home, tmp_path: Path, options: tuple[str, ...]
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    processes = 3 if options else 1  # which take new settings over
    with server(home, *options) as live:
        if options:
            soon(lambda: "with 2 query processes" in live.log.read_text())
        write(home.path, "[server]\nworkers = 3\ngrace = 4.0\n")
        live.process.send_signal(signal.SIGHUP)
        soon(lambda: live.log.read_text().count("changed: grace_seconds") == processes + bool(options))
        soon(lambda: live.log.read_text().count("only a restart changes [server] workers") == 1)
        write(home.path, "[server]\nworkers = 0\n")
        live.process.send_signal(signal.SIGHUP)
        soon(lambda: "the settings stay as they are" in live.log.read_text())
        assert "[server] workers is 0, not a number in 1..256" in live.log.read_text()
        assert live.query(user_id="u00001").item_ids
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(60) == 0
    assert "running calls have 4 s to finish" in live.log.read_text()
    assert "Traceback" not in live.log.read_text()
