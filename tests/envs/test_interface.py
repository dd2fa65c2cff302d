import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.interface import CameraSpec, Interface

WORDS = st.text("abcdefgh_", min_size=1, max_size=8)


def interface(**changes):
    values = {
        "arm": "toy",
        "cameras": (CameraSpec(name="hand", height=32, width=48),),
        "proprio": ("elbow",),
        "action_kind": "joint_increment",
        "action": ("elbow", "gripper"),
        "action_scale": (0.1, 1.0),
        "rate_hz": 10.0,
    }
    return Interface(**values | changes)


@given(
    cameras=st.lists(WORDS, unique=True, max_size=3),
    proprio=st.lists(WORDS, unique=True, max_size=5),
    scale=st.floats(1e-3, 10),
)
def test_survives_json(cameras, proprio, scale):
    there = interface(
        cameras=tuple(CameraSpec(name=name, height=8, width=9) for name in cameras),
        proprio=tuple(proprio),
        action_scale=(scale, 1.0),
    )
    assert Interface.from_dict(json.loads(json.dumps(there.to_dict()))) == there


def test_equal_interfaces_have_no_differences():
    assert interface().differences(interface()) == []
    interface().require_equal(interface())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arm", "other"),
        ("cameras", (CameraSpec(name="hand", height=64, width=48),)),
        ("proprio", ("wrist",)),
        ("action", ("elbow", "hand")),
        ("action_scale", (0.2, 1.0)),
        ("rate_hz", 20.0),
    ],
)
def test_error_names_the_field_that_differs(field, value):
    other = dataclasses.replace(interface(), **{field: value})
    assert [line.split(":")[0] for line in interface().differences(other)] == [field]
    with pytest.raises(ValueError, match=f"env differs from that of policy.*\n  {field}"):
        interface().require_equal(other, here="env", there="policy")


def test_what_only_one_has_recorded_is_not_compared():
    """An earlier version did not record it, and environments of this project do not."""
    recorded = interface(image_reading="bgr", action_middle=(0.5, 0.5))
    assert recorded.differences(interface()) == interface().differences(recorded) == []
    assert recorded.differences(dataclasses.replace(recorded, image_reading="rgb"))
    assert Interface.from_dict(recorded.to_dict()) == recorded
    assert "image_reading" not in interface().to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_kind": "torque"}, "known: joint_increment"),
        ({"action_scale": (0.1,)}, "2 action names but 1"),
        ({"rate_hz": 0.0}, "rate_hz"),
        ({"proprio": ("elbow", "elbow")}, "distinct, repeated: elbow"),
    ],
)
def test_nonsense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        interface(**changes)


def test_camera_needs_a_size():
    with pytest.raises(ValueError, match="positive"):
        CameraSpec(name="hand", height=0, width=3)


def test_unknown_field_is_named():
    with pytest.raises(ValueError, match="colour"):
        Interface.from_dict(interface().to_dict() | {"colour": 1})
