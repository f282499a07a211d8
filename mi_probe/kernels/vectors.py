"""Instructions that Python has no words for, as LLVM's own: they become AVX-512, AVX2 or NEON, as the machine has it."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = [
    "BROAD",
    "LANES",
    "ROWS",
    "TALL",
    "WIDTH",
    "add_into",
    "broadcast",
    "count_part",
    "mask_of",
    "pointer_to",
    "popcount",
    "take_from",
]

ROWS, LANES = 4, 32
"""Shape of a tile: planes of the first variable by planes of the second one, as they are packed."""

WIDTH = 8
"""Words in a vector."""

_WIDE = not numba.config.CPU_NAME and bool(binding.get_host_cpu_features().get("avx512vpopcntdq"))
# Vectors of sums that are kept in registers at a time: 16 of 32, or, where there are fewer and narrower ones, 4.
_VECTORS = 4 if _WIDE else 2

TALL, BROAD = _VECTORS, _VECTORS * WIDTH
"""Shape of what one call counts."""


def pointer_to(context: Any, builder: Any, signature: Any, arguments: Any, which: int) -> Any:
    """Pointer to the first element of an array argument."""
    return context.make_array(signature.args[which])(context, builder, arguments[which]).data


@intrinsic
def popcount(_context: Any, _word: Any) -> Any:
    """Number of ones in a 64-bit word, as LLVM's own instruction, which it vectorises."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def mask_of(_context: Any, codes: Any, start: Any, code: Any) -> Any:
    """Which of 64 bytes from `start` on equal `code`: a 64-bit word, the first byte in its lowest bit."""

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        byte, count = ir.IntType(8), 64
        vector = ir.VectorType(byte, count)
        place = builder.gep(pointer_to(ctx, builder, signature, arguments, 0), [arguments[1]])
        found = builder.load(builder.bitcast(place, vector.as_pointer()))
        found.align = 1
        wanted = broadcast(builder, arguments[2], byte, count)
        return builder.bitcast(builder.icmp_unsigned("==", found, wanted), ir.IntType(64))

    return types.uint64(codes, types.intp, types.uint8), generate


def broadcast(builder: ir.IRBuilder, value: Any, kind: ir.Type, count: int) -> Any:
    vector = ir.VectorType(kind, count)
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count))


@intrinsic
def count_part(
    _context: Any, rows: Any, row: Any, columns: Any, column: Any, words: Any, out: Any, to: Any, stride: Any
) -> Any:  # fmt: skip
    """out[to + r stride + l] = sum over w of popcount(rows[row + w ROWS + r] & columns[column + w LANES + l]).

    The sums stay in registers over all words: nothing is added up across a vector, and each word that is loaded serves several.
    """
    signature = types.void(rows, types.intp, columns, types.intp, types.intp, out, types.intp, types.intp)

    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        left, right, target = (pointer_to(ctx, builder, signature, arguments, which) for which in (0, 2, 5))
        _, row, _, column, words, _, to, stride = arguments
        word = ir.IntType(64)
        vector, narrow = ir.VectorType(word, WIDTH), ir.VectorType(ir.IntType(32), WIDTH)
        ones = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector]), f"llvm.ctpop.v{WIDTH}i64")
        grid = [(r, n) for r in range(TALL) for n in range(_VECTORS)]

        entry = builder.basic_block
        loop, done = builder.append_basic_block("words"), builder.append_basic_block("sums")
        builder.branch(loop)
        builder.position_at_end(loop)
        w = builder.phi(word)
        w.add_incoming(word(0), entry)
        sums = {at: builder.phi(vector) for at in grid}
        at_column = builder.add(column, builder.mul(w, word(LANES)))
        at_row = builder.add(row, builder.mul(w, word(ROWS)))
        loaded = []
        for n in range(_VECTORS):
            place = builder.gep(right, [builder.add(at_column, word(n * WIDTH))])
            loaded.append(builder.load(builder.bitcast(place, vector.as_pointer())))
            loaded[-1].align = 8
        lefts = [builder.load(builder.gep(left, [builder.add(at_row, word(r))])) for r in range(TALL)]
        wide = [broadcast(builder, one, word, WIDTH) for one in lefts]
        found = {(r, n): builder.add(sums[r, n], builder.call(ones, [builder.and_(wide[r], loaded[n])])) for r, n in grid}
        for at in grid:
            sums[at].add_incoming(ir.Constant(vector, [0] * WIDTH), entry)
            sums[at].add_incoming(found[at], loop)
        after = builder.add(w, word(1))
        w.add_incoming(after, loop)
        builder.cbranch(builder.icmp_signed("<", after, words), loop, done)

        builder.position_at_end(done)
        for r, n in grid:
            place = builder.gep(target, [builder.add(to, builder.add(builder.mul(stride, word(r)), word(n * WIDTH)))])
            stored = builder.store(builder.trunc(found[r, n], narrow), builder.bitcast(place, narrow.as_pointer()))
            stored.align = 4
        return ctx.get_dummy_value()

    return signature, generate


@intrinsic
def add_into(_context: Any, target: Any, to: Any, source: Any, start: Any) -> Any:
    """target[to : to + WIDTH] += source[start : start + WIDTH], for flat arrays of whole numbers; the source is 32-bit."""
    return types.void(target, types.intp, source, types.intp), _change("add")


@intrinsic
def take_from(_context: Any, target: Any, to: Any, source: Any, start: Any) -> Any:
    """The same with a minus."""
    return types.void(target, types.intp, source, types.intp), _change("sub")


def _change(how: str) -> Any:
    def generate(ctx: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        cell = ir.IntType(signature.args[0].dtype.bitwidth)
        kept, added = ir.VectorType(cell, WIDTH), ir.VectorType(ir.IntType(32), WIDTH)
        place = builder.gep(pointer_to(ctx, builder, signature, arguments, 0), [arguments[1]])
        place = builder.bitcast(place, kept.as_pointer())
        other = builder.gep(pointer_to(ctx, builder, signature, arguments, 2), [arguments[3]])
        old, new = builder.load(place), builder.load(builder.bitcast(other, added.as_pointer()))
        old.align, new.align = cell.width // 8, 4
        stored = builder.store(getattr(builder, how)(old, builder.sext(new, kept) if cell.width > 32 else new), place)
        stored.align = old.align
        return ctx.get_dummy_value()

    return generate
