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
#: Slopes by which a change is dated, which are steeper: that takes p-values before it for less.
_DATING = (-1.9, -1.0, 1.0, 1.9)
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
        # For each slope, the largest logarithm of what a capital of 1 would have become that began
        # to bet at the best time (the statistic of Page's CUSUM), and that time.
        self._gains = [0.0] * len(_DATING)
        self._starts: list[tuple[int, str | None]] = [(0, None)] * len(_DATING)

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
        for dating, slope in enumerate(_DATING):
            if self._gains[dating] <= 0:
                self._gains[dating], self._starts[dating] = 0.0, place
            self._gains[dating] += math.log1p(slope * (p_value - 0.5))
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
        best = max(range(len(_DATING)), key=self._gains.__getitem__)
        return Change(*self._starts[best], are_small=_DATING[best] < 0)

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
        if {len(martingale._gains), len(martingale._starts)} != {len(_DATING)}:
            raise ParameterError(f"expected {len(_DATING)} gains and starts")
        if not all(map(math.isfinite, [*numbers, *martingale._accounts, *martingale._gains])):
            raise ParameterError("expected finite capitals")
        return martingale


def _log_of_sum(logarithms: list[float]) -> float:
    """Return the logarithm of the sum of numbers that are given by theirs."""
    largest = max(logarithms)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in logarithms))
