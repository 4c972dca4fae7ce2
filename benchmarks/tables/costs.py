"""What precision costs in accuracy; memory; a training step."""

from __future__ import annotations

from functools import partial

from benchmarks.tables.markdown import by, megabytes, results, source, table

EAGER, PATCHED = "transformers eager", "transformers patched"


def accuracy() -> str:
    """Cosines of sentence vectors with float32's, by precision and by other ways to scale int8."""
    measured = results("accuracy")
    body = [
        (row["model"], row["variant"], f"{row['mean_cosine']:.5f}", f"{row['least_cosine']:.5f}")
        for row in measured["rows"]
    ]
    return "\n".join([table(("model", "", "mean cosine", "least cosine"), body, texts=2), source(measured)])


def memory() -> str:
    """What one long forward takes beside the loaded model."""
    measured = results("memory")
    body = [
        (row["candidate"], megabytes(row["peak_bytes"] - row["before_bytes"]), megabytes(row["before_bytes"]))
        for row in measured["rows"]
    ]
    head = (f"a forward over {measured['rows'][0]['case']}", "MB for the forward", "MB before")
    return "\n".join([table(head, body), source(measured)])


def training(file: str = "training") -> str:
    """Forward and backward of the base classifier: time and memory, patched and not."""
    measured = results(file)
    rows = by(measured["rows"], "case", "candidate")
    memory = by(measured["memory"], "case", "candidate")
    body = []
    for case in dict.fromkeys(case for case, _ in rows):
        eager, ours = rows[case, EAGER], rows[case, PATCHED]
        kept, step = memory[case, EAGER], memory[case, PATCHED]
        body.append(
            (
                case,
                f"{eager['median_ms']:.0f} ms, {megabytes(kept['step_bytes'])} MB",
                f"{ours['median_ms']:.0f} ms, {megabytes(step['step_bytes'])} MB",
                f"**{ours['speed_up']:.2f}**",
                f"{step['of_eager']:.0%}",
                megabytes(step["kept_bytes"]),
            )
        )
    head = ("", "transformers eager", "patched", "times as fast", "of eager's memory", "MB kept besides")
    return "\n".join([table(head, body), source(measured)])


def training_operations() -> str:
    """Where a patched training step's time goes."""
    measured = results("training")
    rows = [row for row in measured["profile"] if row["case"].endswith("float32")]
    body = []
    for row in rows:
        cells = []
        for way in ("forward", "backward"):
            milliseconds, fraction = row.get(f"{way}_ms"), row.get(f"{way}_fraction_of_peak")
            share = "" if fraction is None else f" ({fraction:.0%})"
            cells.append("" if milliseconds is None else f"{milliseconds:.0f}{share}")
        body.append((row["operation"], *cells))
    body = [cells for cells in body if any(cells[1:])]
    head = ("operation", "forward, ms (of the peak)", "backward, ms (of the peak)")
    return "\n".join([table(head, body), source(measured)])


def pretraining() -> str:
    """A step of `pretrain`: operations, CPU time and memory, by what its head runs on."""
    measured = results("pretraining")
    rows = by(measured["rows"], "part", "candidate")
    shown = {
        EAGER: EAGER,
        "head on all tokens": "patched, head on all tokens",
        "pretrain": "`pretrain`",
        "encoder alone": "the encoder alone, no head",
    }
    body = []
    for name, text in shown.items():
        cells = [f"{rows['step', name]['flops'] / 1e9:.1f}"]
        for part in ("step", "evaluation"):
            row = rows[part, name]
            cells += [f"{row['median_ms']:.0f} ms", f"{megabytes(row['peak_bytes'])} MB"]
        body.append((text, *cells))
    head = ("", "GFLOP a step", "a step", "memory", "an evaluation's batch", "memory")
    return "\n".join([table(head, body), source(measured)])


def rebuild() -> str:
    """How much of the native module an edit compiles."""
    measured = results("rebuild")
    body = [
        (
            row["edit"] if " " in row["edit"] or row["edit"] == "nothing" else f"`{row['edit']}`",
            str(row["compiled"]),
            f"{row['seconds']:.0f} s",
        )
        for row in measured["builds"]
    ]
    return "\n".join([table(("edited", "files compiled", "takes"), body), source(measured)])


TABLES = {
    "rebuild": rebuild,
    "accuracy": accuracy,
    "memory": memory,
    "training": training,
    "training-amx": partial(training, "amx/training"),
    "training-operations": training_operations,
    "pretraining": pretraining,
}
