"""Activations inside kernels, in float32.

    gelu        x Phi(x). For float32 data by erf, to float32 accuracy. For bfloat16 and float16 by a polynomial, below.
    gelu_tanh   x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), which is x/2 (1 + tanh(sqrt(2/pi) (...)))
    relu, silu

GELU is applied to four times as many values as a layer has outputs, and a multiprocessor of an H100 does 16
times as many multiply-adds in its tensor cores as outside them: in the base model's feed-forward block an
`erf` of some 25 instructions a value takes as long as the two products. For 16-bit data Phi is 1/2 + x P(x^2)
with P of degree 10 on [0, 4.6^2], cut off beyond (`benchmarks/fit_gelu.py`'s fit with limit 4.6): no
exponential, no branch, 16 instructions. It is off by at most 2.1e-6 in Phi, a hundredth of float16's
rounding; the cut-off sets what is below 1e-5 to zero for x < -4.6. Its derivative is Phi(x) + x exp(-x^2 / 2) /
sqrt(2 pi), with that Phi.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normal_distribution(x, EXACT: tl.constexpr):
    """Phi(x), the standard normal distribution. EXACT: to float32 accuracy, not 16-bit data's."""
    if EXACT:
        return 0.5 + 0.5 * tl.math.erf(x * 0.7071067811865476)
    s = tl.minimum(x * x * 0.09451795841209831 - 1.0, 1.0)
    p = s * 0.001077137989 - 0.002869791845
    p = p * s + 0.003593232756
    p = p * s - 0.005962322057
    p = p * s + 0.01221379321
    p = p * s - 0.02014551854
    p = p * s + 0.02923064772
    p = p * s - 0.04037406555
    p = p * s + 0.0541581915
    p = p * s - 0.07576915441
    p = p * s + 0.1535432582
    # beyond the limit x p grows past 1/2
    return tl.maximum(tl.minimum(x * p, 0.5), -0.5) + 0.5


@triton.jit
def activate(x, ACTIVATION: tl.constexpr, EXACT: tl.constexpr):
    """`ACTIVATION`, a value of FUSED_ACTIVATIONS, of float32 x. EXACT: to float32 accuracy, not 16-bit data's."""
    if ACTIVATION == "gelu":
        return x * normal_distribution(
            x, EXACT
        )  # minimum and maximum lose a NaN there, the factor x brings it back
    elif ACTIVATION == "gelu_tanh":
        return x / (1.0 + tl.exp(x * (x * x * -0.0713548162726 - 1.59576912161)))
    elif ACTIVATION == "relu":
        return tl.where(x < 0.0, 0.0, x)  # a NaN is not below zero, and stays
    elif ACTIVATION == "silu":
        return x / (1.0 + tl.exp(-x))
    else:
        tl.static_assert(ACTIVATION == "none")
        return x


@triton.jit
def derivative(x, ACTIVATION: tl.constexpr, EXACT: tl.constexpr):
    """The derivative of `activate` at float32 x."""
    if ACTIVATION == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * x * x)
        return normal_distribution(x, EXACT) + x * density
    elif ACTIVATION == "gelu_tanh":
        s = 1.0 / (1.0 + tl.exp(x * (x * x * -0.0713548162726 - 1.59576912161)))
        return s + x * s * (1.0 - s) * (x * x * 0.2140644488178 + 1.59576912161)
    elif ACTIVATION == "relu":
        return tl.where(x <= 0.0, 0.0, 1.0)
    elif ACTIVATION == "silu":
        s = 1.0 / (1.0 + tl.exp(-x))
        return s + x * s * (1.0 - s)
    else:
        tl.static_assert(ACTIVATION == "none")
        return x * 0.0 + 1.0
