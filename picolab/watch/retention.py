"""Removal of a watch's oldest campaigns: only finished ones that it made itself, and never through a link."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from picolab.config.plan import LARGEST_PLAN_BYTES, PLAN_FILE
from picolab.config.project import in_command
from picolab.config.watch_parameters import WatchParameters
from picolab.errors import UnreadableFile
from picolab.files.foreign import read_bounded, remove_tree_inside
from picolab.results.folders import locked
from picolab.results.standing import read_standing
from picolab.watch.afterwards import adding
from picolab.watch.state import Made, WatchFolder, WatchState


def plan_sha256(folder: Path) -> str:
    """Return the SHA-256 of a campaign's plan; empty when there is none that can be read."""
    try:
        return hashlib.sha256(read_bounded(folder / PLAN_FILE, LARGEST_PLAN_BYTES)).hexdigest()
    except (FileNotFoundError, UnreadableFile):
        return ""


def remove_oldest(place: WatchFolder, state: WatchState, wanted: WatchParameters, note: Callable[[str], None]) -> None:
    """Remove the oldest finished campaigns of a watch beyond a number, with their copies of builds.

    The state says first which campaign is being removed, so that a removal that was cut off is completed the next time.

    Args:
        wanted: how many finished campaigns to keep, and where a campaign must be before it is removed.
        note: receives a sentence for each campaign that is removed, or left where it is.
    """
    if wanted.keep is None:
        return
    state.made = [made for made in state.made if made.removing or made.folder.exists() or made.folder.is_symlink()]
    finished = [made for made in state.made if made.complete and not made.removing]
    for made in finished[: max(0, len(finished) - wanted.keep)]:
        reason = _why_not(made, wanted)
        if reason:
            note(f"Campaign {made.campaign} is not removed: {reason}.")
            continue
        made.removing = True
        place.write(state)
    complete_removals(place, state, note)


def complete_removals(place: WatchFolder, state: WatchState, note: Callable[[str], None]) -> None:
    """Remove the campaigns that the state names for it."""
    for made in [made for made in state.made if made.removing]:
        if made.folder.is_symlink() or plan_sha256(made.folder) not in ("", made.plan_sha256):
            # Something else has its name by now.
            made.removing = False
            continue
        if made.folder.is_dir():
            with locked(made.folder) as got:
                if not got:
                    continue
                remove_tree_inside(Path(made.outputs), made.folder)
        if not made.folder.exists():
            state.made.remove(made)
            note(f"Removed campaign {made.campaign}: there are newer ones.")
    place.write(state)
    place.drop_copies(state)


def _why_not(made: Made, wanted: WatchParameters) -> str:
    """Return why a campaign stays, as half a sentence; empty when nothing speaks against its removal."""
    folder = made.folder
    name = in_command(folder)
    if wanted.history and made.in_history != wanted.history:
        why = f"it is not in the history {wanted.history}"
        if made.left_out:
            return f"{why}; add it with {adding(made, wanted.history)}, and remove its folder yourself"
        return f"{why}; the watch adds it after the next campaign"
    if wanted.publish and made.on_site != wanted.publish:
        return (
            f"it is not on the site {wanted.publish} with all its pages; make them with picolab report {name}, and of "
            f"several builds picolab verdict {name}"
        )
    if folder.is_symlink() or not folder.is_dir():
        return "it is a link or no folder"
    if not made.plan_sha256 or plan_sha256(folder) != made.plan_sha256:
        return "its plan is not the one that this watch made"
    with locked(folder) as got:
        if not got:
            return "another process runs it"
        standing = read_standing(folder)
        if standing.lost or any(trial.trial_id not in standing.results for trial in standing.needed):
            return "not every trial has a result"
    return ""
