"""Find the published meshes of the arms for `visuals="mesh"`.

This package contains no meshes and downloads none. The meshes are read from an installed package or
from a folder of the user: a checkout, an unpacked wheel, or the folder of the MJCF file. The meshes
change only the arm's shape in images. Masses and collision shapes do not change. The colours of our
model are also kept, so that they can be randomised. Bodies without a published mesh keep their
primitive shapes.
"""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Meshes", "find_meshes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Meshes:
    """The MJCF files with the meshes, and the names of the bodies that have a mesh.

    Attributes:
        files: absolute paths of the MJCF files.
        bodies: a mapping from body names of our model to body names in these files. Both bodies
            have the same frame.
    """

    files: tuple[Path, ...]
    bodies: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Publisher:
    """A publisher of meshes of an arm.

    Attributes:
        name: name and licence, for messages.
        install: command that installs or downloads the meshes, for messages.
        package: name of the Python package that contains the meshes; None if they are in a checkout
            of a repository.
        files: paths of the MJCF files, relative to site-packages or to the checkout.
        bodies: a mapping from body names of our model to body names of the publisher.
    """

    name: str
    install: str
    package: str | None
    files: tuple[str, ...]
    bodies: Mapping[str, str]


_PANDA_LINKS = [f"link{index}" for index in range(8)]
_DM_PANDA = _Publisher(
    name="dm-robotics-panda (Apache-2.0)",
    install="pip install --no-deps dm-robotics-panda",
    package="dm-robotics-panda",
    files=(
        "dm_robotics/panda/assets/panda/panda.xml",
        "dm_robotics/panda/assets/panda/panda_hand.xml",
    ),
    bodies={
        **{link: f"panda_{link}" for link in _PANDA_LINKS},
        "hand": "panda_hand",
        # The publisher rotates the left finger, our model rotates the right one.
        "left_finger": "panda_rightfinger",
        "right_finger": "panda_leftfinger",
    },
)
_MENAGERIE_PANDA = _Publisher(
    name="MuJoCo Menagerie, franka_emika_panda (Apache-2.0)",
    install="git clone --depth 1 https://github.com/google-deepmind/mujoco_menagerie",
    package=None,
    files=("franka_emika_panda/panda.xml",),
    bodies={name: name for name in (*_PANDA_LINKS, "hand", "left_finger", "right_finger")},
)
# Menagerie has the iiwa 14, which has other lengths. No publisher has it with an Allegro hand in
# the same frames, so the hand keeps its primitive shapes.
_ROBOSUITE_IIWA = _Publisher(
    name="robosuite, iiwa (MIT)",
    install="pip install --no-deps robosuite",
    package="robosuite",
    files=("robosuite/models/assets/robots/iiwa/robot.xml",),
    bodies={
        "link0": "fixed_base_link",
        **{f"link{index}": f"link_{index}" for index in range(1, 8)},
    },
)
# A folder may match two publishers, so the one that needs more files comes first.
_PUBLISHERS: dict[str, tuple[_Publisher, ...]] = {
    "franka_panda": (_DM_PANDA, _MENAGERIE_PANDA),
    "kuka_allegro": (_ROBOSUITE_IIWA,),
}


def find_meshes(arm: str, folder: str | Path | None = None) -> Meshes:
    """Return the meshes of an arm.

    Args:
        arm: name of the arm, for example `franka_panda`.
        folder: a folder with the meshes; None: search the installed packages.

    Raises:
        ValueError: no published meshes of the arm are known, or they are not found. The message
            lists what is supported.
    """
    if arm not in _PUBLISHERS:
        raise ValueError(
            f"no published meshes are known for {arm}; known: {', '.join(_PUBLISHERS)}"
        )
    publishers = _PUBLISHERS[arm]
    for publisher in publishers:
        root = Path(folder) if folder is not None else _site_packages(publisher)
        files = None if root is None else _files_in(root, publisher)
        if files is not None:
            return Meshes(files=files, bodies=publisher.bodies)
    where = "in an installed package" if folder is None else f"in {folder}"
    known = "; ".join(f"{one.name}: {one.install}" for one in publishers)
    raise ValueError(
        f"no meshes of {arm} {where}. Install one of these, or name a folder with "
        f"meshes='<folder>' that holds {' or '.join(one.files[0] for one in publishers)}: {known}"
    )


def _site_packages(publisher: _Publisher) -> Path | None:
    if publisher.package is None:
        return None
    try:
        return Path(str(importlib.metadata.distribution(publisher.package).locate_file("")))
    except importlib.metadata.PackageNotFoundError:
        return None


def _files_in(root: Path, publisher: _Publisher) -> tuple[Path, ...] | None:
    """Return the paths of the publisher's MJCF files, or None if they were not found.

    `root` may be any folder on the path to the files: a parent folder or the folder of the files.
    """
    for depth in range(len(Path(publisher.files[0]).parts)):
        files = [root.joinpath(*Path(file).parts[depth:]) for file in publisher.files]
        if all(file.is_file() for file in files):
            return tuple(file.resolve() for file in files)
    return None
