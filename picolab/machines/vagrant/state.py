"""The state of a machine in its `machine.json`: its description, how far it was made, its holder."""

from pathlib import Path
from typing import Any

from picolab.errors import MachineError
from picolab.machines.folders import spec_of, write_spec


class State(dict[str, Any]):
    """The contents of a machine's `machine.json`, shared by all that work on the machine.

    Raises:
        MachineError: the machine does not exist.
    """

    def __init__(self, folder: Path) -> None:
        spec = spec_of(folder)
        if spec is None:
            raise MachineError(f"the machine {folder.name!r} does not exist (any more)")
        super().__init__(spec)
        self.folder = folder

    def write(self, **changes: Any) -> None:
        """Change it, and the file.

        Raises:
            MachineError: the machine was removed meanwhile.
        """
        self.update(changes)
        try:
            write_spec(self.folder, dict(self))
        except FileNotFoundError:
            raise MachineError(f"the machine {self.folder.name!r} was taken away while it was in use") from None

    def note_fixed(self, sentence: str) -> None:
        """Note a stale state that was found and fixed."""
        self.write(mended=[*self["mended"], sentence])
