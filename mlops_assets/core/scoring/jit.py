"""Numba where it is installed: the decorator of our kernels, and the flag that says whether it does anything."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

try:
    import numba
except ImportError:  # the numpy engines answer the same, slower
    numba = None  # type: ignore[assignment]

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
