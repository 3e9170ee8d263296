"""Progress where stderr is no terminal."""

from __future__ import annotations

import pytest

from nash_bench.base import progress


def test_plain_lines_come_with_news_and_seldom_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds)
    with progress.reporting("sweeping") as say:
        for seconds in range(0, 1000, 2):
            say(0 if seconds < 15 else 1, 4)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["sweeping: 0 of 4", *["sweeping: 1 of 4"] * 2]
