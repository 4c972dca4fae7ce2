"""`_native.pyi` says what the compiled module has, no more and no less: pybind11 writes signatures into docstrings."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import squeezebert_fast
from squeezebert_fast.backends import cpu

pytestmark = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")

STUB = Path(squeezebert_fast.__file__).with_name("_native.pyi")


class InOneForm(ast.NodeTransformer):
    """Annotations of the stub and of pybind11 2 and 3 alike: no modules, aliases or lengths, one kind of sequence."""

    def __init__(self, aliases: dict[str, ast.expr]) -> None:
        self.aliases = aliases

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return self.visit(ast.Name(node.attr))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        plain = {"list": "Sequence", "SupportsInt": "int", "SupportsFloat": "float"}
        return (
            self.visit(self.aliases[node.id])
            if node.id in self.aliases
            else ast.Name(plain.get(node.id, node.id))
        )

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:  # SupportsInt | SupportsIndex
        return self.visit(node.left)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if ast.unparse(node.value).endswith("Annotated"):
            assert isinstance(node.slice, ast.Tuple)
            return self.visit(node.slice.elts[0])
        return self.generic_visit(node)


def signature(function: ast.FunctionDef, aliases: dict[str, ast.expr]) -> str:
    function = InOneForm(aliases).visit(function)
    if function.args.args and function.args.args[0].arg == "self":
        function.args.args[0].annotation = None
    return f"({ast.unparse(function.args)}) -> {ast.unparse(function.returns or ast.Constant(None))}"


def of_stub() -> dict[str, str]:
    """By qualified name: a function's signature, or what else it is."""
    found: dict[str, str] = {}
    aliases: dict[str, ast.expr] = {}

    def read(body: list[ast.stmt], prefix: str = "") -> None:
        for node in body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                aliases[node.targets[0].id] = node.value
            elif isinstance(node, ast.ClassDef):
                found[node.name] = "class"
                read(node.body, node.name + ".")
            elif isinstance(node, ast.AnnAssign):
                found[prefix + ast.unparse(node.target)] = "of the class"
            elif isinstance(node, ast.FunctionDef):
                decorators = {ast.unparse(d) for d in node.decorator_list}
                kind = "property" if "property" in decorators else signature(node, aliases)
                found[prefix + node.name] = "static " + kind if "staticmethod" in decorators else kind

    read(ast.parse(STUB.read_text()).body)
    return found


def of_module() -> dict[str, str]:
    found: dict[str, str] = {}

    def read(owner: Any, prefix: str = "") -> None:
        for name, value in vars(owner).items():
            if name.startswith("_") and not (prefix and name in ("__init__", "__members__")):
                continue
            if isinstance(value, type):
                found[name] = "class"
                read(value, name + ".")
            elif isinstance(value, property) and type(value).__name__ == "property":
                found[prefix + name] = "property"
            elif callable(getattr(owner, name)):
                said = ast.parse(f"def {getattr(owner, name).__doc__.splitlines()[0]}: ...").body[0]
                assert isinstance(said, ast.FunctionDef)
                static = "static " if isinstance(value, staticmethod) else ""
                found[prefix + name] = static + signature(said, {})
            else:
                found[prefix + name] = "of the class"

    read(cpu._native)
    return found


def test_the_stub_has_the_names_and_signatures_of_the_compiled_module() -> None:
    stub, module = of_stub(), of_module()
    assert stub.keys() == module.keys()
    assert {name: said for name, said in stub.items() if said != module[name]} == {}


def test_a_signature_that_differs_would_be_seen() -> None:
    """The comparison itself: names, order, kinds, types and defaults of parameters all count."""
    right = "def f(x: int, sizes: Sequence[int], last: bool = False) -> None: ..."
    others = (
        right.replace("x: int", "y: int"),
        right.replace("x: int", "x: float"),
        right.replace("= False", "= True"),
        right.replace("-> None", "-> bool"),
        right.replace("x: int, sizes: Sequence[int]", "sizes: Sequence[int], x: int"),
        right.replace("Sequence[int]", "Sequence[bool]"),
    )
    functions = [ast.parse(text).body[0] for text in (right, *others)]
    said = [signature(f, {}) for f in functions if isinstance(f, ast.FunctionDef)]
    assert len(set(said)) == 1 + len(others)
    of_pybind11 = (
        "def f(x: typing.SupportsInt | typing.SupportsIndex, sizes: typing.Annotated[collections.abc.Sequence["
        'typing.SupportsInt | typing.SupportsIndex], "FixedSize(3)"], last: bool = False) -> None: ...'
    )
    function = ast.parse(of_pybind11).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert signature(function, {}) == said[0]
