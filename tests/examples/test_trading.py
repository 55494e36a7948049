"""Trading signals: made-up trades, bars that know nothing of the future, scores by value, and a whole run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evercurrent.models.adaptive import LogError
from examples.trading.bars import FEATURES, Bars, Scale, bars_of, known, log_of, moving_spread, moving_spreads
from examples.trading.scores import best_decay, log_scores, mean_with_error
from examples.trading.ticks import TICK, Ticks, autocorrelation, read_ticks, simulate
from tests.examples.running import RUN_TIMEOUT_S, row_of, run_quick


@pytest.fixture(scope="module")
def ticks() -> Ticks:
    (made,) = simulate(num_instruments=1, num_trades=60_000, seed=2)
    return made


def test_made_up_trades_bounce_and_their_volatility_comes_in_clusters(ticks: Ticks) -> None:
    assert np.array_equal(np.round(ticks.price_N / TICK) * TICK, ticks.price_N)
    assert ticks.tick == TICK
    assert (np.diff(ticks.time_ms_N) > 0).all()
    assert autocorrelation(np.diff(ticks.price_N)) < -0.2
    return_T = bars_of(ticks).return_T[1:]
    assert abs(autocorrelation(return_T)) < 0.12
    assert autocorrelation(np.abs(return_T)) > 0.1
    (again,) = simulate(1, 60_000, 2)
    assert np.array_equal(again.price_N, ticks.price_N)


def test_bars_are_of_so_many_trades() -> None:
    made = Ticks("t", np.arange(10) * 100 + 5, np.arange(10.0), np.ones(10))
    bars = bars_of(made, 4)
    assert bars.price_T.tolist() == [3.0, 7.0]
    assert bars.return_T.tolist() == [0.0, 4.0]
    assert bars.time_ms_T.tolist() == [305, 705]
    assert bars.lasted_ms_T.tolist() == [300.0, 400.0]
    assert bars.volume_T.tolist() == [4.0, 4.0]


def test_features_know_nothing_of_later_bars(ticks: Ticks) -> None:
    bars = bars_of(ticks)
    scale = Scale.of([bars])
    known_TF = known(bars, scale)
    assert known_TF.shape == (600, len(FEATURES))
    assert np.isfinite(known_TF).all()
    at = 300
    later = np.arange(600) > at
    changed = Bars(
        np.where(later, bars.price_T + 50, bars.price_T),
        np.where(later, bars.time_ms_T + 10**6, bars.time_ms_T),
        np.where(later, 9e9, bars.lasted_ms_T),
        np.where(later, 9e9, bars.volume_T),
    )
    changed_TF = known(changed, scale)
    assert np.array_equal(changed_TF[: at + 1], known_TF[: at + 1])
    assert (changed_TF[at + 1] != known_TF[at + 1]).sum() >= 5


def test_an_event_is_the_bar_after_what_is_known(ticks: Ticks) -> None:
    bars = bars_of(ticks)
    scale = Scale.of([bars])
    log = log_of([bars, bars], scale)
    assert len(log.users) == 2
    assert len(log) == 2 * 599
    assert log.outcome_N[:599] == pytest.approx(bars.return_T[1:] / scale.spread, abs=1e-5)
    assert np.array_equal(log.features_NF[:599], known(bars, scale)[:-1])
    assert np.array_equal(log.time_us_N[:599], 1000 * bars.time_ms_T[:-1])
    assert np.array_equal(log.features_NF[599:], log.features_NF[:599])
    stretches = log_of([bars], scale, stretch_bars=250)
    assert np.bincount(stretches.user_N).tolist() == [250, 250, 99]
    assert np.array_equal(stretches.outcome_N, log.outcome_N[:599])


def test_moving_average_of_squares_by_value(ticks: Ticks) -> None:
    assert moving_spread(np.array([2.0, 0.0]), 0.9).tolist() == pytest.approx([math.sqrt(1.3), math.sqrt(1.17)])
    bars = bars_of(ticks)
    scale = Scale.of([bars])
    spread_N = moving_spreads([bars, bars], scale, 0.94)
    assert spread_N[:599] == pytest.approx(moving_spread(bars.return_T / scale.spread, 0.94)[:-1])
    outcome_N = log_of([bars], scale).outcome_N
    scores = {
        decay: log_scores(outcome_N, 0.0, moving_spreads([bars], scale, decay)).mean() for decay in (0.8, 0.94, 0.995)
    }
    best = best_decay([bars], scale, outcome_N)
    assert log_scores(outcome_N, 0.0, moving_spreads([bars], scale, best)).mean() >= max(scores.values())


def test_scores_are_log_densities() -> None:
    assert log_scores([0.0, 2.0], [0.0, 0.0], [1.0, 2.0]).tolist() == pytest.approx(
        [-0.9189385, -0.9189385 - math.log(2) - 0.5]
    )


def test_error_is_of_blocks() -> None:
    """Values that come in blocks of the same are as uncertain as so many values as there are blocks."""
    blocks = np.random.default_rng(1).normal(size=40)
    mean, error = mean_with_error(np.repeat(blocks, 50), 1, [np.arange(2000)])
    assert mean == pytest.approx(blocks.mean())
    assert error == pytest.approx(blocks.std() / math.sqrt(40), rel=0.15)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("timestamp_ms,price\n", "lacks the column volume"),
        ("timestamp_ms,price,volume\n", "has no trades"),
        ("timestamp_ms,price,volume\n1,2,3\n1,much,3\n", "line 3: .* must be numbers"),
        ("timestamp_ms,price,volume\n1,nan,3\n", "line 2: .* must be numbers"),
        ("timestamp_ms,price,volume\n1,2\n", "line 2: .* must be numbers"),
    ],
)
def test_bad_logs_are_told(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "trades.csv").write_text(content)
    with pytest.raises(LogError, match=says):
        read_ticks(tmp_path / "trades.csv")


def test_trades_are_read_as_written(tmp_path: Path, ticks: Ticks) -> None:
    rows = zip(ticks.time_ms_N[:50], ticks.price_N[:50], ticks.volume_N[:50], strict=True)
    (tmp_path / "trades.csv").write_text(
        "timestamp_ms,price,volume\n" + "".join(f"{time},{price},{volume}\n" for time, price, volume in rows)
    )
    read = read_ticks(tmp_path / "trades.csv")
    first = replace(ticks, time_ms_N=ticks.time_ms_N[:50], price_N=ticks.price_N[:50], volume_N=ticks.volume_N[:50])
    assert np.array_equal(read.price_N, first.price_N)
    assert np.array_equal(read.time_ms_N, first.time_ms_N)
    assert np.array_equal(read.volume_N, first.volume_N)


@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_a_whole_run(tmp_path: Path) -> None:
    printed = run_quick("trading", tmp_path)
    assert row_of(printed, "moving average of squares")[2] == "+0.0000"
    assert math.isfinite(float(row_of(printed, "as served")[1]))
    assert "Nothing here is a claim of profit." in printed
