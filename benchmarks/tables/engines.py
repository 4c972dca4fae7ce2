"""Beside other engines: sentence embeddings, single queries, BERT-base and SqueezeBERT."""

from __future__ import annotations

from functools import partial

from benchmarks.tables.markdown import best, by, results, short, source, table

ALL = "all sentences"
OURS = {
    "squeezebert_fast": "**patched, float32**",
    "squeezebert_fast bfloat16": "**patched, bfloat16**",
    "squeezebert_fast int8": "**patched, int8**",
}
PRECISIONS = ("float32", "bfloat16", "int8")
COMPILED = "torch.compile bfloat16"
"""Left out of the table of embeddings, where it is as fast as without the compiler."""


def embedding() -> str:
    """Sentences a second of every engine, and how near its vectors are to float32's."""
    measured = results("embedding")
    accuracy = by(measured["accuracy"], "candidate")
    rows = [row for row in measured["rows"] if row["case"] == ALL and row["candidate"] != COMPILED]
    speeds = [row["speed_up"] for row in rows]
    body = [
        (
            OURS.get(row["candidate"], row["candidate"]),
            row["precision"],
            f"{1e3 * measured['sentences'] / row['median_ms']:.0f}",
            best(speeds, f"{row['speed_up']:.2f}", row["speed_up"]),
            f"{accuracy[row['candidate']]['mean_cosine']:.4f}",
            f"{accuracy[row['candidate']]['least_cosine']:.4f}",
        )
        for row in rows
    ]
    head = ("", "precision", "sentences a second", "times torch's", "mean cosine", "least cosine")
    ours = {row["precision"]: row for row in rows if row["candidate"] in OURS}
    over = ", ".join(
        f"{ours[precision]['speed_up_over_best_peer_of_precision']:.2f} in {precision}"
        for precision in PRECISIONS
    )
    said = f"\nTimes the speed of the best other engine in the same precision: {over}."
    return "\n".join([table(head, body, texts=2), said, source(measured)])


def embedding_short() -> str:
    """README's share of it: torch, the best other engine of each precision, and ours."""
    measured = results("embedding")
    rows = by([row for row in measured["rows"] if row["case"] == ALL], "candidate")
    accuracy = by(measured["accuracy"], "candidate")

    def cells(name: str) -> tuple[str, ...]:
        row = rows[name]
        speed = f"{1e3 * measured['sentences'] / row['median_ms']:.0f}"
        return f"{row['speed_up']:.2f} times", speed, f"{accuracy[name]['mean_cosine']:.4f}"

    body = [("torch", "float32", *cells("torch"))]
    for ours in OURS:
        other = rows[ours]["best_peer_of_precision"]
        body.append(
            (
                f"{other.removesuffix(' bfloat16').removesuffix(' int8')}, the best other",
                rows[ours]["precision"],
                *cells(other),
            )
        )
        body.append(("**patched**", rows[ours]["precision"], *(f"**{cell}**" for cell in cells(ours))))
    head = ("", "precision", "speed", "sentences a second", "mean cosine")
    return "\n".join([table(head, body, texts=2), source(measured)])


def queries() -> str:
    """One short text at a time: all of `encode`, and the model alone."""
    measured = results("embedding")
    rows = by(measured["rows"], "case", "candidate")
    body = []
    for tokens in ("8", "16", "32"):
        for what in ("encode", "model alone"):
            case = f"1x{tokens}, {what}"
            row = rows[case, "squeezebert_fast int8"]
            other = rows[case, row["best_peer"]]
            body.append(
                (tokens, what, f"{row['median_ms']:.2f}", f"{other['median_ms']:.2f}", other["candidate"])
            )
    head = ("tokens", "what is timed", "patched, int8, ms", "best other engine, ms", "which")
    return "\n".join([table(head, body, texts=2), source(measured)])


def bert() -> str:
    """BERT-base, patched transformers beside OpenVINO: milliseconds and the share of the peak."""
    measured = results("bert")
    rows = by(measured["rows"], "case", "candidate")
    body = []
    for case in ("1x128", "8x128"):
        for name in ("OpenVINO", "transformers patched"):
            cells = []
            for suffix in ("", " bfloat16", " int8"):
                row, other = (
                    rows[case, f"{each}{suffix}"]
                    for each in (name, "OpenVINO" if name != "OpenVINO" else "transformers patched")
                )
                text = f"{short(row['median_ms'])} ({row['fraction_of_peak']:.0%})"
                cells.append(best((-row["median_ms"], -other["median_ms"]), text, -row["median_ms"]))
            body.append((case, name, *cells))
    head = ("batch x tokens", "", *(f"{precision}, ms (of the peak)" for precision in PRECISIONS))
    return "\n".join([table(head, body, texts=2), source(measured)])


SHAPES = ("1x1", "1x16", "1x32", "1x128", "8x128", "1x512")
MODELS = {
    "transformers eager": "transformers, eager",
    "torch.compile": "torch.compile, frozen",
    "ONNX Runtime": "ONNX Runtime",
    "ONNX Runtime int8": "ONNX Runtime, dynamic int8",
    "OpenVINO": "OpenVINO",
    "transformers eager bfloat16": "transformers, eager, bfloat16",
    "torch.compile bfloat16": "torch.compile, frozen, bfloat16",
    "OpenVINO bfloat16": "OpenVINO, bfloat16",
    "OpenVINO int8": "OpenVINO, calibrated int8",
    "squeezebert_fast": "squeezebert_fast, float32",
    "transformers patched": "transformers, patched, float32",
    "squeezebert_fast bfloat16": "squeezebert_fast, bfloat16",
    "transformers patched bfloat16": "transformers, patched, bfloat16",
    "squeezebert_fast int8": "squeezebert_fast, int8",
    "transformers patched int8": "transformers, patched, int8",
    "BERT-base, transformers eager": "BERT-base, transformers eager",
    "BERT-base, ONNX Runtime int8": "BERT-base, ONNX Runtime, dynamic int8",
    "BERT-base, OpenVINO": "BERT-base, OpenVINO",
    "BERT-base, OpenVINO bfloat16": "BERT-base, OpenVINO, bfloat16",
    "BERT-base, OpenVINO int8": "BERT-base, OpenVINO, calibrated int8",
}

PEERS = {
    "float32": ("transformers eager", "torch.compile", "ONNX Runtime", "OpenVINO"),
    "bfloat16": ("transformers eager bfloat16", "torch.compile bfloat16", "OpenVINO bfloat16"),
    "int8": ("ONNX Runtime int8", "OpenVINO int8"),
}


def models(file: str = "models") -> str:
    """SqueezeBERT's base model in every engine: milliseconds, and how many times as fast as transformers eager."""
    measured = results(file)
    rows = by(measured["rows"], "case", "candidate")
    shapes = [shape for shape in SHAPES if (shape, "transformers eager") in rows]
    candidates = {candidate for _, candidate in rows}
    body = []
    for name, shown in MODELS.items():
        if name not in candidates:
            continue
        cells = []
        for shape in shapes:
            if (shape, name) not in rows:
                cells.append("")
                continue
            milliseconds = rows[shape, name]["median_ms"]
            eager = rows[shape, "transformers eager"]["median_ms"]
            fastest = min(row["median_ms"] for (case, _), row in rows.items() if case == shape)
            over = "" if name.endswith("eager") else f" ({eager / milliseconds:.1f})"
            cells.append(best((-fastest,), f"{short(milliseconds)}{over}", -milliseconds))
        body.append((shown, *cells))
    said = []
    patched = "transformers patched" if "transformers patched" in candidates else "squeezebert_fast"
    for name, of, peers in (
        (patched, "of those in float32", PEERS["float32"]),
        ("squeezebert_fast bfloat16", "of those in bfloat16", PEERS["bfloat16"]),
        ("squeezebert_fast int8", "of all", sum(PEERS.values(), ())),
    ):
        if not candidates.intersection(peers):
            continue
        over = [
            min(rows[shape, peer]["median_ms"] for peer in peers if (shape, peer) in rows)
            / rows[shape, name]["median_ms"]
            for shape in shapes
        ]
        said.append(f"{MODELS[name]}: {min(over):.2f} to {max(over):.2f} ({of})")
    line = f"\nTimes the speed of the fastest other engine of this table: {'; '.join(said)}."
    return "\n".join([table(("", *shapes), body), line, source(measured)])


def sentences() -> str:
    """Real sentences, with and without the padding between them."""
    measured = results("sentences")
    body = [
        (row["candidate"], f"{row['sentences_per_second']:.1f}", f"{row['speed_up']:.2f}")
        for row in measured["rows"]
    ]
    padding = 1 - measured["tokens"] / measured["tokens_with_padding"]
    said = f"\n{padding:.0%} of the tokens in these batches of {measured['batch']} are padding."
    head = ("", "sentences a second", "times transformers'")
    return "\n".join([table(head, body), said, source(measured)])


def small_work() -> str:
    """A few tokens: how much longer the encoder takes than reading its weights."""
    measured = results("small_work")
    rows = by(measured["rows"], "case", "precision")
    body = [
        (case, *(f"{rows[case, precision]['over_bound']:.2f}" for precision in PRECISIONS))
        for case in ("1x1", "1x4", "1x16")
    ]
    return "\n".join([table(("batch x tokens", *PRECISIONS), body), source(measured)])


TABLES = {
    "embedding": embedding,
    "embedding-short": embedding_short,
    "queries": queries,
    "bert": bert,
    "models": models,
    "models-avx2": partial(models, "avx2/models"),
    "models-amx": partial(models, "amx/models"),
    "sentences": sentences,
    "small-work": small_work,
}
