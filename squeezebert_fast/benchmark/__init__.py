"""Fair comparisons on a noisy machine: candidates interleaved, medians, ratios, and the measured limit.

    round 1:  A B C peak    round 2:  A B C peak    ...

A neighbour's load then falls on all candidates alike, so that a ratio holds where milliseconds don't. `measure` times
functions of this process; `Turns` gives each candidate a process of its own, as `bench` on the command line and
everything under benchmarks/ that compares engines need it.
"""

from __future__ import annotations

from squeezebert_fast.benchmark.forwards import TRANSFORMERS, encoder_flops, forward_candidates
from squeezebert_fast.benchmark.load import Load
from squeezebert_fast.benchmark.peaks import MultiplyAddPeak, MultiplyAddPeaks, Peaks
from squeezebert_fast.benchmark.report import Case, Report, check_plot
from squeezebert_fast.benchmark.timing import Timing, measure, milliseconds
from squeezebert_fast.benchmark.turns import TURN, Turns
from squeezebert_fast.benchmark.workers import CandidateFailed

__all__ = [
    "TRANSFORMERS",
    "TURN",
    "CandidateFailed",
    "Case",
    "Load",
    "MultiplyAddPeak",
    "MultiplyAddPeaks",
    "Peaks",
    "Report",
    "Timing",
    "Turns",
    "check_plot",
    "encoder_flops",
    "forward_candidates",
    "measure",
    "milliseconds",
]
