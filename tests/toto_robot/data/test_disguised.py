"""What a download left instead of the file is named, by every reader of data."""

import pytest

from toto_robot.data.arrays import read_npz
from toto_robot.data.images import read_image
from toto_robot.data.tables import read_rows
from toto_robot.data.video import read_frames

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 123456\n" % (b"a" * 64)
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
READERS = {
    "clip.mp4": lambda path: read_frames(path),
    "table.parquet": read_rows,
    "image.png": read_image,
    "episode.npz": read_npz,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("data", "told"),
    [
        (POINTER, r"Git LFS pointer.*123,456 bytes.*git lfs pull"),
        (PAGE, "web page"),
        (b"", "empty"),
    ],
)
def test_what_a_download_left_is_named(tmp_path, name, data, told) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=told):
        READERS[name](path)
