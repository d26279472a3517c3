"""YAML files that users write: whatever is wrong with one is an error of one kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_yaml(path: Path) -> Any:
    """What stands in a file; None if nothing does.

    Raises:
        OSError: it cannot be read. ValueError: it is no YAML; the text says where.
    """
    import yaml  # few commands read any

    try:
        return yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("it is nested too deeply.") from None
