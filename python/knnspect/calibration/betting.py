"""A test martingale: bets against the p-values of images being uniform."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from knnspect.errors import ParameterError
from knnspect.validation import check_count

__all__ = ["Change", "Martingale"]

#: Each account multiplies its capital by ``1 + slope * (p - 1/2)``, whose mean over [0, 1] is 1.
#: Negative slopes bet on scores that rise. No image multiplies a capital by more than 1.75.
_SLOPES = (-1.5, -0.5, 0.5, 1.5)
#: A change is dated by three likely densities of p-values after it, of small ones and of large.
_N_DENSITIES = 6
#: Of what is not yet bet, this share, divided by the number of the image from 2, begins to bet.
_START_RATE = 0.2
#: As many as a float counts.
_MOST_IMAGES = 1 << 53


class Change(NamedTuple):
    """When p-values are likely to have changed.

    Attributes
    ----------
    since : int
        The first of them, from 0.
    name : str or None
        The name that came with it.
    are_small : bool
        Whether they became smaller; else larger.
    """

    since: int
    name: str | None
    are_small: bool


class Martingale:
    """Capital that grows when p-values stop being uniform, and does not otherwise.

    The capital is 1 at first. Some of it begins to bet with each p-value, with the n-th a share of
    about ``0.2 / n**1.2``: mostly soon, but enough is left for a change that comes late. What has
    begun is divided among accounts that bet with different slopes. If p-values are independent and
    uniform, the capital is a martingale, so that it ever reaches ``c`` with a probability of at
    most ``1 / c`` (Ville's inequality).

    The Simple Jumper of Vovk et al. bets with the same functions, and moves a fixed share of its
    capital back and forth: over a long time without a change it loses a share of all it has with
    every image, and with that its power. Here these moves become rarer, as in Mourtada and
    Maillard's mixture of experts that come later.

    Source
    ------
    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman, "Retrain or not retrain: conformal
    test martingales for change-point detection", COPA 2021. Mourtada and Maillard, "Efficient
    tracking of a growing number of experts", ALT 2017. Page, "Continuous inspection schemes",
    Biometrika 1954, for the time of the change.

    Attributes
    ----------
    n : int
        How many p-values there were.
    log_capital : float
        Natural logarithm of the capital.

    Examples
    --------
    >>> martingale = Martingale()
    >>> for _ in range(50):
    ...     martingale.bet(0.05)
    >>> martingale.log_capital > 15, martingale.change()
    (True, Change(since=0, name=None, are_small=True))
    """

    def __init__(self) -> None:
        self.n = 0
        self.log_capital = 0.0
        begun = _START_RATE / 2 / len(_SLOPES)
        self._idle = math.log1p(-_START_RATE / 2)
        self._accounts = [math.log(begun)] * len(_SLOPES)
        # For each density, the largest logarithm of its likelihood ratio since any p-value (the
        # statistic of Page's CUSUM), and since which.
        self._gains = [0.0] * _N_DENSITIES
        self._starts: list[tuple[int, str | None]] = [(0, None)] * _N_DENSITIES

    def bet(self, p_value: float, index: int | None = None, name: str | None = None) -> None:
        """Bet, and take in the next p-value.

        Parameters
        ----------
        p_value : float
            In [0, 1].
        index : int, optional
            What `change` calls it; by default how many came before.
        name : str, optional
            The same, as a name.
        """
        place = (self.n if index is None else index, name)
        log_densities = [*_log_densities(p_value), *_log_densities(1 - p_value)]
        for density, gain in enumerate(log_densities):
            if self._gains[density] <= 0:
                self._gains[density], self._starts[density] = 0.0, place
            self._gains[density] += gain
        for account, slope in enumerate(_SLOPES):
            self._accounts[account] += math.log1p(slope * (p_value - 0.5))
        self.n += 1
        self.log_capital = _log_of_sum([self._idle, *self._accounts])
        # What begins to bet with the next one.
        share = _START_RATE / (self.n + 2)
        begun = self._idle + math.log(share / len(_SLOPES))
        self._accounts = [_log_of_sum([account, begun]) for account in self._accounts]
        self._idle += math.log1p(-share)

    def change(self) -> Change:
        """Return when p-values are likeliest to have changed, if they have."""
        best = max(range(_N_DENSITIES), key=self._gains.__getitem__)
        return Change(*self._starts[best], are_small=best < _N_DENSITIES // 2)

    def to_json(self) -> dict[str, Any]:
        """Return all that it knows, of types that JSON has."""
        return {
            "n": self.n,
            "log_capital": self.log_capital,
            "idle": self._idle,
            "accounts": self._accounts.copy(),
            "gains": self._gains.copy(),
            "starts": [list(start) for start in self._starts],
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Martingale:
        """Return what `to_json` described; raise a KeyError, TypeError or ValueError if it did not.

        >>> martingale = Martingale()
        >>> martingale.bet(0.3)
        >>> Martingale.from_json(martingale.to_json()).to_json() == martingale.to_json()
        True
        """
        martingale = cls()
        martingale.n = check_count("n", state["n"], 0, _MOST_IMAGES)
        martingale.log_capital = float(state["log_capital"])
        martingale._idle = float(state["idle"])
        martingale._accounts = [float(value) for value in state["accounts"]]
        martingale._gains = [float(value) for value in state["gains"]]
        martingale._starts = [
            (int(start), None if name is None else str(name)) for start, name in state["starts"]
        ]
        numbers = [martingale.log_capital, martingale._idle]
        if len(martingale._accounts) != len(_SLOPES):
            raise ParameterError(
                f"expected {len(_SLOPES)} accounts, got {len(martingale._accounts)}"
            )
        if {len(martingale._gains), len(martingale._starts)} != {_N_DENSITIES}:
            raise ParameterError(f"expected {_N_DENSITIES} gains and starts")
        if not all(map(math.isfinite, [*numbers, *martingale._accounts, *martingale._gains])):
            raise ParameterError("expected finite capitals")
        return martingale


def _log_densities(p_value: float) -> list[float]:
    """Return the logarithms of densities on [0, 1] that fall: slowly, fast, and from a peak at 0.

    >>> [round(log_density, 2) for log_density in _log_densities(0.05)]
    [0.37, 0.62, 0.89]
    """
    # One p-value counts as at most .0001, so that a single defect does not date the change.
    peak = math.log(0.3) - 0.7 * math.log(max(p_value, 1e-4))
    return [math.log1p(0.5 - p_value), math.log1p(1.9 * (0.5 - p_value)), peak]


def _log_of_sum(logarithms: list[float]) -> float:
    """Return the logarithm of the sum of numbers that are given by theirs."""
    largest = max(logarithms)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in logarithms))
