"""Functional hashing: candidates that are written differently and do the same are evaluated once.

`FunctionalHash` turns what a candidate does on a fixed canary batch into a key, whatever it is: a
torch module, an `fx` graph, a lambda, a small program, an attack's genome (Unified Functional
Hashing, Gillard et al., arXiv 2302.05433). `equivalence_cache` keeps what evaluations gave under a
key.

Equal keys mean: no difference was seen, at this precision, on these inputs. Different keys of equal
functions happen too, since truncation splits values that straddle an edge, however close.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

MANTISSA = 52  # bits of a float64 after the point
SIGN = np.uint64(1 << 63)
NOT_A_NUMBER = np.uint64(0x7FF8000000000000)
FAILURES = (ArithmeticError, ValueError, RuntimeError, TypeError, IndexError)


def quantised(values: npt.ArrayLike, bits: int) -> npt.NDArray[np.uint64]:
    """Sign, exponent and the top `bits` of the mantissa of real numbers, as uint64.

    The mantissa is truncated, as published. All NaNs are one, −0 is 0, ±∞ stay two.
    Raises ValueError: bits outside 0 … 52.

    >>> bool(quantised(1.0, 1)[0] == quantised(1.25, 1)[0])
    True
    >>> quantised([-0.0, 0.0, float("nan"), -float("nan")], 24).tolist()[::2]
    [0, 9221120237041090560]
    """
    if not 0 <= bits <= MANTISSA:
        raise ValueError(f"expected 0 to {MANTISSA} bits of the mantissa, got {bits}")
    numbers = np.asarray(values, np.float64).ravel() + 0.0  # −0 + 0 is 0
    words = numbers.view(np.uint64) & ~np.uint64((1 << (MANTISSA - bits)) - 1)
    words[np.isnan(numbers)] = NOT_A_NUMBER
    infinite = np.isinf(numbers)
    words[infinite] = numbers[infinite].view(np.uint64)
    words[words == SIGN] = 0  # of a negative number so small that all its bits were cut
    return words


@contextmanager
def seeded_everywhere(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's global generators at `seed` inside, as they were outside."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@dataclass(frozen=True)
class FunctionalHash:
    """What a candidate does on a canary batch, as a key.

    canary:   the arguments of the call; each call gets copies, so that none can spoil them
    protocol: what else determines a fitness (data, budget, epochs …): part of the key
    bits:     of the mantissa that count, 0 … 52
    seed:     of all generators while the candidate runs

    Deviations: published code hashes accuracies of a short training, skips the sign and mixes with
    SHA-256 modulo 2^63; here any floats, the sign, canonical NaN, and BLAKE2b of 128 bits.
    """

    canary: Sequence[Any]
    protocol: Mapping[str, Any]
    bits: int = 24
    seed: int = 0

    def __call__(self, candidate: Callable[..., Any]) -> str:
        """32 hexadecimal digits.

        The candidate returns floats, arrays or tensors, or lists, tuples and dicts of them; a
        module runs as a copy, so that its buffers stay. One that raises an arithmetic, value, type,
        index or runtime error is known by the name of that error.

        Raises TypeError: a candidate that returns something else.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(dict(self.protocol), sort_keys=True, default=str).encode())
        digest.update(f"/{self.bits}/".encode())
        if isinstance(candidate, nn.Module):
            candidate = copy.deepcopy(candidate)
        with seeded_everywhere(self.seed):
            try:
                result = candidate(*copy.deepcopy(tuple(self.canary)))
            except FAILURES as error:
                digest.update(f"raises {type(error).__name__}".encode())
                return digest.hexdigest()
        for place, values in _leaves(result, ""):
            digest.update(f"{place}{values.shape}".encode())
            digest.update(quantised(values, self.bits).tobytes())
        return digest.hexdigest()


def _leaves(value: Any, place: str) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """The numbers in a result with their places in it; a list or tuple of one is that one.

    Complex numbers get a last dimension of 2.
    """
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(value[key], f"{place}/{key}")
    elif isinstance(value, list | tuple) and len(value) != 1:
        for number, item in enumerate(value):
            yield from _leaves(item, f"{place}/{number}")
    elif isinstance(value, list | tuple):
        yield from _leaves(value[0], place)
    else:
        if isinstance(value, Tensor):
            value = value.detach().cpu().resolve_conj().resolve_neg()
            value = value.to(torch.complex128 if value.is_complex() else torch.float64).numpy()
        yield place, _numbers(value)


def _numbers(value: Any) -> npt.NDArray[np.float64]:
    """As float64. Raises TypeError for what is no number."""
    array = np.asarray(value)
    if np.iscomplexobj(array):
        array = np.stack([array.real, array.imag], axis=-1)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            "expected a candidate that returns floats, arrays or tensors, or lists, tuples and "
            f"dicts of them, got {type(value).__name__}"
        )
    return array.astype(np.float64)
