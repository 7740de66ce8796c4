"""Small changes to a module that a test should notice.

What is never changed: docstrings, annotations, decorators, texts of exceptions and f-strings.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
SWAPPED_NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "ceil": "floor"}
SWAPPED_NAMES |= {"floor": "ceil", "any": "all", "all": "any", "clamp_max": "clamp_min", "amax": "amin", "cos": "sin"}


@dataclass(frozen=True)
class Mutant:
    """One change: where, what, and the whole module with it.

    Attributes:
        line: from 1.
        key: names the mutant as long as its line is the same, wherever the line stands.
        change: for people.
        tree: of the module.
    """

    line: int
    key: str
    change: str
    tree: ast.Module


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its nodes."""
    made, lines, seen = [], source.splitlines(), Counter[str]()
    for index, node in enumerate(_nodes(ast.parse(source))):
        for number, _ in enumerate(_variants(node)):
            tree = ast.parse(source)
            original = list(_nodes(tree))[index]
            variant = list(_variants(copy.deepcopy(original)))[number]
            _Put(original, variant).visit(tree)
            change = f"{_text(original)} -> {_text(variant)}"
            key = f"{lines[original.lineno - 1].strip()} @{original.col_offset} {change}"
            seen[key] += 1
            key += f" #{seen[key]}" * (seen[key] > 1)
            made.append(Mutant(original.lineno, key, change, ast.fix_missing_locations(tree)))
    return made


class _Put(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, ast.copy_location(new, old)

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else self.generic_visit(node)


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 90 else text[:87] + "..."


def _nodes(tree: ast.AST, raised: bool = False) -> Iterator[ast.stmt | ast.expr]:
    """Statements and expressions that may change."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "format_spec"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue  # a docstring
            if isinstance(child, ast.Subscript) and ast.unparse(child.value) == "Literal":
                continue  # a type
            if raised and isinstance(child, ast.Constant) and isinstance(child.value, str):
                continue
            if isinstance(child, (ast.stmt, ast.expr)):
                yield child
            yield from _nodes(child, raised or isinstance(child, ast.Raise))


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    match node:
        case ast.Compare(left, ops, values):
            for place, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield ast.Compare(left, [*ops[:place], other(), *ops[place + 1 :]], values)
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.Constant():
            yield from _constants(node.value)
        case ast.Call():
            yield from _calls(node)
        case ast.If(test, body, orelse) if not isinstance(test, (ast.Compare, ast.UnaryOp)):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.IfExp(test, one, other) if not isinstance(test, (ast.Compare, ast.UnaryOp)):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), one, other)
        case ast.While(test, body, orelse) if not isinstance(test, (ast.Compare, ast.UnaryOp)):
            yield ast.While(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Return(value) if value is not None and ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case ast.Expr() | ast.Raise() | ast.AugAssign():
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()], _):
            yield ast.Pass()


def _constants(value: object) -> Iterator[ast.Constant]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield ast.Constant(value + 1)
        yield ast.Constant(value - 1)
    elif isinstance(value, float):
        yield ast.Constant(value * 2 if value else 1.0)
    elif isinstance(value, str):
        yield ast.Constant(value + "X")


def _calls(node: ast.Call) -> Iterator[ast.Call]:
    """Arguments swapped, a keyword left out, the opposite function."""
    func, args, keywords = node.func, node.args, node.keywords
    if len(args) >= 2 and not any(isinstance(one, ast.Starred) for one in args[:2]):
        yield ast.Call(func, [args[1], args[0], *args[2:]], keywords)
    for place, keyword in enumerate(keywords):
        if not (isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool)):  # it is flipped
            yield ast.Call(func, args, keywords[:place] + keywords[place + 1 :])
    match func:
        case ast.Name(name) if name in SWAPPED_NAMES:
            yield ast.Call(ast.Name(SWAPPED_NAMES[name], ast.Load()), args, keywords)
        case ast.Attribute(value, name) if name in SWAPPED_NAMES:
            yield ast.Call(ast.Attribute(value, SWAPPED_NAMES[name], ast.Load()), args, keywords)
