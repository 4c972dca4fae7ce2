"""Every Triton kernel with every tile that it ships, as a check that only exact results pass: see exact.py.

from benchmarks.exact import BASE, wrong
for case in cases():
    print(case.name, wrong(case, BASE, "cuda", repeats=20) or "ok")
"""

from __future__ import annotations

from benchmarks import exact_attention, exact_norms, exact_products
from benchmarks.exact import Case


def cases() -> list[Case]:
    """All of them, each with a name of its own."""
    return [*exact_products.cases(), *exact_norms.cases(), *exact_attention.cases()]
