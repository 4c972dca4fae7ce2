"""Rows of answers as a table of Arrow, whose schema is known before there is a row and the same for all shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from squeezebert_fast.answering.rows import ERROR, beside
from squeezebert_fast.errors import InputError
from squeezebert_fast.tables.columns import Wanted, check
from squeezebert_fast.tables.json_rows import as_json
from squeezebert_fast.tables.unreadable import RECORD

if TYPE_CHECKING:
    import pyarrow


def arrow_type(type: Any) -> pyarrow.DataType:
    """The type of Arrow for one of `answering.base.Types`."""
    import pyarrow

    if isinstance(type, dict):
        return pyarrow.struct([(name, arrow_type(each)) for name, each in type.items()])
    if isinstance(type, list):
        return pyarrow.list_(arrow_type(type[0]))
    if isinstance(type, tuple):
        return pyarrow.list_(arrow_type(type[0]), type[1])
    return pyarrow.type_for_alias(type)


def schema_of(
    shown: Mapping[str, pyarrow.DataType], types: Mapping[str, Any], on_error: str
) -> pyarrow.Schema:
    """What rows are made of. shown: what stands beside the answers."""
    import pyarrow

    answer = {name: arrow_type(type) for name, type in types.items()}
    if on_error == RECORD:
        answer[ERROR] = pyarrow.string()
    return pyarrow.schema(list(beside(shown, answer).items()))


def kept_types(files: Sequence[str], kept: Sequence[str]) -> dict[str, pyarrow.DataType]:
    """The types that the kept columns have in Parquet files. Raises InputError where two files differ.

    kept: as `Wanted` has it.
    """
    import pyarrow.parquet

    found: dict[str, pyarrow.DataType] = {}
    for file in files:
        schema = pyarrow.parquet.read_schema(file)
        names = Wanted((), tuple(kept)).kept_names(schema.names)
        if found and (odd := found.keys() ^ set(names)):
            has, hasnt = (file, files[0]) if min(odd) in names else (files[0], file)
            raise InputError(
                f"{has} has the column {min(odd)!r}, which {hasnt} hasn't; that is for --format jsonl"
            )
        for name in names:
            check(name, schema.names, file)
            type = schema.field(name).type
            type = type.value_type if pyarrow.types.is_dictionary(type) else type
            if found.setdefault(name, type) != type:
                raise InputError(
                    f"{file}: {name!r} is {type}, but {found[name]} in {files[0]}; that is for --format jsonl"
                )
    return found


def misfit(kept: Mapping[str, Any], names: Sequence[str]) -> str:
    """Why what is kept of a row has no place in a table with these columns for it, or nothing."""
    if odd := kept.keys() - set(names):
        return f"it has the column {min(odd)!r}, which the first row hasn't; that is for --format jsonl"
    for name, value in kept.items():
        text = value if isinstance(value, str) else ""
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            return f"{name!r} holds a lone surrogate, which is for --format jsonl"
    return ""


def table_of(rows: Sequence[Mapping[str, Any]], schema: pyarrow.Schema) -> pyarrow.Table:
    """The rows as a table. Where a column is of strings, other values than those are spelled as JSON."""
    import pyarrow

    columns = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if field.type == pyarrow.string():
            values = [
                value if value is None or isinstance(value, str) else as_json(value) for value in values
            ]
        columns.append(pyarrow.array(values, field.type))
    return pyarrow.Table.from_arrays(columns, schema=schema)
