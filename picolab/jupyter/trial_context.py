"""The context of a trial: who started it, and where its files go. Passed to the notebook in the environment."""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from picolab.host.processes import ProcessIdentity

CONTEXT_VARIABLE = "PICOLAB_TRIAL"


class TrialContext(BaseModel):
    """Who asked for a trial. A campaign and the command line pass it in the environment, not as a parameter:
    a notebook that somebody opens and runs again later must not write into the campaign's files."""

    model_config = ConfigDict(extra="forbid")

    folder: Path
    trial_id: str
    owner: dict[str, Any] = Field(description="the process that answers for the machine, as ProcessIdentity")
    campaign: str | None = None
    block: int | None = None
    position: int | None = None
    attempt: int = 1
    board: Path | None = Field(
        default=None, description="folder shared with the trials that run at the same time; null: this one runs alone"
    )
    steps: Path | None = Field(default=None, description="pipe for the steps of a boot; null: nobody wants them")

    @classmethod
    def from_environment(cls) -> "TrialContext | None":
        text = os.environ.get(CONTEXT_VARIABLE)
        return cls.model_validate_json(text) if text else None

    @property
    def owner_process(self) -> ProcessIdentity:
        return ProcessIdentity.from_json(self.owner)
