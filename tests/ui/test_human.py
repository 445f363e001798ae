import pytest

from trainer.ui import human


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1.2e9, "1.2 GB"), (999.96e6, "1.0 GB"), (2.5e16, "25.0 PB")],
)
def test_size(n, text):
    assert human.size(n) == text


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0"), (4096, "4,096"), (999_999, "999,999"), (1_104_934, "1.1M"), (999.96e6, "1.0G")]
)
def test_count(n, text):
    assert human.count(n) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (190, "3m10s"),
        (3599.7, "1h00m"),
        (7500, "2h05m"),
        (86399, "1d00h"),
        (100800, "1d04h"),
        (float("nan"), "?"),
        (float("inf"), "?"),
    ],
)
def test_duration(seconds, text):
    assert human.duration(seconds) == text


def test_percent():
    assert human.percent(0.125) == "12.5%"
    assert human.percent(None) == "-"
