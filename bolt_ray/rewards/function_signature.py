"""The signature of a function in a user's file, read without running the file. Pure."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Sequence


def signature_in(source: bytes | str, name: str) -> inspect.Signature | None:
    """The signature of the function ``name``, or None where only running the file can tell.

    It is certain for a ``def`` without a decorator that is the only thing of that name in the module. Defaults and
    annotations are not evaluated: the former are ``...``, the latter text.
    """
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError):
        return None
    bound = list(_bound(statements))
    found = [each for each in statements if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = [each for each in found if each.name == name]
    if len(found) != 1 or found[0].decorator_list or bound.count(name) != 1 or "*" in bound:
        return None
    return inspect.Signature(list(_parameters(found[0].args)))


def _bound(statements: Sequence[ast.AST]) -> Iterator[str]:
    """The names that statements of a module bind, as often as they do; ``*`` for an import of everything."""
    for node in statements:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        else:
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                yield node.id
            yield from _bound(list(ast.iter_child_nodes(node)))


def _parameters(arguments: ast.arguments) -> Iterator[inspect.Parameter]:
    by_place = [*arguments.posonlyargs, *arguments.args]
    first_default = len(by_place) - len(arguments.defaults)
    for place, argument in enumerate(by_place):
        only = place < len(arguments.posonlyargs)
        kind = inspect.Parameter.POSITIONAL_ONLY if only else inspect.Parameter.POSITIONAL_OR_KEYWORD
        yield _parameter(argument, kind, has_default=place >= first_default)
    if arguments.vararg is not None:
        yield _parameter(arguments.vararg, inspect.Parameter.VAR_POSITIONAL)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(argument, inspect.Parameter.KEYWORD_ONLY, has_default=default is not None)
    if arguments.kwarg is not None:
        yield _parameter(arguments.kwarg, inspect.Parameter.VAR_KEYWORD)


def _parameter(argument: ast.arg, kind: inspect._ParameterKind, *, has_default: bool = False) -> inspect.Parameter:
    return inspect.Parameter(
        argument.arg,
        kind,
        default=... if has_default else inspect.Parameter.empty,
        annotation=inspect.Parameter.empty if argument.annotation is None else ast.unparse(argument.annotation),
    )
