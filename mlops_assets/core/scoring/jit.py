"""Numba where it is installed: the decorator of our kernels, and the flag that says whether it does anything."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

try:
    import numba
    from numba.core import cgutils
    from numba.extending import intrinsic
except ImportError:  # the numpy engines answer the same, slower
    numba = None  # type: ignore[assignment]
    carray: Any = None
    pointer_at: Any = None
else:
    carray = numba.carray  # type: ignore[attr-defined]

    @intrinsic
    def pointer_at(_context: Any, _address: Any) -> Any:
        """In a kernel: the pointer that an address stands for, for `carray`."""

        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], cgutils.voidptr_t)

        return numba.types.voidptr(numba.types.int64), generate


NUMBA = numba is not None

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(function: Kernel) -> Kernel:
    """Compile a kernel on its first call, without the GIL, with the arithmetic of IEEE 754 untouched.

    Machine code is kept beside the source or in numba's user cache; where neither can be written it is made anew in each
    process. A kernel calls only kernels of its own file, since the cache watches no other. Without numba the function is
    returned as it is.
    """
    if numba is None:
        return function
    try:
        return cast(Kernel, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # numba found no folder for its cache
        return cast(Kernel, numba.njit(nogil=True, error_model="numpy")(function))


def c_function(signature: str, function: Callable[..., Any]) -> int:
    """The address of a kernel compiled for one signature, as C would call it; cached as `compiled` does. Numba is needed."""
    try:
        made = numba.cfunc(signature, cache=True, error_model="numpy")(function)
    except RuntimeError:
        made = numba.cfunc(signature, error_model="numpy")(function)
    _C_FUNCTIONS.append(made)
    return cast(int, made.address)


_C_FUNCTIONS: list[Any] = []  # an address is good for as long as its function is there
