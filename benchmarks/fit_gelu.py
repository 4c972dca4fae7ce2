"""Fit the polynomial behind the native GELU and print csrc/kernels/gelu_polynomial.h.

    python benchmarks/fit_gelu.py | clang-format --assume-filename=gelu.h > csrc/kernels/gelu_polynomial.h

P(u) approximates (Phi(x) - 1/2) / x in u = x^2 on [0, limit^2] so that the largest error of x P(x^2) is as small as a
polynomial of that degree allows (Lawson's reweighted least squares in float64). Beside the largest error of the exact
polynomial, the header states that of its evaluation in float32.

The second, coarse one is for results that are rounded to int8 right after: its error is a fraction of that rounding.

The lookup is for kernels whose vectors do little beside products on tiles: Phi as a quadratic in each of 31 stretches a
quarter wide, of which the middle one's middle is 0. The outermost two are lines that end at exactly 0 and 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial, chebyshev

FITS = {"Gelu": (5.4, 14), "CoarseGelu": (3.9, 7)}  # limit and degree
STRETCH, ENTRIES = 0.25, 32
LOOKUP_LIMIT = 15.5 * STRETCH - 2.0**-10  # a few bits, which products with a slope of a few bits leave exact
OUTER_SLOPE = 9 * 2.0**-14


def phi_minus_half(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erf(v / math.sqrt(2.0)) for v in x])


def fit(limit: float, degree: int) -> tuple[np.ndarray, float]:
    """Coefficients of P in s = 2 u / limit^2 - 1, lowest power first, and the largest error of x P."""
    s = np.cos(np.linspace(0.0, np.pi, 6000))[:-1]  # without s = -1, where x is 0
    x = limit * np.sqrt((s + 1.0) / 2.0)
    target = phi_minus_half(x)
    basis = chebyshev.chebvander(s, degree) * x[:, None]
    weight = np.ones_like(x)
    for _ in range(200):
        root = np.sqrt(weight)
        coefficients = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)[0]
        error = np.abs(basis @ coefficients - target)
        weight *= error / error.max() + 1e-3
        weight /= weight.mean()
    return Chebyshev(coefficients).convert(kind=Polynomial).coef, float(error.max())


def float32_error(coefficients: np.ndarray, limit: float) -> float:
    """Largest error of x (1/2 + x P) against x Phi(x), relative to |x|, with every step rounded to float32."""
    x = np.linspace(-8.0, 8.0, 400_001).astype(np.float32)
    s = np.minimum(x * x * np.float32(2.0 / limit**2) - np.float32(1.0), np.float32(1.0))
    p = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        p = p * s + np.float32(c)
    ours = np.clip(x * p, np.float32(-0.5), np.float32(0.5)) + np.float32(0.5)
    return float(np.abs(ours - (phi_minus_half(x.astype(np.float64)) + 0.5)).max())


def lookup() -> np.ndarray:
    """Coefficients [3, ENTRIES] in float32, lowest power first; entry n is of the stretch about n or n - ENTRIES."""
    table = np.zeros((3, ENTRIES), np.float32)
    for number in range(-15, 16):
        entry = number % ENTRIES
        if abs(number) == 15:
            table[:2, entry] = (number > 0) - OUTER_SLOPE * LOOKUP_LIMIT * np.sign(number), OUTER_SLOPE
            continue
        x = (number + 0.5 * np.cos(np.linspace(0.0, np.pi, 2000))) * STRETCH
        target = phi_minus_half(x) + 0.5
        weight = np.ones_like(x)
        for _ in range(200):
            root = np.sqrt(weight)
            basis = np.stack([np.ones_like(x), x - number * STRETCH, (x - number * STRETCH) ** 2], 1)
            a, b, c = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)[0]
            error = np.abs(basis @ (a, b, c) - target)
            weight *= error / error.max() + 1e-3
            weight /= weight.mean()
        middle = number * STRETCH
        table[:, entry] = a - b * middle + c * middle**2, b - 2.0 * c * middle, c
    return table


def lookup_error(table: np.ndarray) -> tuple[float, float]:
    """Largest errors in Phi and in x Phi(x), each step rounded to float32 (but for the two of a multiply-add)."""
    x = np.linspace(-8.0, 8.0, 400_001).astype(np.float32)
    near = np.clip(x, np.float32(-LOOKUP_LIMIT), np.float32(LOOKUP_LIMIT))
    constant, linear, square = table[:, np.rint(near / np.float32(STRETCH)).astype(int) % ENTRIES]
    phi = (square.astype(np.float64) * near + linear).astype(np.float32)
    phi = (phi.astype(np.float64) * near + constant).astype(np.float32)
    exact = phi_minus_half(x.astype(np.float64)) + 0.5
    return float(np.abs(phi - exact).max()), float(np.abs(x * phi - x * exact).max())


def main() -> None:
    print("// Written by benchmarks/fit_gelu.py, which says what this is; do not edit.")
    print("#pragma once\n\nnamespace {\n")
    for name, (limit, degree) in FITS.items():
        coefficients, error = fit(limit, degree)
        rows = "\n".join(f"    {c:.9e}f," for c in coefficients[::-1])
        in_float32 = float32_error(coefficients, limit)
        print(
            f"// Largest error in Phi: {error:.1e} exactly evaluated, {in_float32:.1e} in float32, cut-off included."
        )
        print(f"constexpr float k{name}Scale = {2.0 / limit**2:.9e}f;")
        print(f"constexpr int k{name}Terms = {degree + 1};")
        print(f"constexpr float k{name}Coefficients[k{name}Terms] = {{  // highest power first")
        print(rows)
        print("};\n")
    table = lookup()
    print("// Largest error in Phi: {:.1e}; in x Phi(x): {:.1e}.".format(*lookup_error(table)))
    print(f"constexpr float kGeluLookupLimit = {LOOKUP_LIMIT!r}f;")
    print(f"alignas(64) constexpr float kGeluLookup[3][{ENTRIES}] = {{  // lowest power first")
    for coefficients in table:
        print("    {" + ", ".join(f"{c:.9e}f" for c in coefficients) + "},")
    print("};\n")
    print("}  // namespace")


if __name__ == "__main__":
    main()
