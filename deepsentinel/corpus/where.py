"""Conditions on the columns of an index, such as `cloud < 10 and split == "train"`.

The text is parsed as a Python expression and translated piece by piece; nothing in it is ever
executed, and what is not in the short list below is an error.
"""

import ast
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deepsentinel.corpus.format import CorpusInfo
from deepsentinel.errors import SelectionError, nearest

ALIASES: Final = {"cloud": "cloud_percent", "orbit": "orbit_s1"}
"""Short names of columns."""
_HELP = (
    "Conditions compare columns with values (< <= > >= == != in), test `is None`, and join with "
    "and, or, not: cloud < 10 and split == 'train'."
)
_COMPARE: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
}
_MIRRORED: Final[Mapping[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
}


def where_mask(table: pa.Table, where: str, info: CorpusInfo) -> NDArray[np.bool_]:
    """Which rows of an index fulfil a condition.

    A comparison with a value that is not known (NULL) is neither true nor false: the patch is left
    out unless another part of the condition decides. Dates compare with ISO text in UTC; a label
    with classes compares with the names of its classes.

    Args:
        table: the index, or the columns of it that the condition names.
        where: the condition. `cloud` stands for `cloud_percent`, `orbit` for `orbit_s1`.
        info: facts of the corpus, for the names of classes.

    Raises:
        SelectionError: it is no condition, names no column, or compares what cannot be compared.

    Example:
        >>> info = CorpusInfo(
        ...     name="tiny", sensors=("s1",), bands={"s1": ("VV",)}, patch_size=16, resolution_m=10
        ... )
        >>> table = pa.table({"cloud_percent": [5.0, 50.0, None], "split": ["train"] * 3})
        >>> where_mask(table, "cloud < 10 and split == 'train'", info)
        array([ True, False, False])
    """
    try:
        tree = ast.parse(where.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        said = error.msg if isinstance(error, SyntaxError) else error
        raise _refused(where, f"it cannot be read ({said})") from error
    mask = _Condition(table, where, info).truth(tree.body)
    return np.asarray(
        pc.fill_null(mask, fill_value=False).to_numpy(zero_copy_only=False), dtype=np.bool_
    )


class _Condition:
    def __init__(self, table: pa.Table, where: str, info: CorpusInfo) -> None:
        self._table = table
        self._where = where
        self._info = info

    def truth(self, node: ast.expr) -> pa.ChunkedArray:
        """Three-valued truth of one part."""
        if isinstance(node, ast.BoolOp):
            join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            found = self.truth(node.values[0])
            for value in node.values[1:]:
                found = join(found, self.truth(value))
            return found
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return pc.invert(self.truth(node.operand))
        if isinstance(node, ast.Compare):
            return self._chain(node)
        raise self._refuse(node, "is no condition")

    def _chain(self, node: ast.Compare) -> pa.ChunkedArray:
        """One comparison, or several in a row as in `5 < cloud < 10`."""
        sides = [node.left, *node.comparators]
        found = None
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            link = self._compare(node, left, op, right)
            found = link if found is None else pc.and_kleene(found, link)
        return found

    def _compare(
        self, node: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr
    ) -> pa.ChunkedArray:
        if not isinstance(left, ast.Name) and isinstance(right, ast.Name) and type(op) in _MIRRORED:
            left, op, right = right, _MIRRORED[type(op)](), left
        if not isinstance(left, ast.Name):
            raise self._refuse(node, "compares no column with a value")
        name, column = self._column(left)
        value = self._literal(right)
        if isinstance(op, ast.Is | ast.IsNot):
            if value is not None:
                raise self._refuse(node, "uses `is` with something else than None")
            return pc.is_null(column) if isinstance(op, ast.Is) else pc.is_valid(column)
        if isinstance(op, ast.In | ast.NotIn):
            return self._among(node, name, column, value, negated=isinstance(op, ast.NotIn))
        if value is None or isinstance(value, tuple):
            raise self._refuse(node, "compares with None or a list; use `is None` and `in`")
        return _COMPARE[type(op)](column, self._scalar(node, name, column, value))

    def _among(
        self, node: ast.expr, name: str, column: Any, values: Any, *, negated: bool
    ) -> pa.ChunkedArray:
        if not isinstance(values, tuple) or not values:
            raise self._refuse(node, "needs a list of values behind `in`, such as ('train', 'val')")
        found = None
        for value in values:
            one = pc.equal(column, self._scalar(node, name, column, value))
            found = one if found is None else pc.or_kleene(found, one)
        return pc.invert(found) if negated else found

    def _column(self, node: ast.Name) -> tuple[str, pa.ChunkedArray]:
        name = ALIASES.get(node.id, node.id)
        types = {field.name: field.type for field in self._table.schema}
        usable = [
            n for n, t in types.items() if not (pa.types.is_nested(t) or pa.types.is_binary(t))
        ]
        if name not in usable:
            known = nearest(node.id, [*ALIASES, *usable])
            raise SelectionError(f"no column {node.id!r} to choose patches by. {known}")
        return name, self._table[name]

    def _literal(self, node: ast.expr) -> Any:
        try:
            value = ast.literal_eval(node)  # literals only: it evaluates no names and no calls
        except ValueError as error:
            raise self._refuse(node, "is no value; quote text, as in split == 'train'") from error
        return tuple(value) if isinstance(value, list | set) else value

    def _scalar(self, node: ast.expr, name: str, column: Any, value: Any) -> pa.Scalar:
        kind = column.type
        if isinstance(value, str) and pa.types.is_timestamp(kind):
            return pa.scalar(self._time(value), type=kind)
        if isinstance(value, str) and pa.types.is_integer(kind):
            value = self._class_id(name, value)
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        fits = isinstance(value, int | float) if numeric else isinstance(value, str)
        if not fits or pa.types.is_timestamp(kind):
            raise self._refuse(node, f"compares {name} ({kind}) with {value!r}")
        return pa.scalar(value)

    def _time(self, text: str) -> datetime:
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise self._refused(f"{text!r} is no date such as 2020-06-30") from None
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)

    def _class_id(self, name: str, text: str) -> int:
        scheme = next((s.scheme for s in self._info.labels if s.name == name), None)
        names = () if scheme is None else scheme.names
        if text not in names:
            raise self._refused(f"{name} holds no {text!r}; {nearest(text, names)}")
        return names.index(text)

    def _refuse(self, node: ast.expr, reason: str) -> SelectionError:
        return self._refused(f"`{ast.unparse(node)}` {reason}")

    def _refused(self, reason: str) -> SelectionError:
        return _refused(self._where, reason)


def _refused(where: str, reason: str) -> SelectionError:
    return SelectionError(f"where={where!r} is not understood: {reason}. {_HELP}")
