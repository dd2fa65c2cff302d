"""Image files: what follows an image is left, what is cut off or absurd is refused by name."""

import json
import struct
import zlib

import cv2
import numpy as np
import pytest

from toto_robot.data.decode import DecodeConfig, decode
from toto_robot.data.images import decode_image, read_image
from toto_robot.data.shards import Source
from toto_robot.generate import read_prompt

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
IMAGE = cv2.resize(IMAGE, (72, 48), interpolation=cv2.INTER_LINEAR)
# what a phone adds to a motion photo: a film with markers of JPEG's own in it
TAIL = b"\x00\x00\x00\x18ftypmp42" + b"\xff\xd8\xff\xe0\x00\x10JFIF\xff\xda\x00\x08" * 50


def coded(suffix, *options):
    return cv2.imencode(suffix, IMAGE[..., ::-1], options)[1].tobytes()


def png(width, height):
    """Return a PNG whose header says this size, and whose data is that of one row of black."""

    def chunk(name, data):
        whole = name + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


CODED = {
    "png": coded(".png"),
    "jpeg": coded(".jpg"),
    "progressive": coded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": coded(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    "bmp": coded(".bmp"),
    "webp": coded(".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
}


@pytest.mark.parametrize("name", CODED)
def test_data_after_the_end_is_left(name):
    data = CODED[name]
    expected = decode_image(data)
    assert np.abs(expected.astype(int) - IMAGE).mean() < 20
    assert np.array_equal(decode_image(data + TAIL), expected)


@pytest.mark.parametrize("name", ["png", "jpeg", "progressive", "restarts"])
def test_an_image_that_is_cut_off_is_refused_wherever_it_is_cut(name):
    data = CODED[name]
    for share in (0.1, 0.3, 0.6, 0.9, 0.99):
        with pytest.raises(ValueError, match="not a readable image"):
            decode_image(data[: int(share * len(data))])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(40000, 30000), "its header states 40000 x 30000 pixels"),
        (png(2**31 - 1, 2**31 - 1), "2147483647 x 2147483647 pixels"),
        (
            CODED["bmp"][:18] + struct.pack("<ii", 60000, -60000) + CODED["bmp"][26:],
            "60000 x 60000",
        ),
        (png(0, 10), "not a readable image"),
        (b"", "not a readable image"),
        (b"\xff\xd8", "truncated after 2 bytes"),
        (b"\x89PNG\r\n\x1a\n", "truncated after 8 bytes"),
        (b"BM", "not a readable image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a readable image"),
    ],
)
def test_what_no_decoder_takes_is_the_fault_of_the_file(tmp_path, data, reason):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.png: .*{reason}"):
        read_image(path)


def test_no_image_stops_a_collection(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "motion.jpg").write_bytes(CODED["jpeg"] + TAIL)
    (folder / "tail.png").write_bytes(CODED["png"] + TAIL)
    (folder / "huge.png").write_bytes(png(40000, 30000))
    (folder / "._tail.png").write_bytes(b"\x00\x05\x16\x07")
    (folder / "cut.jpg").write_bytes(CODED["jpeg"][:400])
    source = Source(name="stills", kind="image", path=folder, crops=2, stride=1)
    decode(DecodeConfig(sources=(source,), size=16, seed=0), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "stills" / "manifest.json").read_text())
    assert [clip["file"] for clip in manifest["clips"][::2]] == ["motion.jpg", "tail.png"]
    skipped = {item["file"]: item["reason"] for item in manifest["skipped"]}
    assert set(skipped) == {"huge.png", "cut.jpg"}
    assert "40000 x 30000" in skipped["huge.png"]


def test_a_prompt_of_images_reads_them_alike(tmp_path):
    (tmp_path / "motion.jpg").write_bytes(CODED["jpeg"] + TAIL)
    (tmp_path / "._motion.jpg").write_bytes(b"x")
    assert read_prompt(tmp_path, 16, 0, 1, 9).shape == (1, 16, 16, 3)
    (tmp_path / "z.png").write_bytes(png(40000, 30000))
    with pytest.raises(ValueError, match=r"z\.png: not a readable image"):
        read_prompt(tmp_path, 16, 0, 1, 9)
