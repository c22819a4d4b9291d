"""Pickles of strangers, read without running them: opcodes become inert values.

The one file of advhash that knows pickle's opcodes; it has no unpickler. `pickletools` cuts a
stream into opcodes and their arguments, which must be whole and within bounds before any of them is
followed. What a pickle would call becomes a `Call` that says so, what it would import a `Name`.
Nothing is imported, called, or set on an object of Python. Tensors are no exception: of the calls
by which torch rebuilds them, the arguments are checked and kept as a `View`.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import Any, NamedTuple

from advhash.storage.documents import Unreadable
from advhash.storage.foreign_text import visible

MOST_BYTES = 64 * 2**20  # of one pickle, without the tensors, which lie beside it
MOST_OPCODES = 400_000  # a ResNet-152 pickled as a whole has 110,000
MOST_TEXT = 4 * 2**20  # bytes of one text; old files hold the source of whole modules
MOST_LINE = 2**16  # of a number or a text that is written as a line
MOST_MEMO = 200_000
MOST_STACK = 20_000
MOST_MARKS = 300  # containers that are open at once
MOST_BITS = 127  # of a whole number
MOST_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Name:
    """What a pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return visible(f"{self.module}.{self.name}"[:100])


@dataclass(slots=True, eq=False, repr=False)
class Table:
    """The pairs of a dict in their order. Keys may be anything: none is hashed."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """An object that a pickle would make by calling something, with all that it would give to it.

    state: what it would set on the object
    pairs: what it would put into it by keys
    items: what it would append or add to it
    """

    name: Name
    arguments: tuple[Any, ...]
    state: Any = None
    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of numbers that lies beside the pickle.

    kind: the name of its class in torch, e.g. FloatStorage
    key:  by which the file has it
    size: how many numbers it states
    """

    kind: str
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: numbers of a storage, each of them once."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pickle:
    """What a pickle holds.

    storages: all that it names, by their keys
    called:   all that it would call, but for what rebuilds tensors
    """

    value: Any
    storages: Mapping[str, Storage]
    called: frozenset[Name]


class Opcode(NamedTuple):
    name: str
    argument: Any


class Source:
    """A stream for `pickletools` that gives out no more than the bounds, from where it stands."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self._stream = stream
        self._left = MOST_BYTES

    def read(self, size: int) -> bytes:
        if size > MOST_TEXT:
            raise Unreadable(f"a text of {size:,} bytes in its pickle, over {MOST_TEXT:,}")
        return self._spent(self._stream.read(size))

    def readline(self) -> bytes:
        line = self._spent(self._stream.readline(MOST_LINE + 1))
        if len(line) > MOST_LINE:
            raise Unreadable(f"a line in its pickle of more than {MOST_LINE:,} bytes")
        return line

    def tell(self) -> int:
        return self._stream.tell()

    def _spent(self, part: bytes) -> bytes:
        self._left -= len(part)
        if self._left < 0:
            raise Unreadable(f"a pickle of more than {MOST_BYTES:,} bytes")
        return part


def read_pickle(stream: BufferedIOBase) -> Pickle:
    """The pickle that begins where the stream stands, which is left at its end.

    Numbers, texts, bytes, lists and tuples are Python's own; all else is inert. Raises Unreadable.
    """
    machine = _Machine()
    value = machine.follow(_opcodes(stream))
    return Pickle(value, machine.storages, frozenset(machine.called))


def _opcodes(stream: BufferedIOBase) -> list[Opcode]:
    """All opcodes up to STOP. Raises Unreadable: one that is not known, cut, or out of bounds."""
    opcodes: list[Opcode] = []
    try:
        for opcode, argument, _ in pickletools.genops(Source(stream)):  # type: ignore[arg-type]
            if opcode.name not in _KNOWN:
                raise Unreadable(
                    f"the opcode {opcode.name} in its pickle, which torch never writes"
                )
            if len(opcodes) == MOST_OPCODES:
                raise Unreadable(f"a pickle of more than {MOST_OPCODES:,} opcodes")
            if type(argument) is int and argument.bit_length() > MOST_BITS:
                raise Unreadable(f"a whole number of more than {MOST_BITS} bits in its pickle")
            opcodes.append(Opcode(opcode.name, argument))
    except (ValueError, OverflowError, struct.error) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("a pickle that is cut or damaged") from None
    return opcodes


class _Machine:
    """The stack, the marks in it and the memo of one pickle, and what it named."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self.called: set[Name] = set()
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # of the stack, what lies below each open mark
        self._height = 0
        self._memo: dict[int, Any] = {}

    def follow(self, opcodes: list[Opcode]) -> Any:
        for name, argument in opcodes:
            if name == "STOP":
                return self._pop()
            _KNOWN[name](self, argument)
        raise Unreadable("a pickle without an end")

    def _push(self, value: Any) -> None:
        if len(self._stack) + self._height >= MOST_STACK:
            raise Unreadable(f"a pickle that stacks more than {MOST_STACK:,} values")
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            raise Unreadable("a pickle that takes more than it has")
        return self._stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    def _last(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def mark(self, _: Any) -> None:
        if len(self._below) == MOST_MARKS:
            raise Unreadable(f"a pickle nested more than {MOST_MARKS} deep")
        self._height += len(self._stack)
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        """What lies above the last mark, which goes with it."""
        if not self._below:
            raise Unreadable("a pickle that closes what it never opened")
        values, self._stack = self._stack, self._below.pop()
        self._height -= len(self._stack)
        return values

    def constant(self, argument: Any) -> None:
        self._push(argument)

    def pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def pop_mark(self, _: Any) -> None:
        self._marked()

    def put(self, argument: Any) -> None:
        place = len(self._memo) if argument is None else argument
        if place not in range(MOST_MEMO):
            raise Unreadable(f"a pickle that remembers more than {MOST_MEMO:,} values")
        self._memo[place] = self._top()

    def get(self, argument: Any) -> None:
        if argument not in self._memo:
            raise Unreadable("a pickle that recalls what it never kept")
        self._push(self._memo[argument])

    def sequence(self, kind: Callable[[list[Any]], Any]) -> None:
        self._push(kind(self._marked()))

    def short_tuple(self, count: int) -> None:
        self._push(tuple(self._last(count)))

    def append(self, _: Any) -> None:
        self._extend([self._pop()])

    def appends(self, _: Any) -> None:
        self._extend(self._marked())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Call):
            target.items.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise Unreadable(f"a pickle that appends to {_kind(target)}")

    def set_item(self, _: Any) -> None:
        self._update(self._last(2))

    def set_items(self, _: Any) -> None:
        self._update(self._marked())

    def _update(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, Call | Table):
            raise Unreadable(f"a pickle that sets keys of {_kind(target)}")
        target.pairs.extend(_paired(values))

    def named(self, argument: str) -> None:
        """`GLOBAL`: module and name stand in the argument, a blank between them."""
        module, _, name = argument.partition(" ")
        self._push(Name(module, name))

    def named_by_texts(self, _: Any) -> None:
        self._push(Name(*map(_text, self._last(2))))

    def reduce(self, _: Any) -> None:
        called, arguments = self._last(2)
        self._push(self._call(called, arguments))

    def make_with_keywords(self, _: Any) -> None:
        called, arguments, keywords = self._last(3)
        if not isinstance(keywords, Table):
            raise Unreadable(f"a pickle that calls with {_kind(keywords)} for keywords")
        self._push(self._call(called, (*_tuple(arguments), keywords)))

    def make_marked(self, _: Any) -> None:
        """`OBJ`: the class and its arguments lie above the mark."""
        values = self._marked()
        if not values:
            raise Unreadable("a pickle that makes an object of nothing")
        self._push(self._call(values[0], tuple(values[1:])))

    def make_named(self, argument: str) -> None:
        """`INST`: the class is named, its arguments lie above the mark."""
        module, _, name = argument.partition(" ")
        self._push(self._call(Name(module, name), tuple(self._marked())))

    def build(self, _: Any) -> None:
        target, state = self._last(2)
        if not isinstance(target, Call):
            raise Unreadable(f"a pickle that sets the state of {_kind(target)}")
        target.state = state
        self._push(target)

    def _call(self, called: Any, arguments: Any) -> Any:
        """What a call would make: a view of a storage where torch rebuilds a tensor, else inert."""
        if not isinstance(called, Name):
            raise Unreadable(f"a pickle that calls {_kind(called)}")
        given = _tuple(arguments)
        if called in _REBUILT:
            return _rebuilt(called, given)
        self.called.add(called)
        return Call(called, given)

    def persistent(self, _: Any) -> None:
        value = _beside(self._pop())
        if isinstance(value, Storage) and self.storages.setdefault(value.key, value) != value:
            raise Unreadable(f"storage {visible(value.key[:40])!r} with two sizes or kinds")
        self._push(value)


def _rebuilt(name: Name, given: tuple[Any, ...]) -> View:
    """The tensor that torch's function of this name would make. Raises Unreadable."""
    if name == _FROM_TYPE:  # a function of these, the class, its arguments, the state
        inner, arguments = (given + (None,) * 4)[0], (given + (None,) * 4)[2]
        if not isinstance(inner, Name) or inner not in _REBUILT - {_FROM_TYPE}:
            raise Unreadable("a tensor of a class that is not known")
        return _rebuilt(inner, _tuple(arguments))
    if name in _PARAMETERS:
        if not given or not isinstance(given[0], View):
            raise Unreadable("a parameter that is no tensor")
        return given[0]
    storage, offset, shape, stride = (given + (None,) * 4)[:4]
    if not isinstance(storage, Storage):
        raise Unreadable("a tensor without a storage")
    return _checked(storage, _whole(offset), _wholes(shape), _wholes(stride))


def _checked(
    storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> View:
    """A view whose numbers lie inside the storage, each in its own place. Raises Unreadable."""
    if len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS:
        raise Unreadable(
            f"a tensor with {len(shape)} sizes and {len(stride)} strides, at most {MOST_DIMENSIONS}"
        )
    count = math.prod(shape)
    reach = 0  # the last place that the dimensions so far come to, from the first
    for step, length in sorted(zip(stride, shape, strict=True)):
        if length > 1 and count:
            if step <= reach:
                raise Unreadable(
                    f"a tensor of shape {shape} and stride {stride}, which has places twice"
                )
            reach += step * (length - 1)
    if offset + (reach + 1 if count else 0) > storage.size:
        raise Unreadable(
            f"a tensor of shape {shape} from place {offset} on, of a storage of {storage.size}"
        )
    return View(storage, offset, shape, stride)


def _beside(identity: Any) -> Any:
    """What a persistent identity stands for. Raises Unreadable."""
    parts = _tuple(identity)
    if parts[:1] == ("module",) and len(parts) == 4:  # old files: a class, its file and its source
        return parts[1]
    if parts[:1] != ("storage",) or len(parts) not in (5, 6) or parts[5:] not in ((), (None,)):
        raise Unreadable("a reference to something beside its pickle that is no storage")
    _, kind, key, _, size = parts[:5]
    if not isinstance(kind, Name) or kind.module not in ("torch", "torch.storage"):
        raise Unreadable("a storage without a class of torch")
    return Storage(kind.name, _text(key), _whole(size))


def _paired(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(values) % 2:
        raise Unreadable("a pickle with a key and no value")
    return zip(values[::2], values[1::2], strict=True)


def _tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise Unreadable(f"a pickle with {_kind(value)} where arguments belong")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Unreadable(f"a pickle with {_kind(value)} where a name belongs")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise Unreadable("a tensor with a size, stride or place that is no whole number from 0 on")
    return value


def _wholes(value: Any) -> tuple[int, ...]:
    return tuple(map(_whole, _tuple(value)))


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def _table(values: list[Any]) -> Table:
    return Table(list(_paired(values)))


def _with(method: Callable[[_Machine, Any], None], value: Any) -> Callable[[_Machine, Any], None]:
    """An opcode without an argument of its own, which is always followed with the same one."""
    return lambda machine, _: method(machine, value)


def _fresh(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    """An opcode that puts a new container onto the stack."""
    return lambda machine, _: machine.constant(make())


def _nothing(machine: _Machine, argument: Any) -> None:
    """An opcode that says how the stream is cut, or which protocol wrote it."""


_SET, _FROZEN = Name("builtins", "set"), Name("builtins", "frozenset")
_FROM_TYPE = Name("torch._tensor", "_rebuild_from_type_v2")
_PARAMETERS = {
    Name("torch._utils", "_rebuild_parameter"),
    Name("torch._utils", "_rebuild_parameter_with_state"),
}
_REBUILT = {
    *_PARAMETERS,
    _FROM_TYPE,
    Name("torch._utils", "_rebuild_tensor"),
    Name("torch._utils", "_rebuild_tensor_v2"),
}
_CONSTANTS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
)
_KNOWN: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_CONSTANTS, _Machine.constant),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _nothing),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.reduce),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Machine.appends),
    "NONE": _with(_Machine.constant, None),
    "NEWTRUE": _with(_Machine.constant, True),
    "NEWFALSE": _with(_Machine.constant, False),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "EMPTY_TUPLE": _with(_Machine.constant, ()),
    "EMPTY_LIST": _fresh(list),
    "EMPTY_DICT": _fresh(Table),
    "EMPTY_SET": _fresh(lambda: Call(_SET, ())),
    "TUPLE": _with(_Machine.sequence, tuple),
    "TUPLE1": _with(_Machine.short_tuple, 1),
    "TUPLE2": _with(_Machine.short_tuple, 2),
    "TUPLE3": _with(_Machine.short_tuple, 3),
    "LIST": _with(_Machine.sequence, list),
    "DICT": _with(_Machine.sequence, _table),
    "FROZENSET": _with(_Machine.sequence, lambda values: Call(_FROZEN, (values,))),
    "APPEND": _Machine.append,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.named_by_texts,
    "NEWOBJ_EX": _Machine.make_with_keywords,
    "OBJ": _Machine.make_marked,
    "INST": _Machine.make_named,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
