"""The names of `typing`, which mean nothing at run time, and records without that module.

Loading `typing`, and building records with it, took 6 of the 100 ms that a triage may take. Only a
type checker loads it. For every other reader a record is the same named tuple.
"""

import sys
from collections import namedtuple

TYPE_CHECKING = False

# From Python 3.14 on, a class body keeps its annotations elsewhere.
if TYPE_CHECKING or sys.version_info >= (3, 14):
    from typing import (
        Any,
        Callable,
        Dict,
        Iterable,
        Iterator,
        List,
        NamedTuple,
        Optional,
        Sequence,
        Set,
        Tuple,
        Type,
        Union,
    )
else:

    class _Word:
        def __getitem__(self, of: object) -> "_Word":
            return self

    Any = Callable = Dict = Iterable = Iterator = List = Optional = _Word()
    Sequence = Set = Tuple = Type = Union = Any

    class _RecordType(type):
        def __new__(cls, name: str, bases: tuple, body: dict) -> type:
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body.get("__annotations__", {})
            record = namedtuple(name, fields, module=body["__module__"])
            record.__new__.__defaults__ = tuple(body[each] for each in fields if each in body)
            for each in body.keys() - fields.keys():
                setattr(record, each, body[each])
            return record

    class NamedTuple(metaclass=_RecordType):
        """A record: the annotated names in its class body are its fields."""


__all__ = [
    "TYPE_CHECKING",
    "Any",
    "Callable",
    "Dict",
    "Iterable",
    "Iterator",
    "List",
    "NamedTuple",
    "Optional",
    "Sequence",
    "Set",
    "Tuple",
    "Type",
    "Union",
]
