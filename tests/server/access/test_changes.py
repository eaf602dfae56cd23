"""When a server looks at the file of its tokens again."""

from pathlib import Path

from server.access.changes import LOOK_SECONDS, ChangeCount, Version, Watch


class _Looks:
    """A file whose version is counted up with each look, and a clock."""

    def __init__(self) -> None:
        self.looks = 0
        self.now = 100.0

    def version(self) -> Version:
        self.looks += 1
        return self.looks, 0, 0

    def clock(self) -> float:
        return self.now


def test_a_file_is_looked_at_when_its_writer_counted_or_a_second_has_passed(tmp_path: Path) -> None:
    file = _Looks()
    watch = Watch(file.version, tmp_path / "count", file.clock)
    assert [watch.version() for _ in range(3)] == [(1, 0, 0)] * 3
    writer = ChangeCount(tmp_path / "count")  # as another process maps it
    writer.add()
    assert [watch.version() for _ in range(3)] == [(2, 0, 0)] * 3
    file.now += 0.9 * LOOK_SECONDS
    assert watch.version() == (2, 0, 0)
    file.now += 0.1 * LOOK_SECONDS
    assert [watch.version() for _ in range(3)] == [(3, 0, 0)] * 3


def test_a_change_during_a_look_is_looked_at_again(tmp_path: Path) -> None:
    file = _Looks()
    writer = ChangeCount(tmp_path / "count")

    def version() -> Version:
        found = file.version()
        if file.looks == 1:
            writer.add()  # after the look, before the watch knows what it found
        return found

    watch = Watch(version, tmp_path / "count", file.clock)
    assert watch.version() == (1, 0, 0)
    assert watch.version() == (2, 0, 0)
    assert watch.version() == (2, 0, 0)


def test_without_a_count_each_call_looks(tmp_path: Path) -> None:
    file = _Looks()
    watch = Watch(file.version, tmp_path / "nowhere" / "count", file.clock)
    assert [watch.version() for _ in range(3)] == [(1, 0, 0), (2, 0, 0), (3, 0, 0)]


def test_a_count_goes_on_where_it_was_and_is_the_owners_alone(tmp_path: Path) -> None:
    for wanted in (1, 2):
        ChangeCount(tmp_path / "count").add()
        assert int.from_bytes((tmp_path / "count").read_bytes(), "little") == wanted
    assert (tmp_path / "count").stat().st_mode & 0o777 == 0o600
