"""Trained models: the one that ships, and what distillation brings."""

from __future__ import annotations

from benchmarks.tables.markdown import results, source, table

SHIPPED = ("teacher, unpatched", "teacher, int8", "student, float32", "shipped, int8")


def shipped_model() -> str:
    """The model in the package beside its teacher: accuracy, size, speed."""
    measured = results("shipped_model")
    rows = {row["name"]: row for row in measured["rows"]}
    body = []
    for name in SHIPPED:
        row = rows[name]
        accuracy = row["accuracy"]
        body.append(
            (
                f"**{name}**" if name.startswith("shipped") else name,
                f"{accuracy['SST-2 dev']:.4f}",
                f"{accuracy['demo']:.3f}",
                f"{accuracy['ten domains']:.3f}",
                "" if row["megabytes"] is None else f"{row['megabytes']:.1f}",
                f"{row['sentences_per_second']:.0f}",
                f"{row['speed_up']:.2f}",
            )
        )
    head = (
        "",
        "SST-2 dev",
        "the demo's 60",
        "200 of ten domains",
        "MB",
        "sentences a second",
        "times the teacher's",
    )
    return "\n".join([table(head, body), source(measured)])


def _task(name: str, title: str, metric: str) -> str:
    measured = results("trained_tasks")
    body = [
        (
            row["name"],
            f"{row['dev'][row['metric']]:.4f}",
            f"{row['test'][row['metric']]:.4f}",
            f"{row['parameters'] / 1e6:.1f}",
            f"{row['megabytes']:.1f}",
            f"{row['sentences_per_second']:.0f}",
        )
        for row in measured["tasks"][name]
    ]
    head = (title, f"{metric}, dev", f"{metric}, test", "million parameters", "MB", "sentences a second")
    return "\n".join([table(head, body), source(measured)])


TABLES = {
    "shipped-model": shipped_model,
    "clinc150": lambda: _task("clinc150", "CLINC150, intents", "accuracy"),
    "wnut17": lambda: _task("wnut17", "WNUT-17, entities", "F1"),
}
