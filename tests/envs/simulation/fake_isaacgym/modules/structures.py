"""The structures of the stand-in; their fields are those of the compiled module that we use."""


class Strict:
    """An object with fixed fields: a misspelt field is an error, as in the compiled module."""

    _fields = {}  # noqa: RUF012

    def __init__(self, *values):
        for key, value in self._fields.items():
            object.__setattr__(self, key, value() if callable(value) else value)
        for key, value in zip(self._fields, values):
            setattr(self, key, value)

    def __setattr__(self, key, value):
        if key not in self._fields:
            raise AttributeError(f"{type(self).__name__} has no field {key}")
        object.__setattr__(self, key, value)


def _strict(name, **fields):
    return type(name, (Strict,), {"_fields": fields})


Vec3 = _strict("Vec3", x=0.0, y=0.0, z=0.0)
Quat = _strict("Quat", x=0.0, y=0.0, z=0.0, w=1.0)
Transform = _strict("Transform", p=Vec3, r=Quat)
PhysXParams = _strict(
    "PhysXParams", use_gpu=False, solver_type=1, num_position_iterations=4,
    num_velocity_iterations=1, contact_offset=0.02, rest_offset=0.001,
    bounce_threshold_velocity=0.2, max_depenetration_velocity=100.0,
    default_buffer_size_multiplier=2.0, max_gpu_contact_pairs=1048576,
)  # fmt: skip
SimParams = _strict(
    "SimParams", dt=1 / 60, substeps=2, up_axis=0, gravity=lambda: Vec3(0.0, -9.8, 0.0),
    use_gpu_pipeline=False, physx=PhysXParams,
)  # fmt: skip
AssetOptions = _strict(
    "AssetOptions", fix_base_link=False, disable_gravity=False, collapse_fixed_joints=False,
    flip_visual_attachments=True, thickness=0.02, linear_damping=0.0, angular_damping=0.5,
    use_physx_armature=True, density=1000.0, armature=0.0,
)  # fmt: skip
CameraProperties = _strict(
    "CameraProperties", width=1600, height=900, horizontal_fov=90.0, near_plane=0.01,
    far_plane=100.0, supersampling_horizontal=1, supersampling_vertical=1, enable_tensors=False,
)  # fmt: skip
RigidShapeProperties = _strict("RigidShapeProperties", filter=0, friction=1.0)
