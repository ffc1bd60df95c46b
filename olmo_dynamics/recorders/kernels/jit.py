"""Loops compiled to machine code: one decorator, one cache folder.

The statistics of a checkpoint are sums over 10⁹ numbers. Plain loops show best what is summed, and numba makes them as fast as
memory. Compiled code is kept in the cache folder, so only the first run on a machine compiles.

    @jit
    def total(values):
        result = 0.0
        for i in range(len(values)):
            result += values[i]
        return result

A compiled function releases the interpreter lock, so that two threads measure two tensors at the same time.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

from olmo_dynamics.settings import cache_dir

Loop = TypeVar("Loop", bound=Callable[..., Any])

_numba_settings: Any = numba.config


def _cache_folder() -> Path:
    """A folder for compiled code, named after a hash of the sources: numba does not notice a change in a callee's file."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return cache_dir() / "numba" / digest.hexdigest()[:16]


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


_FOLDER = _cache_folder()
_CACHED = _can_be_written(_FOLDER)


def is_compiled() -> bool:
    """True if the cache folder holds compiled code of these sources, so that it is loaded and not compiled again."""
    return any(_FOLDER.rglob("*.nbc"))


def is_kept() -> bool:
    """True if the cache folder can be written, so that another process finds what this one compiles."""
    return _CACHED


def jit(loop: Loop) -> Loop:
    """Compile a function on its first call; sums may be reordered, NaN and infinities keep their IEEE meaning."""
    return _compiled(loop, {"reassoc", "contract"})


def jit_in_order(loop: Loop) -> Loop:
    """Compile a function on its first call, for arithmetic whose rounding is meant: operations keep their order."""
    return _compiled(loop, {"contract"})


def _compiled(loop: Loop, fastmath: set[str]) -> Loop:
    compile_ = numba.njit(cache=_CACHED, nogil=True, error_model="numpy", fastmath=fastmath)
    before = _numba_settings.CACHE_DIR
    _numba_settings.CACHE_DIR = before or str(_FOLDER)  # numba's own default lies beside the source
    try:
        # unwrap: a checker of shapes may have wrapped the function, and numba must see the loop itself
        return cast(Loop, compile_(inspect.unwrap(loop)))
    finally:
        _numba_settings.CACHE_DIR = before


def _float32_of(_: Any, bits: Any) -> tuple[Any, Callable[..., Any]]:
    def bitcast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return types.float32(types.uint32), bitcast


float32_of: Callable[[np.uint32], np.float32] = cast(Any, intrinsic(_float32_of))
"""Inside a compiled loop: the float32 with these 32 bits, in a register (a view of an array would go by memory)."""


def _bits_of(_: Any, number: Any) -> tuple[Any, Callable[..., Any]]:
    def bitcast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return types.uint32(types.float32), bitcast


bits_of: Callable[[np.float32], np.uint32] = cast(Any, intrinsic(_bits_of))
"""Inside a compiled loop: the 32 bits of a float32, in a register."""


def _prefetch(_: Any, array: Any, place: Any) -> tuple[Any, Callable[..., Any]]:
    def ask(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        found: Any = cgutils.get_or_insert_function
        asked = found(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(asked, [address, *(ir.Constant(number, each) for each in (0, 3, 1))])  # read, keep near, data
        return context.get_dummy_value()

    return types.none(array, types.intp), ask


prefetch: Callable[[np.ndarray, int], None] = cast(Any, intrinsic(_prefetch))
"""Inside a compiled loop: ask for the memory at this place of an array, which may lie beyond its end, and do not wait for it."""
