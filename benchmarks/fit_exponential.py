"""Fit the polynomial behind attention's weights on matrix units (csrc/kernels/matrix_attention.h), and print it.

    python benchmarks/fit_exponential.py

1 + f P(f) approximates 2^f on [-1/2, 1/2], exact at 0, so that the largest relative error is as small as a polynomial
of that degree allows (Lawson's reweighted least squares in float64).
"""

from __future__ import annotations

import numpy as np

DEGREE = 3


def fit(degree: int) -> tuple[np.ndarray, float]:
    """Coefficients of f to f^degree, highest power first, and the largest relative error."""
    f = np.cos(np.linspace(0.0, np.pi, 4000)) / 2.0  # an even number of points: none is 0
    basis = np.vander(f, degree + 1)[:, :-1] / (2.0**f)[:, None]
    target = 1.0 - 1.0 / 2.0**f
    weight = np.ones_like(f)
    for _ in range(4000):
        root = np.sqrt(weight)
        coefficients = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)[0]
        error = np.abs(basis @ coefficients - target)
        weight *= np.sqrt(error / error.max() + 1e-12)
        weight /= weight.mean()
    return coefficients, float(error.max())


def main() -> None:
    coefficients, error = fit(DEGREE)
    print("highest power first:", ", ".join(f"{c:.9e}" for c in coefficients), "and 1")
    print(f"largest relative error {error:.3e}, one part in {1.0 / error:.0f}")


if __name__ == "__main__":
    main()
