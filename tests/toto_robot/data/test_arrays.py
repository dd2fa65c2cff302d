"""NumPy's archives that are none, cut off, or that lie about what they hold."""

import io
import os
import re
import zipfile

import numpy as np
import pytest
from numpy.lib import format as numpy_format

from toto_robot.data.arrays import read_npz


def cut(path):
    np.savez(path, a=np.arange(100))
    os.truncate(path, path.stat().st_size // 2)


def plain_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled(path):
    np.savez(path, a=np.array([{}], object))


def damaged_inside(path):
    np.savez_compressed(path, a=np.random.default_rng(0).normal(size=1000))
    data = bytearray(path.read_bytes())
    data[200:400] = b"\xff" * 200
    path.write_bytes(data)


def absurd_shape(path):
    header = io.BytesIO()
    said = {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
    numpy_format.write_array_header_1_0(header, said)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", header.getvalue())


def other_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cut, "not an npz archive, or truncated"),
        (plain_array, "not an npz archive"),
        (lambda path: path.write_text("<!DOCTYPE html>"), "not an npz archive"),
        (lambda path: path.write_bytes(b""), "not an npz archive"),
        (pickled, "holds pickled objects"),
        (damaged_inside, "is damaged"),
        (absurd_shape, "is damaged"),
        (other_zip, "are not arrays"),
        (os.mkfifo, "not a regular file"),
        (os.mkdir, "not a regular file"),
    ],
)
def test_what_is_wrong_with_an_archive_is_said(tmp_path, make, message):
    path = tmp_path / "a.npz"
    make(path)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} .*{message}"):
        read_npz(path)


def test_the_arrays_come_by_their_names(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.float32(2))
    arrays = read_npz(tmp_path / "a.npz")
    assert {name: array.tolist() for name, array in arrays.items()} == {"a": [0, 1, 2], "b": 2.0}
