"""Where the non-zeros of a matrix are, in few bytes: three codings of increasing positions. Pure functions.

Positions are those of the row-major flattened matrix. The rules are docs/format.md's; a broken one is a ValueError that
states it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pruneonce import _native

Array = np.ndarray[Any, Any]

ENCODINGS = ("bitmask", "delta", "rice")
ESCAPE = 255  # a delta byte: 255 zeros and no weight; a smaller byte b: b zeros, then a weight
MAX_RICE_BITS = 8
MAX_RICE_TAIL = 1 << 24  # zeros after the last weight: they take no byte, so an empty file could claim any number
BITS_SET = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)  # numpy 1.26 has no bitwise_count


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions of some elements among `size`; both numbers are kept elsewhere."""

    encoding: str  # of ENCODINGS
    data: Array  # uint8, encoded
    bits: int = 0  # of a remainder; rice only

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def decode(self, size: int, count: int) -> Array:
        """Increasing positions: int32 [count], the caller's to change."""
        if self.encoding == "bitmask":
            return decode_bitmask(self.data, size)
        if self.encoding == "delta":
            return decode_deltas(self.data)
        return decode_rice(self.data, count, self.bits)

    def tail(self, size: int, count: int) -> int:
        """How many of `size` elements come after the last position and take no byte; the other codings spell them."""
        if self.encoding != "rice":
            return 0
        return size - int(_native.rice_extent(np.ascontiguousarray(self.data), self.bits, count))

    def check(self, size: int, count: int) -> None:
        """ValueError unless they are `count` positions below `size`, coded as docs/format.md says."""
        if self.encoding == "rice":
            check_rice(self.data, size, count, self.bits)
            return
        stored = (check_bitmask if self.encoding == "bitmask" else check_deltas)(self.data, size)
        if stored != count:
            raise ValueError(f"the positions are those of {stored:,} weights, there are {count:,} values")


def smallest(positions: Array, size: int) -> Positions:
    """The coding of increasing positions that takes the fewest bytes; the simplest of equals."""
    bits = best_rice_bits(positions, size)
    sizes = {
        "bitmask": bitmask_bytes(size),
        "delta": delta_bytes(positions, size),
    }
    if _tail(positions, size) <= MAX_RICE_TAIL:
        sizes["rice"] = rice_bytes(positions, size, bits)
    encoding = min(sizes, key=sizes.__getitem__)
    if encoding == "rice":
        return Positions("rice", encode_rice(positions, size, bits), bits)
    return Positions(encoding, (encode_deltas if encoding == "delta" else encode_bitmask)(positions, size))


def bitmask_bytes(size: int) -> int:
    """Bytes of a bitmask over `size` elements."""
    return -(-size // 8)


def delta_bytes(positions: Array, size: int) -> int:
    """Bytes of the deltas of increasing `positions` among `size` elements."""
    return len(positions) + int((_gaps(positions, size) // ESCAPE).sum())


def encode_bitmask(positions: Array, size: int) -> Array:
    """uint8 [ceil(size / 8)]: bit i % 8 (lowest first) of byte i // 8 is set if i is one of `positions`."""
    kept = np.zeros(size, bool)
    kept[positions] = True
    return np.packbits(kept, bitorder="little")


def decode_bitmask(bitmask: Array, size: int) -> Array:
    """The positions that `encode_bitmask` got: int32."""
    kept = np.unpackbits(bitmask, count=size, bitorder="little")
    return np.flatnonzero(kept.view(bool)).astype(np.int32)


def check_bitmask(bitmask: Array, size: int) -> int:
    """How many bits are set; ValueError if the length or the padding is wrong."""
    if bitmask.shape != (bitmask_bytes(size),):
        raise ValueError(f"a bitmask of {size:,} elements has {bitmask_bytes(size):,} bytes, not {bitmask.shape}")
    if size % 8 and int(bitmask[-1]) >> size % 8:
        raise ValueError("the bitmask's padding bits are not zero")
    return int(BITS_SET[bitmask].sum(dtype=np.int64))


def encode_deltas(positions: Array, size: int) -> Array:
    """uint8: per position the zeros before it, ESCAPE for each 255 of them; zeros at the end only in full 255s."""
    gaps = _gaps(positions, size)
    escapes = gaps // ESCAPE
    deltas = np.full(len(positions) + int(escapes.sum()), ESCAPE, np.uint8)
    ends = np.cumsum(escapes[:-1] + 1) - 1
    deltas[ends] = gaps[:-1] % ESCAPE
    return deltas


def decode_deltas(deltas: Array) -> Array:
    """The positions that `encode_deltas` got: int32."""
    weight_here = deltas != ESCAPE
    steps = deltas.astype(np.uint16) + weight_here
    ends = np.cumsum(steps, dtype=np.int32)
    positions = ends[weight_here]
    positions -= 1
    return positions


def check_deltas(deltas: Array, size: int) -> int:
    """How many weights the deltas place; ValueError unless they end inside the matrix, within 255 of its end.

    Positions can neither decrease nor repeat: every byte moves on by at least one.
    """
    if deltas.ndim != 1:
        raise ValueError(f"deltas have one dimension, not shape {deltas.shape}")
    weights = int(np.count_nonzero(deltas != ESCAPE))
    covered = int(deltas.sum(dtype=np.int64)) + weights
    if not 0 <= size - covered < ESCAPE:
        raise ValueError(f"the deltas cover {covered:,} of {size:,} elements: only the last 254 may be left out")
    return weights


def encode_rice(positions: Array, size: int, bits: int) -> Array:
    """uint8: of each gap before a position its low `bits`, then of all gaps the rest in unary, zeros and a one.

    Golomb's code for a geometric distribution, with a power of two as its parameter (Rice 1979).
    """
    gaps = _gaps(positions, size)[:-1]
    low = gaps[:, None] >> np.arange(bits) & 1
    ends = np.cumsum((gaps >> bits) + 1)
    unary = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    unary[ends - 1] = 1
    parts = (np.packbits(each.astype(np.uint8), bitorder="little") for each in (low.reshape(-1), unary))
    return np.concatenate(list(parts))


def decode_rice(data: Array, count: int, bits: int) -> Array:
    """The `count` positions that `encode_rice` got: int32. In native code: bit by bit is not numpy's strength."""
    positions = np.empty(count, np.int32)
    _native.decode_rice(np.ascontiguousarray(data), bits, out=positions)
    return positions


def check_rice(data: Array, size: int, count: int, bits: int) -> None:
    """ValueError unless `data` is the coding of `count` positions below `size`."""
    if data.ndim != 1:
        raise ValueError(f"rice codes have one dimension, not shape {data.shape}")
    split = _remainder_bytes(count, bits)
    remainders, unary = data[:split], data[split:]
    if len(remainders) < split:
        raise ValueError(f"{count:,} remainders of {bits} bits take {split:,} bytes, the data has {len(data):,}")
    if count * bits % 8 and int(remainders[-1]) >> count * bits % 8:
        raise ValueError("the padding bits of the remainders are not zero")
    ones = int(BITS_SET[unary].sum(dtype=np.int64))
    if ones != count:
        raise ValueError(f"the positions are those of {ones:,} weights, there are {count:,} values")
    if len(unary) and not unary[-1]:
        raise ValueError("the last byte of the quotients is zero")
    covered = _native.rice_extent(np.ascontiguousarray(data), bits, count)
    if not 0 <= covered <= size:
        raise ValueError(f"the positions cover more than {size:,} elements")
    if size - covered > MAX_RICE_TAIL:
        raise ValueError(
            f"the positions cover {covered:,} of {size:,} elements: only the last {MAX_RICE_TAIL:,} may be left out"
        )


def rice_bytes(positions: Array, size: int, bits: int) -> int:
    """Bytes of the rice codes of increasing `positions` among `size` elements."""
    quotients = int((_gaps(positions, size)[:-1] >> bits).sum())
    return _remainder_bytes(len(positions), bits) + -(-(quotients + len(positions)) // 8)


def best_rice_bits(positions: Array, size: int) -> int:
    """The length of remainders, 0 to MAX_RICE_BITS, that gives the fewest bytes."""
    expected = np.log2(max(1.0, np.log(2) * size / max(1, len(positions))))  # for zeros at random
    around = range(max(0, int(expected) - 1), min(MAX_RICE_BITS, int(expected) + 2) + 1)
    return min(around or (MAX_RICE_BITS,), key=lambda bits: rice_bytes(positions, size, bits))


def _remainder_bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def _tail(positions: Array, size: int) -> int:
    """Zeros after the last position."""
    return size - 1 - int(positions[-1]) if len(positions) else size


def _gaps(positions: Array, size: int) -> Array:
    """Zeros before each position, and after the last: int64 [positions + 1]."""
    return np.diff(positions, prepend=-1, append=size).astype(np.int64, copy=False) - 1
