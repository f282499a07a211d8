"""Sums over the cells of pairs whose margins are known: from tables read once, or counted and summed in cache."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mi_probe.kernels.threads import Counts, in_threads, jit, ranges, threads_for
from mi_probe.kernels.vectors import WIDTH, broadcast, pointer_to

__all__ = ["cell_sums", "cell_sums_of_codes"]

Sums = tuple[NDArray[np.float64], NDArray[np.float64]]
Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]

_ROOT_HALF = int(np.float64(np.sqrt(0.5)).view(np.int64))
_LN2 = float(np.log(2.0))

# Samples of a pair may be added up in any order, which is the same for any number of threads.
_adding = numba.njit(cache=True, nogil=True, boundscheck=False, fastmath={"reassoc", "contract", "nsz"})


@intrinsic
def _sums_of_one(_context: Any, tables: Any, start: Any, rows: Any, row: Any, columns: Any, column: Any, cells: Any) -> Any:
    """Sum of n ln n and of n (ln n - x - y)^2 over cells, n from tables, x and y from rows and columns, 8 cells at a time.

    ln n without a call, so that it runs on vectors: n = 2^e m with m between the roots of 1/2 and 2; ln m = 2 artanh s with
    s = (m - 1)/(m + 1), at most .172, whose series in s^2 is cut off where it is below 1e-17.
    """
    result = types.containers.UniTuple(types.float64, 2)

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        counts, left, right = (pointer_to(ctx, builder, signature, arguments, which) for which in (0, 2, 4))
        _, start, _, row, _, column, cells = arguments
        word, double, stored = ir.IntType(64), ir.DoubleType(), ir.IntType(signature.args[0].dtype.bitwidth)
        whole, real = ir.VectorType(word, WIDTH), ir.VectorType(double, WIDTH)

        def function(name: str, returns: ir.Type, takes: list[ir.Type]) -> Any:
            return cgutils.get_or_insert_function(builder.module, ir.FunctionType(returns, takes), f"llvm.{name}.v{WIDTH}f64")

        multiply_add = function("fmuladd", real, [real, real, real])

        def fused(a: Any, b: Any, c: Any) -> Any:
            return builder.call(multiply_add, [a, b, c])

        def constant(value: float) -> Any:
            return ir.Constant(real, [float(value)] * WIDTH)

        def integer(value: int) -> Any:
            return ir.Constant(whole, [value] * WIDTH)

        entry = builder.basic_block
        loop, done = builder.append_basic_block("cells"), builder.append_basic_block("sums")
        builder.branch(loop)
        builder.position_at_end(loop)
        cell, joint, spread = builder.phi(word), builder.phi(real), builder.phi(real)

        def load(source: Any, offset: Any, kind: ir.Type, align: int) -> Any:
            place = builder.gep(source, [builder.add(offset, cell)])
            value = builder.load(builder.bitcast(place, ir.VectorType(kind, WIDTH).as_pointer()))
            value.align = align
            return value

        count = load(counts, start, stored, stored.width // 8)
        count = builder.sext(count, whole) if stored.width < 64 else count
        lanes = builder.add(broadcast(builder, cell, word, WIDTH), ir.Constant(whole, list(range(WIDTH))))
        count = builder.select(builder.icmp_signed("<", lanes, broadcast(builder, cells, word, WIDTH)), count, integer(0))
        n = builder.sitofp(count, real)
        bits = builder.bitcast(builder.select(builder.icmp_signed("==", count, integer(0)), constant(1), n), whole)
        exponent = builder.ashr(builder.sub(bits, integer(_ROOT_HALF)), integer(52))
        m = builder.bitcast(builder.sub(bits, builder.shl(exponent, integer(52))), real)
        s = builder.fdiv(builder.fsub(m, constant(1)), builder.fadd(m, constant(1)))
        z = builder.fmul(s, s)
        series = constant(2 / 21)
        for power in range(19, 1, -2):
            series = fused(series, z, constant(2 / power))
        series = fused(builder.fmul(s, z), series, builder.fmul(constant(2), s))
        log = fused(builder.sitofp(exponent, real), constant(_LN2), series)
        off = builder.fsub(builder.fsub(log, load(left, row, double, 8)), load(right, column, double, 8))

        sums = (fused(n, log, joint), fused(builder.fmul(n, off), off, spread))
        for before, after in zip((joint, spread), sums, strict=True):
            before.add_incoming(constant(0), entry)
            before.add_incoming(after, loop)
        following = builder.add(cell, word(WIDTH))
        cell.add_incoming(word(0), entry)
        cell.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, cells), loop, done)

        builder.position_at_end(done)
        across = function("vector.reduce.fadd", double, [double, real])
        return ctx.make_tuple(
            builder, result, [builder.call(across, [double(0), total], fastmath=("reassoc",)) for total in sums]
        )

    return result(tables, types.intp, rows, types.intp, columns, types.intp, types.intp), generate


@jit
def _sums_of_tables(
    tables: Any, cells: int, first_of: Any, second_of: Any, left: Any, right: Any, wide: int,
    first: int, last: int, joint: Any, spread: Any,
) -> None:  # fmt: skip
    for p in range(first, last):
        joint[p], spread[p] = _sums_of_one(tables, p * cells, left, first_of[p] * wide, right, second_of[p] * wide, cells)


@jit
def _sums_by_cells(
    rows: Any, columns: Any, cells: int, first_of: Any, second_of: Any, left: Any, right: Any, wide: int,
    first: int, last: int, joint: Any, spread: Any,
) -> None:  # fmt: skip
    table = np.zeros(wide, dtype=np.int32)
    for p in range(first, last):
        i, j = first_of[p], second_of[p]
        table[:] = 0
        for s in range(rows.shape[1]):
            table[rows[i, s] + columns[j, s]] += 1
        joint[p], spread[p] = _sums_of_one(table, 0, left, i * wide, right, j * wide, cells)


@_adding
def _sums_by_samples(
    rows: Any, columns: Any, cells: int, first_of: Any, second_of: Any, left: Any, right: Any, logs: Any,
    first: int, last: int, joint: Any, spread: Any,
) -> None:  # fmt: skip
    """Each sample adds the logarithm of its own cell. A loop for each step: all but one of them become vectors."""
    samples = rows.shape[1]
    table = np.zeros(cells, dtype=np.uint16)
    where = np.empty(samples, dtype=np.int64)
    found = np.empty(samples)
    for p in range(first, last):
        i, j = first_of[p], second_of[p]
        table[:] = 0
        for s in range(samples):
            where[s] = rows[i, s] + columns[j, s]
        for s in range(samples):
            table[where[s]] += np.uint16(1)
        for s in range(samples):
            found[s] = logs[table[where[s]]]
        total = squares = 0.0
        for s in range(samples):
            total += found[s]
            off = found[s] - left[i, s] - right[j, s]
            squares += off * off
        joint[p], spread[p] = total, squares


def _cell_terms(margins: NDArray[np.integer], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """ln of the first variable's margin less ln n, and of the second one's, for every cell of a table; their padded length."""
    variables, bins = margins.shape
    logs = np.log(np.maximum(margins, 1))
    wide = -(-bins * bins // WIDTH) * WIDTH
    left, right = np.zeros((2, variables, wide))
    left[:, : bins * bins] = np.repeat(logs - np.log(n), bins, axis=1)
    right[:, : bins * bins] = np.tile(logs, (1, bins))
    return left.ravel(), right.ravel(), wide


def cell_sums(tables: Counts, pairs: Pairs, margins: NDArray[np.integer], n: int) -> Sums:
    """Sum of c ln c, and of c ln^2(c n / (a b)), over the cells c of each table; a and b are the cell's margins.

    Parameters
    ----------
    tables : array, shape (pairs, bins, bins), int32 or int64, contiguous
    pairs : two arrays, each of shape (pairs,)
        The variables of each table.
    margins : array, shape (variables, bins)
        Each variable has the same in all of its tables.
    n : int
        Samples in each table, at least 1.

    Returns
    -------
    joint, spread : arrays, shape (pairs,), float64
    """
    count, bins, _ = tables.shape
    left, right, wide = _cell_terms(margins, n)
    joint, spread = np.zeros((2, count))
    flat = tables.reshape(-1)
    direct = count if wide == bins * bins else count - 1  # a vector reaches beyond the last table
    threads = threads_for(tables.size)
    in_threads(
        lambda a, b: _sums_of_tables(flat, bins * bins, *pairs, left, right, wide, a, b, joint, spread),
        ranges(direct, np.ones_like, threads),
        threads,
    )
    if direct < count:
        padded = np.zeros(wide, dtype=tables.dtype)
        padded[: bins * bins] = flat[-bins * bins :]
        _sums_of_tables(padded, bins * bins, pairs[0][-1:], pairs[1][-1:], left, right, wide, 0, 1, joint[-1:], spread[-1:])
    return joint, spread


def cell_sums_of_codes(codes: NDArray[np.uint8], pairs: Pairs, margins: NDArray[np.integer]) -> Sums:
    """The same straight from codes, none of them missing, for few samples: each table lives in the cache, and is never stored.

    Parameters
    ----------
    codes : array, shape (samples, variables), uint8
        0 to bins - 1, at least 1 and fewer than 2^16 samples.
    pairs, margins
        As for `cell_sums`.
    """
    samples = len(codes)
    bins = margins.shape[1]
    cells, count = bins * bins, len(pairs[0])
    columns = np.ascontiguousarray(codes.T).astype(np.int16)
    rows = columns * np.int16(bins)
    joint, spread = np.zeros((2, count))
    threads = threads_for(float(count) * min(samples, cells))
    parts = ranges(count, np.ones_like, threads)
    if samples >= cells:
        left, right, wide = _cell_terms(margins, samples)
        in_threads(
            lambda a, b: _sums_by_cells(rows, columns, cells, *pairs, left, right, wide, a, b, joint, spread), parts, threads
        )
        return joint, spread
    logs = np.log(np.maximum(np.arange(samples + 1.0), 1))
    of_samples = np.take_along_axis(np.log(np.maximum(margins, 1)), columns.astype(np.int64), axis=1)
    in_threads(
        lambda a, b: _sums_by_samples(
            rows, columns, cells, *pairs, of_samples - np.log(samples), of_samples, logs, a, b, joint, spread
        ),
        parts,
        threads,
    )
    return joint, spread
