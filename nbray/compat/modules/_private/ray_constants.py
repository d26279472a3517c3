"""``ray._private.ray_constants``: the numbers and names that others read."""

import logging

from nbray.common.accelerators import ACCELERATOR_TYPE
from nbray.compat.modules._common.utils import env_bool as env_bool
from nbray.compat.modules._common.utils import env_float as env_float
from nbray.compat.modules._common.utils import env_integer as env_integer
from nbray.options.option import Scope
from nbray.options.table import default_of

AUTOSCALER_NAMESPACE = "_ray_autoscaler"
DEFAULT_DASHBOARD_IP = "127.0.0.1"
DEFAULT_DASHBOARD_PORT = 8265
DEFAULT_PORT = 6379
DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES = 200 * 10**9
DEFAULT_OBJECT_STORE_MEMORY_PROPORTION = 0.3
DEFAULT_TASK_MAX_RETRIES = default_of("max_retries", Scope.TASK)
ID_SIZE = 28
KV_NAMESPACE_PACKAGE = None
LOGGER_FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"
LOGGER_LEVEL = "info"
LOGGER_LEVEL_CHOICES = ["debug", "info", "warning", "error", "critical"]
NODE_DEFAULT_IP = "127.0.0.1"
OBJECT_STORE_MINIMUM_MEMORY_BYTES = 1 << 20
RAY_ADDRESS_ENVIRONMENT_VARIABLE = "RAY_ADDRESS"
RAY_NAMESPACE_ENVIRONMENT_VARIABLE = "RAY_NAMESPACE"
RAY_RUNTIME_ENV_ENVIRONMENT_VARIABLE = "RAY_RUNTIME_ENV"
REDIS_DEFAULT_PASSWORD = ""
REDIS_DEFAULT_USERNAME = ""
RESOURCE_CONSTRAINT_PREFIX = ACCELERATOR_TYPE

logger = logging.getLogger(__name__)
