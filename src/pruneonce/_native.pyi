"""
Kernels of the encoder. Activations are feature-major: [features, tokens], tokens contiguous.
"""

from typing import Annotated, overload

import numpy
from numpy.typing import NDArray


def available_isas() -> list[str]:
    """Instruction sets of this build that this processor has, fastest last."""

def choose_isa(isa: str | None = None) -> str:
    """
    The instruction set in use: `isa`, else $PRUNEONCE_ISA, else the fastest available.

    ValueError if it is unknown, or this processor lacks it.
    """

def num_threads() -> int:
    """
    Threads in use, the calling one included. At first $PRUNEONCE_THREADS, else `granted_cores()`.

    ValueError if the variable is no number of 1 to 1024.
    """

def set_num_threads(count: int) -> None:
    """
    Use `count` threads, the calling one included, from the next call on. Callers at once share them.
    """

def granted_cores() -> int:
    """
    Processors this process may keep busy: its affinity, or fewer by the quotas of its control groups, rounded up.
    """

def quota_cores(groups: str = '/proc/self/cgroup', root: str = '/sys/fs/cgroup') -> int:
    """
    Processors that control groups of version 1 or 2 grant, rounded up; 0 where they set no limit.
    """

def l1_bytes() -> int:
    """Of a core's data cache on this machine, which tiles follow."""

def borrow_threads(gomp_parallel: int) -> None:
    """
    Compute on the threads of an OpenMP library from now on: the address of its GOMP_parallel; 0: on our own again.
    """

def keep_freed_memory() -> None:
    """
    Keep freed memory in the process: for loops that allocate the same large arrays again and again. For glibc.
    """

def run_multiply_adds(iterations: int, *, isa: str | None = None) -> float:
    """
    Multiply and add on registers alone, on every thread; returns the floating point operations done.

    Timed, it gives the processor's peak, against which the kernels are measured.
    """

class Activations:
    """
    [features, tokens] in panels of tokens; not for use by two threads at once.
    """

    def __init__(self, features: int, *, isa: str | None = None) -> None: ...

    @property
    def features(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def isa(self) -> str: ...

    def load(self, rows: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)]) -> None:
        """Take over [tokens, features], float32."""

    def store(self, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """Write [tokens, features], float32."""

    def take(self, tokens: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
        """Keep only these tokens: int64, rising."""

class Codes:
    """Activations as 8-bit codes; not for use by two threads at once."""

    def __init__(self, *, isa: str | None = None) -> None: ...

    @property
    def features(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def isa(self) -> str: ...

    @overload
    def quantize(self, x: Activations, weight: Int8Weight) -> None: ...

    @overload
    def quantize(self, x: Activations, weight: Int8DenseWeight) -> None:
        """
        Take over x as `weight` wants it: round(x / input scale) + zero point, cut to 0 .. 255, halves to the even number.
        """

@overload
def multiply(weight: PackedWeight, x: Activations, *, out: Activations, bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, residual: Activations | None = None, nonlinearity: str = 'none') -> None: ...

@overload
def multiply(weight: DenseWeight, x: Activations, *, out: Activations, bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, residual: Activations | None = None, nonlinearity: str = 'none') -> None: ...

@overload
def multiply(weight: Int8Weight, x: Codes, *, out: Activations, bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, residual: Activations | None = None, nonlinearity: str = 'none') -> None: ...

@overload
def multiply(weight: Int8DenseWeight, x: Codes, *, out: Activations, bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, residual: Activations | None = None, nonlinearity: str = 'none') -> None:
    """
    out = nonlinearity(weight · x + bias + residual).

    bias: float32 [rows]; nonlinearity: none, gelu, gelu_tanh, relu or silu. `out` takes x's number of tokens.
    """

@overload
def multiply_to_codes(weight: Int8Weight, x: Codes, *, out: Codes, next: Int8Weight, bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, nonlinearity: str = 'none') -> None: ...

@overload
def multiply_to_codes(weight: Int8Weight, x: Codes, *, out: Codes, next: Int8DenseWeight, bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, nonlinearity: str = 'none') -> None: ...

@overload
def multiply_to_codes(weight: Int8DenseWeight, x: Codes, *, out: Codes, next: Int8Weight, bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, nonlinearity: str = 'none') -> None: ...

@overload
def multiply_to_codes(weight: Int8DenseWeight, x: Codes, *, out: Codes, next: Int8DenseWeight, bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, nonlinearity: str = 'none') -> None:
    """
    out = nonlinearity(weight · x + bias), quantised as `next` wants its input.

    The same codes as those of `multiply` and `quantize`, but floats never leave the caches.
    """

def attention(qkv: Activations, *, starts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], heads: int, window: int = 0, bias: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None, scored: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, mixed: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, out: Activations) -> None:
    """
    out = softmax(Kᵀ Q / sqrt(head size)) on V, per sequence and head.

    qkv: [3 · hidden, tokens]; starts: int64 [sequences + 1], first tokens and the end.
    window: so many tokens on either side are seen; 0: all. bias: float32 [heads, 2 · reach + 1], added to scores by
    how far a key lies behind its query, -reach ... reach; those beyond take the last.
    scored, mixed: int64 [heads], how many of a head's features count, its first ones, of queries and keys and of
    values; the others are the same for all tokens. None: all.
    """

def int8_attention(qkv: Activations, *, starts: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], heads: int, scales: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], zero_points: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], scored: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, out: Activations) -> None:
    """
    As `attention`, in whole numbers of 8 bits.

    scales, zero_points: float32 [3] and uint8 [3], of the codes of queries, keys and values; a key's weight is
    round(255 · e^(score - the largest)) over the sum of these.
    """

def gate(gate_up: Activations, *, out: Activations, nonlinearity: str) -> None:
    """
    out = nonlinearity(gate) · up; gate_up: [2 · features, tokens], the gates first.
    """

def copy(from_: Activations, *, to: Activations) -> None:
    """to = from_."""

def rotate(qkv: Activations, *, positions: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], heads: int, cosines: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], sines: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)]) -> None:
    """
    Turn queries and keys by their positions, in place.

    qkv: [3 · hidden, tokens]; positions: int64 [tokens]; cosines, sines: float32 [positions, head size / 2].
    """

def embed(words: Annotated[NDArray, dict(shape=(None, None), order='C', device='cpu', writable=False)], type: str, *, scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, positions: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None, types: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None, token_ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], position_ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], token_types: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Activations) -> None:
    """
    out = rows of words, positions and types, added up; nothing else of the tables is read.

    words: [vocabulary, hidden] as `type` says: float32 of fp32, uint16 bits of fp16 and bf16, int8 times scale
    (float32 [vocabulary]); positions, types: float32 [any, hidden]; the numbers: int64 [tokens].
    """

def layer_norm(x: Activations, *, scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], shift: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], epsilon: float) -> None:
    """
    Normalise each token of x over its features, in place; scale, shift: float32 [features].
    """

class PackedWeight:
    """A sparse matrix, packed for this processor."""

    def __init__(self, row_ptr: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], col: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], values: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], *, cols: int, isa: str | None = None, l1_bytes: int | None = None, threads: int | None = None) -> None:
        """
        Pack compressed sparse rows.

        row_ptr: int64 [rows + 1]; col: int32 [non-zeros], rising within a row; values: float32 [non-zeros].
        isa, l1_bytes, threads: of the machine that it is packed for, else $PRUNEONCE_ISA and what is found here.
        ValueError says which rule is broken.
        """

    @property
    def rows(self) -> int: ...

    @property
    def cols(self) -> int: ...

    @property
    def nonzeros(self) -> int: ...

    @property
    def isa(self) -> str: ...

    @property
    def nbytes(self) -> int:
        """Memory it takes, in bytes."""

class DenseWeight:
    """A dense matrix, packed for this processor."""

    def __init__(self, weight: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], *, isa: str | None = None) -> None:
        """weight: float32 [rows, cols]."""

    @property
    def rows(self) -> int: ...

    @property
    def cols(self) -> int: ...

    @property
    def isa(self) -> str: ...

    @property
    def nbytes(self) -> int:
        """Memory it takes, in bytes."""

class Int8Weight:
    """A sparse matrix of 8-bit weights, packed for this processor."""

    def __init__(self, row_ptr: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], col: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], values: Annotated[NDArray[numpy.int8], dict(shape=(None,), order='C', device='cpu', writable=False)], scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], *, cols: int, input_scale: float, input_zero_point: int, fours: str = 'any', isa: str | None = None, l1_bytes: int | None = None, threads: int | None = None) -> None:
        """
        Pack compressed sparse rows: weight = values · scale[row]; x = (code - zero point) · input scale.

        row_ptr: int64 [rows + 1]; col: int32 [non-zeros], rising within a row; values: int8 [non-zeros];
        scale: float32 [rows]. fours: which weights of a row are computed together, `any`, or those of four
        `neighbours`, for zeros in blocks. isa, l1_bytes, threads: of the machine that it is packed for, else what is
        found here. ValueError says which rule is broken.
        """

    @property
    def rows(self) -> int: ...

    @property
    def cols(self) -> int: ...

    @property
    def nonzeros(self) -> int: ...

    @property
    def stored(self) -> int:
        """Weights in fours, zeros that fill them included."""

    @property
    def isa(self) -> str: ...

    @property
    def nbytes(self) -> int:
        """Memory it takes, in bytes."""

class Int8DenseWeight:
    """A dense matrix of 8-bit weights, packed for this processor."""

    def __init__(self, weight: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], *, input_scale: float, input_zero_point: int, isa: str | None = None) -> None:
        """
        weight: int8 [rows, cols]; scale: float32 [rows]. ValueError for scales that mean nothing.
        """

    @property
    def rows(self) -> int: ...

    @property
    def cols(self) -> int: ...

    @property
    def isa(self) -> str: ...

    @property
    def nbytes(self) -> int:
        """Memory it takes, in bytes."""

def decode_rice(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], bits: int, *, out: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu')]) -> None:
    """
    Write the positions that the rice codes of docs/format.md stand for: uint8 [bytes] to int32 [positions].
    """

def rice_extent(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], bits: int, count: int) -> int:
    """
    How many elements `count` rice codes cover; -1 if the data does not hold them, or a position passes 2^31 - 1.
    """

class SparseLinear:
    """The zeros of a matrix in training; the values are the caller's."""

    def __init__(self, row_ptr: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], col: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], *, cols: int, isa: str | None = None, l1_bytes: int | None = None, threads: int | None = None) -> None:
        """
        Pack a pattern for both directions.

        row_ptr: int64 [rows + 1]; col: int32 [non-zeros], rising within a row. isa, l1_bytes, threads: of the machine
        that it is packed for, else what is found here. ValueError says which rule is broken.
        """

    @property
    def rows(self) -> int: ...

    @property
    def cols(self) -> int: ...

    @property
    def nonzeros(self) -> int: ...

    @property
    def isa(self) -> str: ...

    @property
    def nbytes(self) -> int:
        """Memory it takes, in bytes."""

    def forward(self, values: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], *, y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """
        y = x · Wᵀ + bias. values: float32 [non-zeros], row by row; x: [tokens, cols]; y: [tokens, rows].
        """

    def backward(self, values: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], dy: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], *, dx: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None = None, dvalues: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')] | None = None, dbias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')] | None = None) -> None:
        """
        dx = dy · W, dvalues = dyᵀ · x at the non-zeros, dbias = the sum of dy; what is None is not computed.
        """

def attend(q: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], k: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], v: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], lengths: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], *, scale: float, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu')], isa: str | None = None) -> None:
    """
    out = softmax(q kᵀ · scale) v, per sequence and head, for training.

    q, k, v, out: float32 [sequences, tokens, heads, head size], the last a multiple of 16; lengths: int64
    [sequences], real tokens of each. Others are not read, and 0 is written for them.
    """

def attend_backward(q: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], k: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], v: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], lengths: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], *, scale: float, dout: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], dq: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu')], dk: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu')], dv: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu')], isa: str | None = None) -> None:
    """Gradients of `attend`; shapes as there."""
