"""Find the camera images in an observation space, and convert them to uint8 RGB [b h w 3].

An image is detected by its space. It is a Box of uint8, or of floats within [0, 1], with three or
four axes. The last axis or the third axis from the end has 3 or 4 entries (RGB, RGBA). A Box with
four axes is a stack of frames, [t h w c] or [t c h w], oldest first. The image may be inside Dict
and Tuple spaces, at any depth. An entry is ambiguous if it may be a grey image, depth, or several
stacked grey images: four channels are RGBA only if the key names colours or the caller gives the
layout. Ambiguous entries are embedded only if the caller lists them, or gives their layout. If
there are no other images, an ambiguous entry is an error.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Flip", "ImageEntry", "Layout", "NoImageError", "find_images", "read_entry"]

Layout = Literal["hwc", "chw", "hw"]
Flip = Literal["vertical", "rotate180"]
Key = str | int
SMALLEST_SIDE = 8  # pixels; a smaller uint8 array is an image only if its name indicates one
NAMED_IMAGE = re.compile("image|pixels|rgb|camera", re.IGNORECASE)
NAMED_COLOUR = re.compile("rgb|colou?r", re.IGNORECASE)  # no grey images, so 4 channels are RGBA
LAYOUTS: tuple[Layout, ...] = ("hwc", "chw", "hw")
FLIPS: tuple[Flip, ...] = ("vertical", "rotate180")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEntry:
    """The path, the format and the conversion of one image in an observation.

    Attributes:
        path: keys of Dicts and indices of Tuples that lead to the image; empty: the image is the
            whole observation.
        camera: name of the camera.
        shape: shape of the image in the observation space.
        layout: order of the axes: `hwc` (channels last), `chw` (channels first), or `hw` (a grey
            image without a channel axis).
        stacked: number of stacked frames; 0: a single frame without a time axis.
        is_float: true if values are in [0, 1], false if they are in 0..255.
        is_bgr: true if the order of the colours is blue, green, red.
        flip: operation that turns the image upright, `vertical` or `rotate180`; None: the image is
            upright.
    """

    path: tuple[Key, ...]
    camera: str
    shape: tuple[int, ...]
    layout: Layout
    stacked: int
    is_float: bool
    is_bgr: bool = False
    flip: Flip | None = None

    @property
    def name(self) -> str:
        """The path as text, such as `pixels/top`; empty if the image is the whole observation."""
        return "/".join(map(str, self.path))

    @property
    def output(self) -> Key | None:
        """Key of the embedding in the observation.

        In a Dict it is `embedding_<camera>`, in a Tuple the index of the image. It is None if the
        image is the whole observation.
        """
        if not self.path or isinstance(self.path[-1], int):
            return self.path[-1] if self.path else None
        return f"embedding_{self.camera}"

    def describe(self) -> str:
        """Return a text with the path and the conversion, which a wrapper prints."""
        kind = {"hwc": "channels last", "chw": "channels first", "hw": "grey"}[self.layout]
        parts = [kind, "floats in [0, 1]" if self.is_float else "uint8"]
        if self.layout != "hw" and _channels(self.shape, self.layout) == 4:
            parts.append("RGBA without its alpha")
        if self.stacked:
            parts.append(f"stack of {self.stacked} frames")
        if self.is_bgr:
            parts.append("BGR")
        if self.flip is not None:
            parts.append(
                {"vertical": "flipped vertically", "rotate180": "rotated by 180"}[self.flip]
            )
        return f"{_place(self.name)} as camera {self.camera!r} ({', '.join(parts)})"

    def frames(self, images: NDArray[Any] | Tensor) -> NDArray[np.uint8] | Tensor:
        """Convert a batch of images to uint8 RGB [b h w 3]; stacks of t frames to [b t h w 3].

        A tensor stays on its device. Images that are uint8 RGB [b h w 3] already are not copied.

        Raises:
            ValueError: shape, dtype or values of the images are not those of the observation space.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"{_place(self.name)} has shape {list(images.shape[1:])}, but its space has "
                f"{list(self.shape)}"
            )
        dtype = str(images.dtype).removeprefix("torch.")
        if "float" not in dtype if self.is_float else dtype != "uint8":
            raise ValueError(
                f"{_place(self.name)} has dtype {dtype}, but its space has "
                f"{'floats' if self.is_float else 'uint8'}"
            )
        if self.is_float:
            images = (images * 255).round()
            if not (images.min() >= 0 and images.max() <= 255):
                raise ValueError(f"{_place(self.name)} has values outside [0, 1], or not a number")
            images = images.byte() if isinstance(images, Tensor) else images.astype(np.uint8)
        if self.layout == "hw":
            images = images[..., None]
        elif self.layout == "chw":
            is_tensor = isinstance(images, Tensor)
            images = images.movedim(-3, -1) if is_tensor else np.moveaxis(images, -3, -1)
        if images.shape[-1] == 1:
            images = images[..., [0, 0, 0]]
        images = images[..., :3]
        axes = (-1,) * self.is_bgr + {None: (), "vertical": (-3,), "rotate180": (-3, -2)}[self.flip]
        if not axes:
            return images
        return images.flip(axes) if isinstance(images, Tensor) else np.flip(images, axes)


class NoImageError(ValueError):
    """An observation space without any image, not even an ambiguous one."""


def read_entry(observation: Any, path: Sequence[Key]) -> Any:
    """Return the entry of an observation to which a path leads.

    Raises:
        ValueError: there is no such entry.
    """
    for key in path:
        try:
            observation = observation[key]
        except (KeyError, IndexError, TypeError):
            name = "/".join(map(str, path))
            raise ValueError(f"the observation has no {name!r}, which its space has") from None
    return observation


def find_images(
    space: spaces.Space,
    *,
    cameras: Sequence[str] | Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    layout: str | Mapping[str, str] | None = None,
    colour_order: str = "rgb",
    flip: str | Mapping[str, str] | None = None,
) -> tuple[list[ImageEntry], list[str]]:
    """Return the images of an observation space, and the entries that may also be images.

    Args:
        space: observation space of one environment.
        cameras: paths (such as `pixels/top`) or camera names of the images; a mapping from paths to
            names renames cameras. None: all detected images.
        exclude: paths or camera names of images that are not embedded.
        layout: order of the axes of images with an ambiguous shape, `hwc`, `chw` or `hw`; one value
            for all of them, or a mapping by path or camera name. None: detected from the shape.
        colour_order: order of the colour channels of all images, `rgb` or `bgr`.
        flip: operation that turns images upright, `vertical` or `rotate180`; one value for all
            images, or a mapping by path or camera name. None: images are not turned.

    Returns:
        The list of images that are embedded, and the list of the paths, as text, of uint8 entries
        that may be images but are not embedded.

    Raises:
        ValueError: there is no image, an image is ambiguous, or a name is unknown; the message
            lists the possible images and the argument to add.
    """
    if colour_order not in ("rgb", "bgr"):
        raise ValueError(f"colour_order must be rgb or bgr, got {colour_order!r}")
    boxes = {"/".join(map(str, path)): (path, box) for path, box in _boxes(space)}
    wanted = None if cameras is None else list(cameras)
    named = dict(cameras) if isinstance(cameras, Mapping) else {}
    paths = {name: path for name, (path, _) in boxes.items()}
    names = _camera_names(paths, named)
    known = {camera: name for name, camera in names.items()} | {name: name for name in boxes}
    chosen = None if wanted is None else [_known(one, known, boxes, "cameras") for one in wanted]
    excluded = {_known(one, known, boxes, "exclude") for one in exclude}
    layouts = _settings(layout, names, known, LAYOUTS, "layout")
    flips = _settings(flip, names, known, FLIPS, "flip")

    def recognise(forced: Mapping[str, Layout]) -> dict[str, tuple[ImageEntry | None, str]]:
        found = {}
        for name, (path, box) in boxes.items():
            if name in excluded or (chosen is not None and name not in chosen):
                continue
            is_named = chosen is not None or not path or NAMED_IMAGE.search(name) is not None
            smallest = 1 if is_named else SMALLEST_SIDE
            found[name] = _recognise(
                box,
                forced.get(name),
                smallest,
                is_chosen=chosen is not None,
                is_colour=NAMED_COLOUR.search(name) is not None,
            )
        return found

    found = recognise({} if isinstance(layout, str) else layouts)
    if isinstance(layout, str):
        # One value for all is for the images that are not certain without it; if there are none,
        # it is for those that are.
        certain = {name for name, (shape, _) in found.items() if shape is not None}
        found = recognise({name: one for name, one in layouts.items() if name not in certain})
        if len(certain) == sum(shape is not None for shape, _ in found.values()):
            found = recognise(layouts)
    entries = [
        replace(
            shape,
            path=boxes[name][0],
            camera=names[name],
            is_bgr=colour_order == "bgr",
            flip=flips.get(name),
        )
        for name, (shape, _) in found.items()
        if shape is not None
    ]
    doubtful = {name: why for name, (shape, why) in found.items() if shape is None and why}
    if chosen is not None and (missing := [n for n in chosen if n in doubtful]):
        raise ValueError("; ".join(f"{_place(name)} {doubtful[name]}" for name in missing))
    if not entries:
        error = ValueError if doubtful or layout is not None else NoImageError
        also = "" if layout is None else f"; layout={layout!r} fits none of them"
        raise error(_nothing_found(space, boxes, doubtful) + also)
    return entries, [name for name in doubtful if boxes[name][1].dtype == np.uint8]


def _boxes(
    space: spaces.Space, path: tuple[Key, ...] = ()
) -> Iterator[tuple[tuple[Key, ...], spaces.Box]]:
    if isinstance(space, spaces.Box):
        yield path, space
    elif isinstance(space, spaces.Dict):
        for key, one in space.items():
            yield from _boxes(one, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, one in enumerate(space):
            yield from _boxes(one, (*path, index))


def _recognise(
    box: spaces.Box, forced: Layout | None, smallest: int, *, is_chosen: bool, is_colour: bool
) -> tuple[ImageEntry | None, str]:
    """Return the format of the image in a Box; if there is none, None and the reason."""
    shape = box.shape
    is_bytes = box.dtype == np.uint8
    is_unit = np.issubdtype(box.dtype, np.floating) and bool(
        np.all(box.low >= 0) and np.all(box.high <= 1) and box.low.size
    )
    if not (is_bytes or is_unit):
        if is_chosen:
            return None, (
                f"is {box.dtype} within [{box.low.min():g}, {box.high.max():g}]; an image is uint8 "
                "in 0..255, or floats in [0, 1]"
            )
        return None, ""
    if is_bytes and np.all(box.high <= 1) and box.high.size:
        return None, "is uint8 with values of at most 1; an image has 0..255"
    found = [
        (layout, stacked)
        for layout in (LAYOUTS if forced is None else (forced,))
        for stacked in (0, shape[0] if shape else 0)
        if _fits(shape, layout, bool(stacked), smallest)
    ]
    # a shape cannot distinguish grey images from depth: they must be listed, or have a layout
    colour = [one for one in found if one[0] != "hw" and _channels(shape, one[0]) in (3, 4)]
    if forced is None:
        sure = [one for one in colour if _channels(shape, one[0]) == 3] or colour
        grey = [one for one in found if one[0] != "hw" and _channels(shape, one[0]) == 1]
        found = sure or (grey if is_chosen else [])
        if not found and grey:
            return None, f"has one channel {list(shape)}: grey or depth? list it in cameras=[...]"
    if not found:
        if is_chosen:
            return None, (
                f"has shape {list(shape)}; possible: [h w c], [c h w] and stacks of them with 1, 3 "
                f"or 4 channels and sides of at least {SMALLEST_SIDE} pixels, or layout=..."
            )
        return None, ""
    if len(found) > 1:
        options = " or ".join(f"layout={layout!r}" for layout, _ in found)
        return None, f"has the ambiguous shape {list(shape)}: set {options}"
    ((layout, stacked),) = found
    if forced is None and not is_colour and layout != "hw" and _channels(shape, layout) == 4:
        if layout == "chw":
            return None, (
                f"has shape {list(shape)}: RGBA with channels first, or 4 stacked grey images? set "
                "layout='chw', or layout='hw' for grey"
            )
        return None, (
            f"has shape {list(shape)}: RGBA, or 4 stacked grey images? set layout='hwc' for RGBA; "
            "for grey, remove the frame stack, and use stream=... for earlier frames"
        )
    return ImageEntry(
        path=(), camera="", shape=shape, layout=layout, stacked=stacked, is_float=is_unit
    ), ""


def _fits(shape: tuple[int, ...], layout: Layout, stacked: bool, smallest: int) -> bool:
    dimensions = len(layout) + stacked
    if len(shape) != dimensions or 0 in shape:
        return False
    own = shape[stacked:]
    sides = {"hwc": own[:2], "chw": own[1:], "hw": own}[layout]
    if layout == "hw" and stacked:  # an image [h w 3] is no stack of frames that are 3 pixels wide
        smallest = SMALLEST_SIDE
    return min(sides) >= smallest and (layout == "hw" or _channels(shape, layout) in (1, 3, 4))


def _channels(shape: tuple[int, ...], layout: Layout) -> int:
    return shape[-1] if layout == "hwc" else shape[-3]


def camera_of(path: Sequence[Key]) -> str:
    """Return the name of the camera of an image, from the last dictionary key in its path.

    Indices of tuples are ignored. The camera of `image_top`, `top_image`, `images.top`,
    `observation.images.top` and `pixels/top` is `top`. Other names are not changed.
    """
    texts = [key for key in path if isinstance(key, str)]
    if not texts:
        return "image"
    name = texts[-1].rpartition("images.")[2]
    for kept in (name.removeprefix("image_"), name.removesuffix("_image")):
        if kept != name and kept:
            return kept
    return name or "image"


def _camera_names(paths: Mapping[str, Sequence[Key]], named: Mapping[str, str]) -> dict[str, str]:
    """Return a unique camera name for each path of an image."""
    short = {name: named.get(name) or camera_of(path) for name, path in paths.items()}
    if len(set(named.values())) < len(named):
        raise ValueError(f"cameras: two images have the same name: {dict(named)}")
    used = list(short.values())
    return {
        name: camera if used.count(camera) == 1 or name in named else name.replace("/", "_")
        for name, camera in short.items()
    }


def _known(one: str, known: Mapping[str, str], boxes: Mapping[str, Any], argument: str) -> str:
    if one not in known:
        raise ValueError(f"{argument}: there is no {one!r}; the observation has {sorted(boxes)}")
    return known[one]


def _settings(
    given: Any,
    names: Mapping[str, str],
    known: Mapping[str, str],
    possible: Sequence[Any],
    argument: str,
) -> dict[str, Any]:
    """Return the value of a setting for each path; paths without a value are left out.

    Args:
        given: one value for all, or a mapping by path or camera name; None: no value.
        names: the camera name of each path.
        known: the path of each camera name and of each path.
        possible: the possible values.
        argument: name of the setting, for error messages.
    """
    if isinstance(given, Mapping):
        made = {_known(key, known, names, argument): value for key, value in given.items()}
    else:
        made = dict.fromkeys(names, given)
    for value in made.values():
        if value is not None and value not in possible:
            raise ValueError(f"{argument} must be one of {list(possible)}, got {value!r}")
    return {name: value for name, value in made.items() if value is not None}


def _place(name: str) -> str:
    return f"observation[{name!r}]" if name else "the observation"


def _nothing_found(
    space: spaces.Space, boxes: Mapping[str, tuple[Any, spaces.Box]], doubtful: Mapping[str, str]
) -> str:
    if doubtful:
        return "no image is certain: " + "; ".join(f"{_place(n)} {w}" for n, w in doubtful.items())
    entries = ", ".join(
        f"{name or 'itself'}: {box.dtype} {list(box.shape)}" for name, (_, box) in boxes.items()
    )
    return (
        f"the observation has no image; it has {entries or space}. An image is a Box of uint8, or "
        "of floats in [0, 1], [h w c] or [c h w]; gymnasium.wrappers.AddRenderObservation adds one"
    )
