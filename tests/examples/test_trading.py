"""The trading example: its market by its statistics, bars by a slow twin, scores by value, and the whole of it once."""

from __future__ import annotations

import gzip
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from evercurrent.models.adaptive import EventLog, Ids, LogError
from examples.trading import parts
from examples.trading.bars import (
    BAR_TRADES,
    FAR_TRADES,
    FEATURES,
    NEAR_TRADES,
    SIGNED,
    SPARSE_TRADES,
    bars_of,
    event_log,
    features_of,
    mirrored,
    recent,
    scale_of,
)
from examples.trading.market import CHUNK_TRADES, Market, simulate
from examples.trading.scores import (
    BLOCK_EVENTS,
    DECAYS,
    blocks_of,
    estimate,
    ewma_std,
    log_score,
    realised_std,
    tuned_decay,
)
from examples.trading.ticks import Ticks, autocorrelation, read_ticks
from tests.examples.running import RUN_TIMEOUT_S, ran, run_quick


@pytest.fixture(scope="module")
def market() -> list[Ticks]:
    return simulate(Market(), num_instruments=12, num_trades=150 * BAR_TRADES, seed=3)


def drawn(seed: int, num_trades: int = 5 * BAR_TRADES + 30) -> Ticks:
    (ticks,) = simulate(Market(), 1, num_trades // CHUNK_TRADES * CHUNK_TRADES, seed)
    return ticks


def log_of(*outcomes: list[float]) -> EventLog:
    """A user of each list."""
    lengths = [len(each) for each in outcomes]
    time_N = np.concatenate([np.arange(length) for length in lengths])
    return EventLog(
        user_N=np.repeat(np.arange(len(outcomes)), lengths),
        order_N=time_N.astype(np.float64),
        time_us_N=time_N + 1,
        ids_NK=np.zeros((time_N.size, 0), np.int64),
        features_NF=np.zeros((time_N.size, 0), np.float32),
        outcome_N=np.concatenate([np.array(each, np.float32) for each in outcomes]),
        users=tuple(f"user-{at}" for at in range(len(outcomes))),
        ids=Ids({}),
    )


# The market.


def test_prices_bounce_between_trades_and_not_between_bars(market: list[Ticks]) -> None:
    bounce = [autocorrelation(np.diff(ticks.price_T)) for ticks in market]
    assert max(bounce) < -0.15
    left = [autocorrelation(bars_of(ticks).return_N) for ticks in market]
    assert abs(np.mean(left)) < 3 / math.sqrt(12 * 150)


def test_volatility_clusters_and_returns_do_not(market: list[Ticks]) -> None:
    returns = [bars_of(ticks).return_N for ticks in market]
    for lag in (1, 5):
        assert np.mean([autocorrelation(np.abs(each), lag) for each in returns]) > 0.1
        shuffled = [np.random.default_rng(1).permutation(np.abs(each)) for each in returns]
        assert abs(np.mean([autocorrelation(each, lag) for each in shuffled])) < 0.08


def test_instruments_have_levels_of_their_own_and_a_spread_of_one_tick(market: list[Ticks]) -> None:
    levels = [float(np.std(bars_of(ticks).return_N / bars_of(ticks).tick_N)) for ticks in market]
    assert max(levels) > 1.5 * min(levels)
    for ticks in market:
        assert ticks.tick_size == 1.0
        assert (ticks.price_T == np.floor(ticks.price_T)).all()
        assert (np.diff(ticks.time_us_T) >= 0).all()


def test_ends_of_the_day_are_wilder_than_its_noon() -> None:
    calm = Market(factor_std=0.0, regime_scale=1.0)
    ticks = simulate(calm, 4, 40_000, seed=5)
    step_T = np.concatenate([np.diff(each.price_T, prepend=each.price_T[0]) for each in ticks])
    opening_us = ticks[0].time_us_T[0] // 1_000_000
    second_T = np.concatenate([each.time_us_T // 1_000_000 - opening_us for each in ticks]) % 86_400
    is_noon_T = np.abs(second_T - 11_700) < 3_000
    is_end_T = (second_T < 3_000) | (second_T > 20_400)

    def variance(chosen: np.ndarray) -> float:
        return float(np.square(step_T[chosen]).mean())

    assert variance(is_end_T) > 1.1 * variance(is_noon_T)


def test_one_seed_one_market() -> None:
    same, again, other = drawn(4), drawn(4), drawn(5)
    assert np.array_equal(same.price_T, again.price_T)
    assert np.array_equal(same.time_us_T, again.time_us_T)
    assert not np.array_equal(same.price_T, other.price_T)


# Bars.


@pytest.mark.parametrize("first", [0, 25, 130])
def test_bars_are_those_of_a_slow_twin(first: int) -> None:
    ticks = drawn(1)
    bars = bars_of(ticks, first)
    price, assigned = ticks.price_T.tolist()[first:], 0
    for at in range(1, len(price) // BAR_TRADES):
        inside = range(at * BAR_TRADES, (at + 1) * BAR_TRADES)
        last = inside[-1]
        realised = sum(math.log(price[t] / price[t - SPARSE_TRADES]) ** 2 for t in inside) / SPARSE_TRADES
        near = [math.log(price[last] / price[last - back]) for back in range(NEAR_TRADES)]
        far = [math.log(price[last] / price[last - back]) for back in range(FAR_TRADES)]
        expected = {
            "close_us_N": ticks.time_us_T[first + last],
            "return_N": math.log(price[last] / price[inside[0] - 1]),
            "above_near_N": sum(near) / NEAR_TRADES,
            "above_far_N": sum(far) / FAR_TRADES,
            "realised_N": realised,
            "jumps_N": sum(math.log(price[t] / price[t - 1]) ** 2 for t in inside),
            "volume_N": sum(ticks.volume_T[first + t] for t in inside),
            "tick_N": 1 / price[last],
        }
        for name, value in expected.items():
            assert getattr(bars, name)[at - 1] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        assigned += 1
    assert len(bars) == assigned >= 3


def test_no_feature_knows_a_later_trade() -> None:
    ticks = drawn(2)
    scale = scale_of([bars_of(ticks)])
    before = event_log([bars_of(ticks)], scale)
    cut = 3 * BAR_TRADES
    is_later_T = np.arange(len(ticks)) >= cut
    other = Ticks(
        name="other",
        time_us_T=ticks.time_us_T + is_later_T * 10**9,
        price_T=np.where(is_later_T, ticks.price_T[::-1] + 40, ticks.price_T),
        volume_T=ticks.volume_T + is_later_T * 7,
    )
    after = event_log([bars_of(other)], scale)
    closed = before.time_us_N <= ticks.time_us_T[cut - 1]
    assert closed.sum() == 2
    assert np.array_equal(before.features_NF[closed], after.features_NF[closed])
    assert np.array_equal(before.time_us_N[closed], after.time_us_N[closed])
    assert not np.array_equal(before.features_NF, after.features_NF)
    assert before.outcome_N[1] != after.outcome_N[1]


def test_outcome_is_the_return_of_the_bar_that_begins() -> None:
    bars = [bars_of(drawn(3)), bars_of(drawn(4))]
    scale = scale_of(bars)
    log = event_log(bars, scale)
    assert scale.unit == pytest.approx(np.sqrt(np.mean(np.square(np.concatenate([b.return_N for b in bars])))))
    assert len(log) == sum(len(each) - 1 for each in bars)
    for user, each in enumerate(bars):
        places = log.user_N == user
        assert log.outcome_N[places] == pytest.approx(each.return_N[1:] / scale.unit, rel=1e-5)
        assert np.array_equal(log.time_us_N[places], each.close_us_N[:-1])


def test_features_are_of_about_unit_size(market: list[Ticks]) -> None:
    bars = [bars_of(ticks) for ticks in market]
    feature_NF = np.concatenate([features_of(each, scale_of(bars)) for each in bars])
    assert feature_NF.shape == (sum(map(len, bars)), len(FEATURES))
    assert np.abs(feature_NF.mean(0)).max() < 0.1
    assert feature_NF.std(0) == pytest.approx(1.0, abs=0.15)


def test_mirror_turns_what_has_a_direction() -> None:
    bars = bars_of(drawn(6))
    log = event_log([bars], scale_of([bars]))
    both = mirrored(log)
    assert len(both) == 2 * len(log)
    assert both.users == (log.users[0], f"{log.users[0]} mirrored")
    first, second = (both.features_NF[places] for places in both.by_user())
    num_signed = len(SIGNED)
    assert np.array_equal(second[:, :num_signed], -first[:, :num_signed])
    assert np.array_equal(second[:, num_signed:], first[:, num_signed:])
    assert np.array_equal(both.outcome_N[len(log) :], -log.outcome_N)


def test_recent_is_weighted_by_its_age() -> None:
    assert recent(np.array([4.0, 0.0, 8.0]), 0.5, 2.0) == pytest.approx([3.0, 1.5, 4.75])
    assert recent(np.array([4.0, 0.0, 8.0]), 0.0, 2.0) == pytest.approx([4.0, 0.0, 8.0])


# Scores.


def test_ewma_by_value_for_each_user_by_itself() -> None:
    log = log_of([2.0, 0.0, 1.0], [1.0, 3.0])
    variance = [1.0, 0.9 + 0.1 * 4, (0.9 + 0.1 * 4) * 0.9, 1.0, 1.0]
    assert ewma_std(log, 0.9) == pytest.approx(np.sqrt(variance))


def test_realised_variance_counts_from_the_event_on_that_knows_it() -> None:
    log = log_of([0.0, 0.0], [0.0])
    assert realised_std(log, np.array([4.0, 1.0, 0.0]), 0.5) == pytest.approx(np.sqrt([2.5, 1.75, 0.5]))


def test_realised_variances_are_beside_their_events() -> None:
    found = parts.simulated(seed=1, quick=True)
    assert found.tuning_realised_N.shape == found.tuning.outcome_N.shape
    assert (np.diff(found.testing.order_N) >= 0).all()
    at = FEATURES.index("realised")
    for log, realised_N in (
        (found.tuning, found.tuning_realised_N),
        (found.testing, found.testing_realised_N),
    ):
        feature_N = log.features_NF[:, at]
        order = np.argsort(realised_N)
        assert (np.diff(feature_N[order]) >= 0).all()
        assert np.corrcoef(feature_N, np.log(realised_N + 0.05))[0, 1] > 0.95


def test_log_score_is_the_log_density() -> None:
    mean, std, outcome = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([1.0, 0.5, 3.0]), torch.tensor([0.3, 9.0, 1.0])
    expected = torch.distributions.Normal(mean, std).log_prob(outcome)
    assert log_score(mean, std, outcome) == pytest.approx(expected.numpy(), rel=1e-6)
    assert log_score(0.0, 1.0, 0.0) == pytest.approx(-0.5 * math.log(2 * math.pi))


def test_slow_volatility_asks_for_a_slow_decay() -> None:
    rng = np.random.default_rng(0)
    constant = log_of(rng.standard_normal(4_000).tolist())
    switching = log_of((rng.standard_normal(4_000) * np.where(np.arange(4_000) // 40 % 2, 3.0, 0.3)).tolist())
    assert tuned_decay(constant, partial(ewma_std, constant)) == max(DECAYS)
    assert tuned_decay(switching, partial(ewma_std, switching)) <= 0.95


def test_blocks_are_of_a_user_or_of_all_together() -> None:
    log = log_of([0.0] * (BLOCK_EVENTS + 2), [0.0] * 3)
    assert blocks_of(log).tolist() == [0] * BLOCK_EVENTS + [1, 1, 2, 2, 2]
    assert blocks_of(log, together=True).tolist() == [0] * BLOCK_EVENTS + [1, 1, 0, 0, 0]


def test_error_of_a_mean_counts_blocks_that_move_together() -> None:
    value_N = np.random.default_rng(1).standard_normal(4_000)
    block_N = blocks_of(log_of([0.0] * 4_000))
    alone = estimate(value_N, block_N)
    assert alone.mean == pytest.approx(value_N.mean())
    assert alone.error == pytest.approx(1 / math.sqrt(4_000), rel=0.2)
    together = estimate(np.repeat(value_N[: 4_000 // BLOCK_EVENTS], BLOCK_EVENTS), block_N)
    assert together.error == pytest.approx(alone.error * math.sqrt(BLOCK_EVENTS), rel=0.3)
    low, high = alone.interval
    assert high - low == pytest.approx(2 * 1.96 * alone.error)


def test_values_that_are_none_do_not_count() -> None:
    assert estimate([1.0, math.nan, 0.0], np.array([0, 0, 1])).mean == 0.5


# Files.


def written(folder: Path, text: str, name: str = "ticks.csv") -> Path:
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["es.csv", "es.csv.gz"])
def test_reads_trades(tmp_path: Path, name: str) -> None:
    text = "volume,timestamp_ms,price\n3,1000,10.25\n1,1000,10.75\n2,1500,10.5\n"
    ticks = read_ticks(written(tmp_path, text, name))
    assert ticks.name == "es"
    assert ticks.time_us_T.tolist() == [1_000_000, 1_000_000, 1_500_000]
    assert ticks.price_T.tolist() == [10.25, 10.75, 10.5]
    assert ticks.volume_T.tolist() == [3, 1, 2]
    assert ticks.tick_size == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timestamp_ms,price\n1,2\n", "lacks the column volume: its header must name timestamp_ms, price, volume"),
        ("timestamp_ms,price,volume\n", "has no trades"),
        ("timestamp_ms,price,volume\n1,2\n", "line 2: 2 cells, the header has 3"),
        ("timestamp_ms,price,volume\n1,2,3\n2,x,1\n", 'line 3: price is "x", not a number above 0'),
        ("timestamp_ms,price,volume\n1,-2,3\n", 'line 2: price is "-2", not a number above 0'),
        ("timestamp_ms,price,volume\n2,2,3\n1,2,3\n", "line 3: timestamp_ms is earlier than in the line before"),
    ],
)
def test_says_what_a_file_lacks(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(LogError) as raised:
        read_ticks(path)
    assert str(raised.value) == f"{path} {message}"


def test_says_that_a_file_is_none(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be read as CSV"):
        read_ticks(tmp_path / "absent.csv")


def test_says_that_a_file_is_too_short(tmp_path: Path) -> None:
    path = written(tmp_path, "timestamp_ms,price,volume\n1,2,3\n2,3,3\n")
    with pytest.raises(LogError, match=r"has 2 trades: at least \d+"):
        parts.recorded(path, quick=True)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated instrument as a file, just long enough."""
    ticks = drawn(7, parts.TRADES_MIN)
    rows = zip((ticks.time_us_T // 1_000).tolist(), ticks.price_T.tolist(), ticks.volume_T.tolist(), strict=True)
    text = "timestamp_ms,price,volume\n" + "".join(f"{time},{price},{volume}\n" for time, price, volume in rows)
    return written(tmp_path_factory.mktemp("ticks"), text, "ticks.csv.gz")


def test_nothing_of_the_later_part_reaches_training(recording: Path, tmp_path: Path) -> None:
    lines = gzip.decompress(recording.read_bytes()).decode().splitlines()
    cut = 1 + int((len(lines) - 1) * parts.TRAINING_SHARE)
    later = [",".join((time, str(float(price) + 50), "9")) for time, price, _ in (x.split(",") for x in lines[cut:])]
    before = parts.recorded(recording, quick=True)
    after = parts.recorded(written(tmp_path, "\n".join(lines[:cut] + later)), quick=True)
    for name in ("features_NF", "outcome_N", "time_us_N"):
        assert np.array_equal(getattr(before.training, name), getattr(after.training, name))
        assert np.array_equal(getattr(before.tuning, name), getattr(after.tuning, name))
    assert not np.array_equal(before.testing.features_NF, after.testing.features_NF)
    assert before.training.time_us_N.max() < before.testing.time_us_N.min()


def test_who_chooses_the_epoch_is_not_fitted() -> None:
    found = parts.simulated(seed=1, quick=True)
    fitted = set(found.training.users) - set(found.validation_users)
    assert found.validation_users
    assert not fitted & {f"{name} mirrored" for name in found.validation_users}
    assert not {name for name in fitted if f"{name} mirrored" in found.validation_users}


# The whole.


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module", params=["simulated", "recorded"])
def printed(request: pytest.FixtureRequest, out: Path, recording: Path) -> str:
    data = ["--data", recording] if request.param == "recorded" else []
    return run_quick("trading", out, *data)


@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_prints_how_well_it_predicts_and_what_it_costs(printed: str) -> None:
    for said in (
        "as served",
        "EWMA",
        "of realised",
        "constant",
        "± one standard error",
        "from trade to trade",
        "No claim of profit",
        "by the spread alone",
    ):
        assert said in " ".join(printed.split())


def test_ends_with_the_reason_where_a_file_is_no_use(tmp_path: Path) -> None:
    done = ran("trading", "--data", tmp_path / "absent.csv", "--out", tmp_path)
    assert done.returncode == 1
    assert "absent.csv cannot be read as CSV" in done.stderr
