"""What a person may set for this notebook: ``%nbray config``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields

from nbray.options.option import size

from .words import positive


def _setting(default: object, help: str) -> object:
    return field(default=default, metadata={"help": help})


_TEXTS = ("cache_folder", "dashboard_link")
_SIZES = ("cache_bytes", "tell_bytes", "kept_output", "kept_results")
_CHOICES = {
    "on_interrupt": ("cancel", "detach"),
    "start_cluster": ("yes", "no"),
    "detachable": ("no", "yes"),
}


@dataclass
class Settings:
    """Each with its default; the help of a field is what ``%nbray config`` shows."""

    on_interrupt: str = _setting(  # type: ignore[assignment]
        "cancel", "cancel: an interrupt stops a cell's tasks; detach: it only returns the prompt"
    )
    interrupt_grace: float = _setting(  # type: ignore[assignment]
        3.0, "seconds that an interrupted cell has to stop by itself"
    )
    tell_bytes: int = _setting(  # type: ignore[assignment]
        50_000_000, "a remote cell that sends more than so many bytes says what they are"
    )
    start_cluster: str = _setting(  # type: ignore[assignment]
        "yes", "yes: a remote cell without a cluster joins one of this machine, or starts it"
    )
    detachable: str = _setting(  # type: ignore[assignment]
        "no", "yes: remote cells run so that %nbray detach In[5] lets go of one that runs"
    )
    kept_cells: int = _setting(  # type: ignore[assignment]
        1000, "so many detached cells are kept; a further one is refused until one is dropped"
    )
    kept_output: int = _setting(  # type: ignore[assignment]
        20_000_000, "bytes that are kept of what a detached cell displays"
    )
    kept_results: int = _setting(  # type: ignore[assignment]
        10_000_000_000, "when results of detached cells take so many bytes, no further is detached"
    )
    cache_bytes: int = _setting(  # type: ignore[assignment]
        1_000_000_000, "what cells with --cache keep has so many bytes together; the oldest go"
    )
    cache_folder: str = _setting(  # type: ignore[assignment]
        "", "the folder of what they keep; empty: .nbray-cache beside the notebook"
    )
    dashboard_link: str = _setting(  # type: ignore[assignment]
        "", "a template of the link to the dashboard, as https://HOST/{port}/{path}; empty: found"
    )

    def set(self, name: str, text: str) -> None:
        """Set one from text.

        Raises:
            ValueError: the text is not right for it.
        """
        if name in _CHOICES:
            if text not in _CHOICES[name]:
                raise ValueError(f"{name} is {' or '.join(_CHOICES[name])}")
            setattr(self, name, text)
            return
        if name in _TEXTS:
            setattr(self, name, text)
            return
        try:
            value = size(text) if name in _SIZES else positive(text)
            if name == "kept_cells":
                value = int(value)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{name}: {error}") from error
        setattr(self, name, value)

    @staticmethod
    def choices(name: str) -> list[str]:
        """The values that a setting may have, if they are few."""
        return list(_CHOICES.get(name, ()))

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, value and meaning of each."""
        return [(f.name, str(getattr(self, f.name)), f.metadata["help"]) for f in fields(self)]

    @staticmethod
    def names() -> list[str]:
        """All names."""
        return [f.name for f in fields(Settings)]
