"""``ray.worker``, where Ray had `ray._private.worker` before version 2."""

from nbray.compat.modules._private.worker import *  # noqa: F403
