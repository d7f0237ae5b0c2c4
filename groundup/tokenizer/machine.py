"""What the compiled loops are made of: a decorator that compiles and keeps on disk, and single machine instructions as functions.

Addresses are ``int64``, for numba makes floats of signed and unsigned integers added. The loops work on raw memory that their callers
own: arrays handed to a compiled function are counted at every call, slices at every use, and both cost more than a token does.

Vectors are 64 bytes wide, for one bit a byte then fills a machine word; LLVM splits them to what the processor has. No instruction here
belongs to one kind of processor.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba import njit, types
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES = ir.VectorType(_I8, 64)

SOURCES = ("machine.py", "classes.py", "matching.py", "rules.py", "scan.py", "pretokens.py", "merge_loops.py", "crossings.py", "engine.py")
"""The files whose compiled functions call each other."""


def _stamp() -> str:
    digest = hashlib.sha256()
    for name in SOURCES:
        path = Path(__file__).with_name(name)
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


_STAMP = _stamp()


def compiled(signature: Any) -> Callable[[Callable], Any]:
    """Compiles a function for one signature, without Python's lock, and keeps the machine code on disk for the next process.

    Numba keeps it beside the source, or in the user's cache folder where that is read-only; where there is neither, in a temporary folder
    of the user's own, for it is code that will be run.
    Kept code is used again only while none of SOURCES has changed: by itself numba would look at the function's own file alone.
    """

    def compile_it(function: Callable) -> Any:
        dispatcher = njit(nogil=True, boundscheck=False, error_model="numpy")(function)
        try:
            dispatcher.enable_caching()
        except RuntimeError:  # no folder to keep it in
            if folder := _own_temporary_folder():
                numba.config.CACHE_DIR = folder
                dispatcher.enable_caching()
        files = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
        if files is not None:
            files._source_stamp = _STAMP
        dispatcher.compile(signature)
        dispatcher.disable_compile()
        return dispatcher

    return compile_it


def _own_temporary_folder() -> str | None:
    """A temporary folder that lasts longer than the process and that nobody else can write; None where another's is in its place."""
    user = os.getuid() if hasattr(os, "getuid") else None
    folder = Path(tempfile.gettempdir()) / f"groundup-compiled-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    return str(folder) if user is None or (found.st_uid == user and not found.st_mode & 0o022 and folder.is_dir()) else None


loop = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Compiles a function that only compiled functions call, together with them."""


def _pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.inttoptr(address, kind.as_pointer())


def _load(bits: int, result: types.Type) -> Any:
    def load(typing, address):
        """The value at an address of any alignment."""

        def generate(context, builder, signature, arguments):
            value = builder.load(_pointer(builder, arguments[0], ir.IntType(bits)))
            value.align = 1
            return value if bits == 64 else builder.zext(value, _I64)

        return result(types.int64), generate

    return intrinsic(load)


def _store(bits: int, value_type: types.Type) -> Any:
    def store(typing, address, value):
        """Stores the low bits of a value at an address of any alignment."""

        def generate(context, builder, signature, arguments):
            value = arguments[1] if bits == 64 else builder.trunc(arguments[1], ir.IntType(bits))
            done = builder.store(value, _pointer(builder, arguments[0], ir.IntType(bits)))
            done.align = 1
            return context.get_dummy_value()

        return types.void(types.int64, value_type), generate

    return intrinsic(store)


load8, load32, load_int = (_load(bits, types.int64) for bits in (8, 32, 64))
load64 = _load(64, types.uint64)
store8, store16, store32, store64 = _store(8, types.int64), _store(16, types.int64), _store(32, types.int64), _store(64, types.uint64)


def _copy(n: int) -> Any:
    kind = ir.VectorType(_I8, n)

    def copy(typing, target, source):
        """Copies n bytes in one move."""

        def generate(context, builder, signature, arguments):
            value = builder.load(_pointer(builder, arguments[1], kind))
            value.align = 1
            done = builder.store(value, _pointer(builder, arguments[0], kind))
            done.align = 1
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return intrinsic(copy)


copy16, copy64 = _copy(16), _copy(64)


_HALF = ir.VectorType(_I8, 16)


def _load16(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    vector = builder.load(_pointer(builder, address, _HALF))
    vector.align = 1
    return vector


def _store16(builder: ir.IRBuilder, address: ir.Value, vector: ir.Value) -> None:
    builder.store(vector, _pointer(builder, address, _HALF)).align = 1


@intrinsic
def keep_and_add16(typing, target, source, kept, added):
    """Writes (source & kept) | added, 16 bytes of each."""

    def generate(context, builder, signature, arguments):
        value, mask, more = (_load16(builder, address) for address in arguments[1:])
        _store16(builder, arguments[0], builder.or_(builder.and_(value, mask), more))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def equal16(typing, a, b):
    """Whether 16 bytes at two addresses are the same."""

    def generate(context, builder, signature, arguments):
        a, b = (_load16(builder, address) for address in arguments)
        different = builder.bitcast(builder.icmp_unsigned("!=", a, b), ir.IntType(16))
        return builder.icmp_unsigned("==", different, ir.IntType(16)(0))

    return types.boolean(types.int64, types.int64), generate


@intrinsic
def copy_but16(typing, target, source, place):
    """Copies 16 bytes, the one at a place that is written as a number as 0."""
    if not isinstance(place, types.IntegerLiteral):
        raise RequireLiteralValue(place)
    kept = [0 if i == place.literal_value else 255 for i in range(16)]

    def generate(context, builder, signature, arguments):
        value = builder.and_(_load16(builder, arguments[1]), ir.Constant(_HALF, kept))
        _store16(builder, arguments[0], value)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, place), generate


@intrinsic
def prefetch(typing, address):
    """Asks for the cache line at an address, to be there when it is read."""

    def generate(context, builder, signature, arguments):
        byte = _I8.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
        builder.call(function, [builder.inttoptr(arguments[0], byte), _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def lowest(typing, word):
    """The position of the lowest set bit; 64 if there is none."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def highest(typing, word):
    """The position of the highest set bit of a word that is not 0."""

    def generate(context, builder, signature, arguments):
        zeros = builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))
        return builder.sub(_I64(63), zeros)

    return types.int64(types.uint64), generate


@intrinsic
def n_set(typing, word):
    """How many bits are set."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


def _all(byte: int) -> ir.Constant:
    return ir.Constant(_BYTES, [byte] * 64)


def _load_bytes(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    vector = builder.load(_pointer(builder, address, _BYTES))
    vector.align = 1
    return vector


def _among(builder: ir.IRBuilder, vector: ir.Value, first: int, n: int) -> ir.Value:
    return builder.icmp_unsigned("<", builder.sub(vector, _all(first)), _all(n))


def _splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    one = builder.insert_element(ir.Constant(_BYTES, ir.Undefined), builder.trunc(value, _I8), _I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_I32, 64), [0] * 64))


@intrinsic
def bytes_equal(typing, address, byte):
    """One bit for each of the 64 bytes at an address: whether it is the given one."""

    def generate(context, builder, signature, arguments):
        equal = builder.icmp_unsigned("==", _load_bytes(builder, arguments[0]), _splat(builder, arguments[1]))
        return builder.bitcast(equal, _I64)

    return types.uint64(types.int64, types.int64), generate


@intrinsic
def bytes_with(typing, address, bits):
    """One bit for each of the 64 bytes at an address: whether it has any of the given bits."""

    def generate(context, builder, signature, arguments):
        kept = builder.and_(_load_bytes(builder, arguments[0]), _splat(builder, arguments[1]))
        return builder.bitcast(builder.icmp_unsigned("!=", kept, _all(0)), _I64)

    return types.uint64(types.int64, types.int64), generate


@intrinsic
def classify_ascii(typing, target, source):
    """Writes the classes (see ``classes``) of 64 bytes, as if all were ASCII; returns one bit for each that is not."""
    from groundup.tokenizer.classes import BLANK, HARD, LETTER, NUMBER, UPPER, WHITE

    def generate(context, builder, signature, arguments):
        v = _load_bytes(builder, arguments[1])
        classes = _all(0)
        for inside, bits in (
            (_among(builder, builder.or_(v, _all(32)), ord("a"), 26), LETTER),
            (_among(builder, v, ord("A"), 26), UPPER),
            (_among(builder, v, ord("0"), 10), NUMBER),
            (builder.icmp_unsigned("<", v, _all(32)), HARD),
            (builder.icmp_unsigned("==", v, _all(127)), HARD),
            (builder.icmp_unsigned("==", v, _all(32)), BLANK | WHITE),
        ):
            classes = builder.or_(classes, builder.select(inside, _all(bits), _all(0)))
        classes = builder.select(_among(builder, v, 9, 5), _all(WHITE), classes)
        done = builder.store(classes, _pointer(builder, arguments[0], _BYTES))
        done.align = 1
        return builder.bitcast(builder.icmp_signed("<", v, _all(0)), _I64)

    return types.uint64(types.int64, types.int64), generate
