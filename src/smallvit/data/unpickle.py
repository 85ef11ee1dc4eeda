"""An unpickler that builds data and calls nothing: numbers, strings, bytes, lists, dicts and plain numeric arrays.

A pickle names the functions it wants called. Here every name it may use stands for a class of this module, so not
even NumPy's own reconstruction code runs; any other name is refused. Pickles of Python 2 (the official CIFAR
batches) and of Python 3 at every protocol up to 4 are read.
"""

import io
import pickle
from typing import Any, ClassVar

import numpy as np

_DTYPES = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")


class _Dtype:
    """Stands for a numpy.dtype; its state is the byte order, at index 1."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])
        if self.order not in ("|", "<", ">", "="):
            raise pickle.UnpicklingError(f"byte order {self.order!r}")

    def resolve(self) -> np.dtype[Any]:
        return np.dtype(self.order.replace("|", "") + self.code)


class _Array:
    """Stands for a numpy.ndarray; its state is (version, shape, dtype, Fortran order, raw bytes)."""

    __slots__ = ("array",)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        if not (isinstance(dtype, _Dtype) and isinstance(raw, bytes)):
            raise pickle.UnpicklingError("an array that is not plain numbers")
        self.array = np.frombuffer(raw, dtype.resolve()).reshape(shape, order="F" if fortran else "C")


class _Reconstruct:
    """Stands for numpy's `_reconstruct`, which makes the empty array whose state follows."""

    __slots__ = ()

    def __call__(self, *_: object) -> _Array:
        return _Array()


class _MakeDtype:
    """Stands for `numpy.dtype`."""

    __slots__ = ()

    def __call__(self, code: str | bytes, *_: object) -> _Dtype:
        if _text(code) not in _DTYPES:
            raise pickle.UnpicklingError(f"an array of {_text(code)!r}")
        return _Dtype(_text(code))


class _Encode:
    """Stands for `_codecs.encode`: Python 3 writes bytes as Latin-1 text below protocol 3."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        if _text(encoding) != "latin1":
            raise pickle.UnpicklingError(f"bytes as {encoding!r}")
        return text.encode("latin1")


class _EmptyBytes:
    """Stands for `bytes()`: how Python 3 writes b"" below protocol 3."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


class _Name:
    """Stands for a class that is only passed on, such as `numpy.ndarray`."""

    __slots__ = ()


class _DataUnpickler(pickle.Unpickler):
    admitted: ClassVar[dict[tuple[str, str], object]] = {
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy", "ndarray"): _Name(),
        ("numpy", "dtype"): _MakeDtype(),
        ("_codecs", "encode"): _Encode(),
        ("__builtin__", "bytes"): _EmptyBytes(),
        ("builtins", "bytes"): _EmptyBytes(),
    }

    def find_class(self, module: str, name: str) -> object:
        """Return the stand-in of an admitted name."""
        if (module, name) not in self.admitted:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}")
        return self.admitted[module, name]


def load(data: bytes) -> dict[str, Any]:
    """Return the pickled dictionary, keys as text, arrays as numpy arrays; pickle.UnpicklingError says why not."""
    try:
        found = _DataUnpickler(io.BytesIO(data), encoding="bytes").load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a broken pickle raises almost anything
        raise pickle.UnpicklingError(f"it is cut short or broken: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, not a dictionary")
    entries: dict[Any, Any] = found
    return {_text(key): getattr(value, "array", value) for key, value in entries.items()}


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise pickle.UnpicklingError(f"a {type(value).__name__} where text belongs")
