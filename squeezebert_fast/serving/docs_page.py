"""The page at /docs: what can be asked, from the OpenAPI document, without anything from another server.

FastAPI's own page loads Swagger's scripts from a content delivery network, which a server without a way out hasn't got.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>squeezebert-fast: endpoints</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
code { font: 14px ui-monospace, monospace; }
</style></head><body>
<h1>squeezebert-fast: endpoints</h1>
<p><a href="openapi.json">openapi.json</a> has the same for programs. <a href=".">Try the model here</a>.</p>
<p>Errors are objects as OpenAI's: <code>{"error": {"message", "type", "param", "code"}}</code>, with status 400 for a
request that is wrong, 404 for a path or model that isn't here, 413 for a body that is too long, and 503 with
<code>Retry-After</code> where too many texts wait.</p>
"""


def docs_page(openapi: dict[str, Any], served: str) -> str:
    """The page of an OpenAPI document. served: the path of the endpoint that the server's model answers."""
    parts = [HEAD]
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            parts += _operation(path, method, operation, served)
    return "\n".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any], served: str) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}"
    if method == "post":
        yield "<b>This server's model answers it.</b>" if path == served else "This server's model doesn't."
    yield "</p>"
    body = operation.get("requestBody")
    if body is None:
        return
    schema = body["content"]["application/json"]["schema"]
    yield "<table><tr><th>name</th><th>type</th><th></th></tr>"
    for name, field in schema["properties"].items():
        needed = " Needed." if name in schema.get("required", ()) else ""
        said = f"{field.get('description', '')}{needed}"
        yield f"<tr><td><code>{escape(name)}</code></td><td>{escape(_type(field))}</td><td>{escape(said)}</td></tr>"
    yield "</table>"


def _type(field: dict[str, Any]) -> str:
    """A field's type, in words."""
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"] if each.get("type") != "null")
    if "enum" in field:
        return " or ".join(f'"{value}"' for value in field["enum"])
    if field.get("type") == "array":
        if "prefixItems" in field:
            return f"[{', '.join(map(_type, field['prefixItems']))}]"
        return f"list of {_type(field['items'])}"
    return str(field.get("type"))
