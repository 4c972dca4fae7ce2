"""Where the native encoder's time goes, and what is left to gain."""

from __future__ import annotations

from functools import partial

from benchmarks.tables.markdown import by, results, short, source, table

TILE = "a tile in the first-level cache"
PASSES = {"attention": "attention", "post_attention": "post-attention", "feed_forward": "feed-forward"}
SHAPES = ("1x32", "1x128", "8x128", "1x512")


def profile(file: str = "profile", precisions: tuple[str, ...] = ("float32", "int8")) -> str:
    """Milliseconds of each pass, and its share of the limit."""
    measured = results(file)
    rows = by(measured["rows"], "case", "precision", "instruction_set", "pass")
    build = measured["machine"]["CPU"]["kernel build in use"]
    wanted = [(shape, precision, build) for precision in precisions for shape in SHAPES]
    wanted.append(("8x128", "float32", "avx2"))
    body = []
    for key in wanted:
        if (*key, TILE) not in rows:
            continue
        cells = [f"{rows[(*key, TILE)]['fraction_of_peak']:.2f}"]
        for name in (*PASSES, "encoder"):
            row = rows[(*key, name)]
            cells.append(f"{short(row['median_ms'])} ({row['fraction_of_limit']:.2f})")
        cells.append(short(rows[(*key, "model")]["median_ms"]))
        shape, precision, used = key
        body.append((f"{precision}, {shape}{'' if used == build else f', build {used}'}", *cells))
    head = ("", "a tile", *PASSES.values(), "encoder", "model")
    return "\n".join([table(head, body), source(measured)])


def kernel() -> str:
    """One convolution of 1024 tokens on every build."""
    measured = results("kernel")
    rows = by(measured["rows"], "case", "candidate")
    names = ["F.conv1d", "F.linear"]
    names += [name for name in dict.fromkeys(each for _, each in rows) if name.endswith(" kernel")]
    cases = list(dict.fromkeys(case for case, _ in rows))
    body = []
    for name in names:
        cells = []
        for case in cases:
            row = rows.get((case, name))
            share = (
                "" if row is None or row["fraction_of_peak"] is None else f" ({row['fraction_of_peak']:.0%})"
            )
            cells.append("" if row is None else f"{short(row['median_ms'])}{share}")
        body.append((name, *cells))
    said = "\nMilliseconds, and the share of the multiply-add peak of the candidate's own instruction set."
    return "\n".join([table(("", *cases), body), said, source(measured)])


def beside_tiles() -> str:
    """What vector instructions cost alone, and beside products on tiles."""
    measured = results("amx/beside_tiles")
    body = [
        (
            row["instruction"],
            f"{row['alone_ns']:.2f}",
            f"{row['beside_ns']:.2f}" if "beside_ns" in row else "",
        )
        for row in measured["rows"]
    ]
    head = ("nanoseconds of one", "alone", "beside products")
    return "\n".join([table(head, body), source(measured)])


TABLES = {
    "profile": profile,
    "profile-amx": partial(profile, "amx/profile", ("float32", "bfloat16", "int8")),
    "kernel": kernel,
    "beside-tiles": beside_tiles,
}
