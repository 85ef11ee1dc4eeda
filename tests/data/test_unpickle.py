"""The official python batches are pickles; a pickle is a program, and this one may only build data."""

import contextlib
import os
import pickle
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallvit.data.unpickle import load

ARRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)
plain = st.recursive(
    st.integers() | st.text() | st.binary() | st.none() | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), plain), st.integers(0, 4))
def test_plain_data_comes_back(value: dict[str, object], protocol: int) -> None:
    assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i4", "<i8", "<f4", ">f8", "bool"])
def test_numeric_arrays_come_back(protocol: int, dtype: str) -> None:
    for array in (ARRAY.astype(dtype), np.asfortranarray(ARRAY.astype(dtype)), ARRAY[:0].astype(dtype)):
        found = load(pickle.dumps({"data": array}, protocol))["data"]
        assert type(found) is np.ndarray
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)


def python2(entries: dict[bytes, bytes]) -> bytes:
    """A dictionary as Python 2 pickled it at protocol 2; the values are given as opcodes."""
    body = b"".join(b"U" + bytes([len(key)]) + key + value for key, value in entries.items())
    return b"\x80\x02}q\x01(" + body + b"u."


def python2_array(array: np.ndarray) -> bytes:
    rows, columns = array.shape
    data = array.tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + (b"K" + bytes([rows]) + b"K" + bytes([columns]) + b"\x86")
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + (b"T" + struct.pack("<i", len(data)) + data)
        + b"tb"
    )


def test_a_pickle_of_python_2_comes_back() -> None:
    labels = b"](K\x02K\x00K\x01e"
    written = python2({b"data": python2_array(ARRAY), b"labels": labels, b"batch_label": b"U\x03a\xffb"})
    found = load(written)
    assert np.array_equal(found["data"], ARRAY)
    assert np.array_equal(found["data"], pickle.loads(written, encoding="bytes")[b"data"])
    assert found["labels"] == [2, 0, 1]
    assert found["batch_label"] == b"a\xffb"


class Calls:
    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {}",)),
        (eval, ("open({!r}, 'w')",)),
        (subprocess.check_call, (["touch", "{}"],)),
        (getattr, ("x", "upper")),
        (np.load, ("{}",)),
        (bytearray, (5,)),
    ],
)
def test_a_pickle_that_wants_to_call_something_is_refused_and_does_not(
    tmp_path: Path, protocol: int, function: object, arguments: tuple[object, ...]
) -> None:
    target = tmp_path / "was-here"
    filled = [a.format(str(target)) if isinstance(a, str) else a for a in arguments]
    with pytest.raises(pickle.UnpicklingError, match="it wants to call "):
        load(pickle.dumps({"data": Calls(function, *filled)}, protocol))
    assert not target.exists()


@pytest.mark.parametrize("dtype", ["O", "U4", "S4", "M8[s]", "V8", [("a", "u1")]])
def test_arrays_of_other_things_than_numbers_are_refused(dtype: object) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load(pickle.dumps({"data": np.zeros(2, dtype=dtype)}, 2))


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00base64\x86R.",
        b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",  # bytes(2147483647) would fill the memory
        # Two tries to replace a stand-in's method, which would return it in a dictionary.
        b"\x80\x02}U\x01ac__builtin__\nbytes\n}X\x08\x00\x00\x00__call__K\x01sbs.",
        b"\x80\x02}U\x01ac__builtin__\nbytes\nN}X\x08\x00\x00\x00__call__K\x01s\x86bs.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x02cbuiltins\nbytes.fromhex\n.",
        b"\x80\x02(cos\nsystem\nU\x04true\x85R.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02U\x01aQ.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02K\x05.",
        b"\x80\x02]K\x01a.",
        b"",
        b"hello",
    ],
)
def test_hostile_and_broken_programs_end_in_an_error(program: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load(program)
    assert load(pickle.dumps({"a": b""}, 2)) == {"a": b""}  # the stand-ins are as they were


def test_every_cut_of_a_pickle_is_an_error() -> None:
    whole = pickle.dumps({"data": ARRAY, "labels": [1, 2]}, 2)
    for length in range(len(whole)):
        with pytest.raises(pickle.UnpicklingError):
            load(whole[:length])


@given(st.binary(max_size=60))
def test_random_bytes_never_do_more_than_fail(noise: bytes) -> None:
    with contextlib.suppress(pickle.UnpicklingError):
        load(b"\x80\x02" + noise)


def test_a_shape_that_does_not_fit_its_bytes_is_refused() -> None:
    written = pickle.dumps({"data": ARRAY}, 2).replace(b"K\x03K\x04\x86", b"K\x09K\x09\x86")
    with pytest.raises(pickle.UnpicklingError):
        load(written)
