"""The cores that loops are modelled on and forwards projected to, and what is assumed of the chips they are in."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.arm.mca import arguments_of

FEATURES = {"neon": "", "neon_dotprod": "+dotprod", "neon_i8mm": "+dotprod,+i8mm,+bf16", "avx2": ""}
"""What llvm-mca must be told that a build's instructions are, by build."""


@dataclass(frozen=True)
class Core:
    name: str
    model: str
    """llvm-mca's -mcpu."""
    builds: tuple[str, ...]
    """That it can run, the best last."""
    machine: str = "aarch64"

    def command(self, build: str) -> list[str]:
        return arguments_of(self.machine, self.model, FEATURES[build])


NEON, DOTPROD, I8MM = "neon", "neon_dotprod", "neon_i8mm"
CORES = {
    core.name: core
    for core in (
        Core("Cortex-A72", "cortex-a72", (NEON,)),
        Core("Cortex-A55", "cortex-a55", (NEON, DOTPROD)),
        Core("Cortex-A75", "cortex-a75", (NEON, DOTPROD)),
        Core("Neoverse N1", "neoverse-n1", (NEON, DOTPROD)),
        Core("Cortex-A510", "cortex-a510", (NEON, DOTPROD, I8MM)),
        Core("Neoverse N2", "neoverse-n2", (NEON, DOTPROD, I8MM)),
        Core("Neoverse V1", "neoverse-v1", (NEON, DOTPROD, I8MM)),
        Core("Neoverse V2", "neoverse-v2", (NEON, DOTPROD, I8MM)),
    )
}
"""Oldest first. Whose units LLVM really gives each, the commands print."""


@dataclass(frozen=True)
class Cluster:
    """Cores of a phone that work together. Figures of its maker, not measured."""

    name: str
    cores: tuple[tuple[str, float, int], ...]
    """A name of CORES, GHz, and how many."""
    gigabytes_per_second: float
    """What memory delivers at its best, to all of the chip."""
    build: str
    stands_for: str


PHONES = (
    Cluster(
        "Pixel 3",
        (("Cortex-A75", 2.8, 4),),
        29.9,
        DOTPROD,
        "Snapdragon 845 (2018): 4 Kryo 385 Gold, which are Cortex-A75s; 4 x 16 bits of LPDDR4X-3733",
    ),
    Cluster(
        "a phone of 2023",
        (("Neoverse V2", 3.2, 1), ("Neoverse N2", 2.8, 4)),
        67.2,
        I8MM,
        "Snapdragon 8 Gen 2: a Cortex-X3, of which the Neoverse V2 is the server's form, and 4 Cortex-A715 and A710, "
        "of which the Neoverse N2 is; 4 x 16 bits of LPDDR5X-8400",
    ),
)
