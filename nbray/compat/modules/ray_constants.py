"""``ray.ray_constants``, where Ray had `ray._private.ray_constants` before version 2."""

from nbray.compat.modules._private.ray_constants import *  # noqa: F403
