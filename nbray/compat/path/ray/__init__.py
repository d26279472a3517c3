"""``ray`` in the processes that a program under `nbray.compat` starts: nbray, as in the program."""

import importlib
import sys

from nbray import compat

del sys.modules["ray"]
compat.install()
importlib.import_module("ray")
