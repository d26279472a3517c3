"""``ray._private.usage.usage_lib``, where Ray had it before."""

from nbray.compat.modules._common.usage.usage_lib import (
    TagKey,
    record_extra_usage_tag,
    record_library_usage,
    usage_stats_enabled,
)

__all__ = ["TagKey", "record_extra_usage_tag", "record_library_usage", "usage_stats_enabled"]
