"""A simulated market: instruments whose trades have no trend, a volatility that clusters, and a spread of one tick.

An instrument's efficient price is a random walk. The standard deviation of its steps is a level of its own, times the
pattern of the day, times a mean-reverting factor (stochastic volatility), times that of a regime, calm or turbulent,
which switches at random. Buyers pay the tick above the efficient price, sellers get the one below, and a side tends to
follow itself: so printed prices bounce. Nothing here can be earned.

Letters: U instruments, T trades, C chunks of CHUNK_TRADES trades whose volatility is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.trading.ticks import Doubles, Ticks

CHUNK_TRADES = 20
DAY_S = 6.5 * 3_600
_US_PER_S, _US_PER_DAY = 1_000_000, 86_400_000_000
_OPENING_US = 1_735_741_800_000_000


@dataclass(frozen=True, slots=True)
class Market:
    """What instruments are drawn from. Levels: standard deviations of CHUNK_TRADES trades, in ticks. Persistences are
    by chunk; `regime_scale`: of the turbulent one, that of the calm one is 1."""

    level_low: float = 1.2
    level_high: float = 3.6
    factor_std: float = 0.35
    factor_persistence: float = 0.995
    regime_scale: float = 1.8
    regime_persistence: float = 0.998
    day_depth: float = 0.5
    same_side: float = 0.7
    trades_per_s: float = 0.8
    price: float = 4_000.0


def simulate(market: Market, num_instruments: int, num_trades: int, seed: int) -> list[Ticks]:
    """Draws the trades of instruments, the same ones by the same seed. A tick is 1; `num_trades` is a multiple of
    CHUNK_TRADES."""
    rng = np.random.default_rng(seed)
    shape = (num_instruments, num_trades // CHUNK_TRADES)
    level_U1 = np.exp(rng.uniform(np.log(market.level_low), np.log(market.level_high), (num_instruments, 1)))
    factor_UC = _factor(rng, market, shape) * np.where(_turbulent(rng, market, shape), market.regime_scale, 1.0)
    second_UT, day_UT = _clock(rng, market, factor_UC)
    step_UC = level_U1 * factor_UC / np.sqrt(CHUNK_TRADES)
    step_UT = np.repeat(step_UC, CHUNK_TRADES, axis=1) * _pattern(market, second_UT)
    efficient_UT = market.price + np.cumsum(step_UT * rng.standard_normal(step_UT.shape), axis=1)
    follows_UT = rng.random(step_UT.shape) < market.same_side
    is_buy_UT = np.cumsum(~follows_UT, axis=1) % 2 == 1
    price_UT = np.floor(efficient_UT) + is_buy_UT
    volume_UT = 1.0 + rng.geometric(0.4, price_UT.shape)
    time_us_UT = _OPENING_US + day_UT * _US_PER_DAY + (second_UT * _US_PER_S).astype(np.int64)
    return [
        Ticks(f"instrument-{at}", time_us_T, price_T, volume_T)
        for at, (time_us_T, price_T, volume_T) in enumerate(zip(time_us_UT, price_UT, volume_UT, strict=True))
    ]


def _factor(rng: np.random.Generator, market: Market, shape: tuple[int, int]) -> Doubles:
    """Stochastic volatility [U, C] about 1: the exponential of a stationary autoregression."""
    shock_UC = rng.standard_normal(shape) * market.factor_std
    persistence = market.factor_persistence
    shock_UC[:, 1:] *= np.sqrt(1 - persistence**2)
    log_UC = shock_UC
    for chunk in range(1, shape[1]):
        log_UC[:, chunk] += persistence * log_UC[:, chunk - 1]
    factor_UC: Doubles = np.exp(log_UC)
    return factor_UC


def _turbulent(rng: np.random.Generator, market: Market, shape: tuple[int, int]) -> np.ndarray:
    """Which chunks [U, C] are in the turbulent regime."""
    switches_UC = rng.random(shape) > market.regime_persistence
    switches_UC[:, 0] = rng.random(shape[0]) < 0.5
    turbulent_UC: np.ndarray = np.cumsum(switches_UC, axis=1) % 2 == 1
    return turbulent_UC


def _clock(rng: np.random.Generator, market: Market, factor_UC: Doubles) -> tuple[Doubles, np.ndarray]:
    """Second of the trading day and number of the day [U, T] of each trade: the wilder, the busier."""
    wait_UT = rng.exponential(1 / market.trades_per_s, (factor_UC.shape[0], factor_UC.shape[1] * CHUNK_TRADES))
    passed_UT = np.cumsum(wait_UT / np.repeat(factor_UC, CHUNK_TRADES, axis=1), axis=1)
    day_UT = (passed_UT // DAY_S).astype(np.int64)
    return passed_UT - day_UT * DAY_S, day_UT


def _pattern(market: Market, second_UT: Doubles) -> Doubles:
    """What the time of the day makes of the volatility: most at its ends, `day_depth` of that at noon."""
    from_noon_UT = np.abs(2 * second_UT / DAY_S - 1)
    return market.day_depth + (1 - market.day_depth) * from_noon_UT**2
