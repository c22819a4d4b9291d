"""Objectives as small programs: instructions over soft codes and anchors, data and never code.

A program is a list of lines such as `multiply h b`. Line i writes register ri; the last one, its
mean over bits, is what an attack descends. Operations come from a fixed table, so that a program
from a stranger executes nothing but them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

Program = tuple["Instruction", ...]
LIMIT = 16  # lines of a program
BOUND = 1e4  # registers are clamped to ± this, so that no program overflows
CONSTANTS = {"half": 0.5, "one": 1.0, "two": 2.0}
INPUTS = ("h", "b", "o", *CONSTANTS)

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "absolute": torch.abs,
    "mean": lambda x: x.mean(dim=1, keepdim=True).expand_as(x),
    "negative": torch.neg,
    "positive": torch.relu,
    "square": torch.square,
    "tanh": torch.tanh,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "multiply": torch.mul,
    "subtract": torch.sub,
}
OPERATIONS = tuple(sorted([*UNARY, *BINARY]))

# Objectives of published attacks, from which searches begin; see `objectives`
PUBLISHED: Mapping[str, tuple[str, ...]] = {
    "similarity": ("multiply h b", "negative r0"),
    "hash_term_tmm": ("multiply h b", "subtract one r0", "square r1"),
    "hinge": ("multiply h b", "subtract half r0", "positive r1"),
}


@dataclass(frozen=True)
class Instruction:
    """One line: an operation and the names of its one or two operands."""

    operation: str
    operands: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([self.operation, *self.operands])


def parse_program(lines: Sequence[str]) -> Program:
    """Check and read the lines of a program.

    Operands are h (soft code, in (−1,1)), b (anchor, ±1), o (soft code of the clean image), half,
    one, two, and the registers of earlier lines.

    >>> [str(line) for line in parse_program(["multiply h b", "negative r0"])]
    ['multiply h b', 'negative r0']

    Raises ValueError: no line, more than 16, an operation or operand that does not exist.
    """
    if not 1 <= len(lines) <= LIMIT:
        raise ValueError(f"expected a program of 1 to {LIMIT} lines, got {len(lines)}")
    program = []
    for number, line in enumerate(lines):
        operation, *operands = line.split() or [""]
        wanted = 1 if operation in UNARY else 2
        if operation not in OPERATIONS or len(operands) != wanted:
            raise ValueError(
                f"line {number} of the program: expected an operation "
                f"({', '.join(OPERATIONS)}) and its operands, got {line[:80]!r}"
            )
        known = [*INPUTS, *(f"r{before}" for before in range(number))]
        for operand in operands:
            if operand not in known:
                raise ValueError(
                    f"line {number} of the program: expected operands in {', '.join(known)}, "
                    f"got {operand[:80]!r}"
                )
        program.append(Instruction(operation, tuple(operands)))
    return tuple(program)


def written_program(program: Program) -> tuple[str, ...]:
    """The inverse of `parse_program`."""
    return tuple(str(line) for line in program)


def run_program(program: Program, codes: Tensor, anchors: Tensor, own: Tensor) -> Tensor:
    """(B,) the loss of (B,K) soft codes h, anchors b and clean soft codes o.

    Finite whatever the program, and so is its gradient in `codes`, which is 0 where the program
    does not depend on them.
    """
    seen = codes.clone()
    if seen.requires_grad:
        seen.register_hook(_finite)
    registers = {name: torch.full_like(seen, value) for name, value in CONSTANTS.items()}
    registers |= {"h": seen, "b": anchors, "o": own}
    result = seen
    for place, line in enumerate(program):
        operands = [registers[name] for name in line.operands]
        known = UNARY if len(operands) == 1 else BINARY
        result = known[line.operation](*operands).clamp(-BOUND, BOUND)
        registers[f"r{place}"] = result
    loss: Tensor = (result + 0 * seen).mean(dim=1)
    return loss


def _finite(gradient: Tensor) -> Tensor:
    return gradient.nan_to_num(0.0, 0.0, 0.0).clamp(-BOUND, BOUND)


def mutated_program(program: Program, chance: Random) -> Program:
    """A program with one line changed, inserted or removed, or with operands exchanged."""
    kinds = ["change", "exchange", "result"]
    if len(program) < LIMIT:
        kinds += ["insert", "append"]
    if len(program) > 1:
        kinds += ["remove", "remove"]  # as often as a line is added
    kind, place = chance.choice(kinds), chance.randrange(len(program))
    if kind == "append":
        return (*program, _drawn(len(program), chance))
    if kind == "insert":
        later = tuple(_renamed(line, place, 1) for line in program[place:])
        return (*program[:place], _drawn(place, chance), *later)
    line = program[place]
    if kind == "remove":
        substitute = line.operands[0]
        later = tuple(_renamed(step, place, -1, substitute) for step in program[place + 1 :])
        return (*program[:place], *later)
    if kind == "exchange":
        changed = Instruction(line.operation, line.operands[::-1])
    elif kind == "result":
        place = len(program) - 1
        changed = _drawn(place, chance)
    elif chance.random() < 0.5:
        same = UNARY if len(line.operands) == 1 else BINARY
        changed = Instruction(chance.choice(sorted(same)), line.operands)
    else:
        operands = list(line.operands)
        operands[chance.randrange(len(operands))] = _operand(place, chance)
        changed = Instruction(line.operation, tuple(operands))
    return (*program[:place], changed, *program[place + 1 :])


def _operand(place: int, chance: Random) -> str:
    """An operand for line `place`: an input or an earlier register, alike often."""
    registers = [f"r{before}" for before in range(place)]
    return chance.choice(registers if registers and chance.random() < 0.5 else INPUTS)


def _drawn(place: int, chance: Random) -> Instruction:
    operation = chance.choice(OPERATIONS)
    count = 1 if operation in UNARY else 2
    return Instruction(operation, tuple(_operand(place, chance) for _ in range(count)))


def _renamed(line: Instruction, place: int, shift: int, substitute: str = "") -> Instruction:
    """A line whose registers from `place` on moved by `shift`; r`place` itself where removed."""

    def name(operand: str) -> str:
        if operand in INPUTS or int(operand[1:]) < place:
            return operand
        if substitute and int(operand[1:]) == place:
            return substitute
        return f"r{int(operand[1:]) + shift}"

    return Instruction(line.operation, tuple(map(name, line.operands)))
