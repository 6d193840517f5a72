"""The interval of a proportion, in closed form: no draws, no seed.

``scipy.stats`` has it for whole numbers of successes only, and takes seconds to import.

References:
    E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    JASA 22 (1927) 209-212.
"""

from __future__ import annotations

from math import sqrt

#: Two-sided 95% quantile of the standard normal distribution.
Z95 = 1.959963984540054


def wilson(correct: float, n: int) -> tuple[float, float]:
    """95% Wilson score interval of ``correct / n``.

    Args:
        correct: successes; fractional where a tie counts in part.
        n: trials.

    Raises:
        ValueError: not ``0 <= correct <= n`` with ``n >= 1``.
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"{correct} of {n} is not a proportion")
    p, z = correct / n, Z95
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2) / (1 + z * z / n)
    # At the ends the exact limits are 0 and 1, which rounding would miss.
    low = 0.0 if correct == 0 else max(0.0, center - half)
    return low, 1.0 if correct == n else min(1.0, center + half)
