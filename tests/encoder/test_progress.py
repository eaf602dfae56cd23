"""Progress in a pipe: what is logged, and when, by a clock that the test moves."""

import logging

import pytest

from encoder.progress import LINE_SECONDS, LongStage, duration, watched


class Clock:
    """A clock that moves only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.waits = 0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        """Let the time pass; the stage is over at the fourth call."""
        self.now += seconds
        self.waits += 1
        return self.waits == 4


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "encoder.progress"]


def test_a_line_every_half_minute_with_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()

    def wait(seconds: float) -> bool:
        stage.advance(10, note=f"step {clock.waits}")
        return clock.wait(seconds)

    stage = LongStage("history table", 60, "setting", clock=clock, wait=wait)
    with stage:
        pass
    assert clock.now == 1_000.0 + 4 * LINE_SECONDS
    assert messages(caplog) == [
        "history table: 10 of 60 settings in 30 s, about 2 min 30 s left, step 0",
        "history table: 20 of 60 settings in 1 min 0 s, about 2 min 0 s left, step 1",
        "history table: 30 of 60 settings in 1 min 30 s, about 1 min 30 s left, step 2",
    ]


def test_one_part_that_takes_long_is_told_too_and_nothing_is_estimated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    with LongStage("fit", 12, "step", clock=clock, wait=clock.wait):
        pass
    assert messages(caplog)[-1] == "fit: 0 of 12 steps in 1 min 30 s"


def test_what_was_done_before_does_not_count_as_speed(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    stage = LongStage("train", 100, "step", done=80, clock=clock, wait=clock.wait)
    clock.now += 20
    stage.advance(10)
    assert stage.line() == "train: 90 of 100 steps in 20 s, about 20 s left"


def test_the_outer_stage_speaks_for_the_inner_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock, inner = Clock(), Clock()
    with (
        LongStage("outer", 2, "part", clock=clock, wait=clock.wait),
        LongStage("inner", 2, "part", clock=inner, wait=inner.wait),
    ):
        pass
    assert {message.split(":")[0] for message in messages(caplog)} == {"outer"}
    assert inner.waits == 0


def test_a_stage_that_fails_stops_its_lines() -> None:
    with pytest.raises(ValueError, match="broken"), LongStage("outer", 1, "part"):
        raise ValueError("broken")
    with LongStage("next", 1, "part") as stage:  # as the outermost again
        stage.advance()
    assert stage.line().startswith("next: 1 of 1")


def test_watched_yields_every_part() -> None:
    assert list(watched([3, 1, 2], "sort", "number")) == [3, 1, 2]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3_725, "1 h 2 min")]
)
def test_durations_by_hand(seconds: float, text: str) -> None:
    assert duration(seconds) == text
