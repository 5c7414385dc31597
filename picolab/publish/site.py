"""A site as files: pages under names that contain their digest, then the index that refers to them.

The index is replaced by one rename, and refers to pages that are there already. Pages of the former index are removed
last. So a reader, and whoever finds the site after a kill, sees the former site or the new one, whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from picolab.config.sizes import MIB
from picolab.errors import CampaignBusy, ParameterError, PicolabError, UnreadableFile
from picolab.files.foreign import read_bounded, read_text, refuse_links
from picolab.files.writing import not_written, write_atomically
from picolab.publish.campaigns import PAGES, PageKind, SiteCampaign, is_stale, read_site_campaign
from picolab.publish.index_page import GENERATOR, Link, index_page
from picolab.results.folders import locked

INDEX_FILE, PAGES_FOLDER = "index.html", "reports"
LARGEST_PAGE_BYTES = 256 * MIB
_OURS = re.compile(r"[A-Za-z0-9._-]{1,80}-[0-9a-f]{16}\.html")
_ELSEWHERE = "or name another folder for the site"
_LARGEST_INDEX_BYTES = 64 * MIB


@dataclass
class Published:
    """A site that was written.

    Attributes:
        index: the file to open.
        campaigns: all that the index lists, the newest first.
        failed: name of a campaign and why a page of it was not rendered or copied, one sentence each.
    """

    index: Path
    campaigns: list[SiteCampaign] = field(default_factory=list)
    pages: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def without_report(self) -> list[str]:
        """Names of the campaigns that lack a page which they should have."""
        return [campaign.name for campaign in self.campaigns if campaign.missing]

    @property
    def stale(self) -> list[str]:
        """Names of the campaigns with a page that is older than their newest trial."""
        return [campaign.name for campaign in self.campaigns if campaign.stale]


def publish(
    folders: list[Path], target: Path, render: bool = False, show: Callable[[str], None] = lambda line: None
) -> Published:
    """Write a site of the pages of campaigns and an index that searches them.

    Args:
        folders: of the campaigns.
        target: the folder of the site; it is made when it is not there.
        render: make pages that are missing or older than the newest trial first.
        show: gets a line before something that takes seconds.

    Raises:
        ParameterError: the target is a file, or holds an index.html that is not of a site of picolab.
        UnsafePath: a file of the site is a link.
        CampaignBusy: another process writes the same site.
        FileNotWritten: the file system is full or read-only.
    """
    check_target(target)
    try:
        (target / PAGES_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(target, error, _ELSEWHERE) from None
    with locked(target) as got:
        if not got:
            raise CampaignBusy(f"{target}: another process publishes there now; wait until it has ended")
        return _publish(folders, target, render, show)


def check_target(target: Path) -> None:
    """Refuse a folder into which no site can be published.

    Raises:
        ParameterError, UnsafePath: as of `publish`.
    """
    if target.exists() and not target.is_dir():
        raise ParameterError(f"{target} is a file; name a folder for the site")
    if target.is_dir():
        refuse_links(target, [INDEX_FILE, PAGES_FOLDER])
        if (target / PAGES_FOLDER).is_file():
            raise ParameterError(f"{target / PAGES_FOLDER} is a file; remove it, {_ELSEWHERE}")
    try:
        old = read_text(target / INDEX_FILE, _LARGEST_INDEX_BYTES)
    except FileNotFoundError:
        return
    except UnreadableFile as error:
        raise ParameterError(f"{error}; remove it, {_ELSEWHERE}") from None
    if GENERATOR not in old:
        raise ParameterError(
            f"{target / INDEX_FILE} is not the index of a site of picolab, and publishing would replace it; name "
            f"another folder"
        )


def _publish(folders: list[Path], target: Path, render: bool, show: Callable[[str], None]) -> Published:
    published = Published(target / INDEX_FILE)
    links: dict[str, list[Link]] = {}
    kept: set[str] = set()
    for folder in folders:
        if not folder.is_dir():
            continue  # it was removed since it was listed
        campaign = read_site_campaign(folder)
        if render and _render_missing(campaign, published, show):
            campaign = read_site_campaign(folder)
        links[campaign.name] = []
        for kind in campaign.pages:
            try:
                name = _copy(folder / kind.file, campaign.name, kind, target / PAGES_FOLDER)
            except (UnreadableFile, FileNotFoundError) as error:
                published.failed.append((campaign.name, str(error)))
                continue
            links[campaign.name].append(Link(f"{PAGES_FOLDER}/{name}", kind.title, kind.title in campaign.stale))
            kept.add(name)
        published.campaigns.append(campaign)
    published.campaigns.sort(key=lambda campaign: (campaign.begun, campaign.name), reverse=True)
    published.pages = len(kept)
    write_atomically(published.index, index_page(published.campaigns, links), elsewhere=_ELSEWHERE)
    for path in (target / PAGES_FOLDER).iterdir():
        if _OURS.fullmatch(path.name) and path.name not in kept:
            with suppress(OSError):
                path.unlink()
    return published


def _render_missing(campaign: SiteCampaign, published: Published, show: Callable[[str], None]) -> bool:
    """Render the pages that a campaign lacks, or that are older than its newest trial; return whether it was tried."""
    wanted = [
        kind
        for kind in PAGES
        if kind.title in campaign.missing or (kind in campaign.pages and is_stale(campaign.folder, kind))
    ]
    for kind in wanted:
        show(f"Rendering the {kind.title} of {campaign.name}")
        try:
            kind.render(campaign.folder)
        except (PicolabError, OSError) as error:
            published.failed.append((campaign.name, str(error)))
    return bool(wanted)


def _copy(page: Path, campaign: str, kind: PageKind, folder: Path) -> str:
    """Copy a page under a name that follows its campaign and content, unless it is there; return the name."""
    content = read_bounded(page, LARGEST_PAGE_BYTES)
    digest = hashlib.sha256(b"\0".join((campaign.encode(errors="replace"), kind.file.encode(), content))).hexdigest()
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{campaign}-{kind.title}").strip(".-")[:80] or "campaign"
    name = f"{words}-{digest[:16]}.html"
    path = folder / name
    if path.is_symlink() or not path.is_file() or path.stat().st_size != len(content):
        write_atomically(path, content, elsewhere=_ELSEWHERE)
    return name
