"""``weights pull``: published files are fetched, checked and made into what the weights root holds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from varestorer_cli.core.errors import MissingDependencyError
from varestorer_cli.core.install import default_text as defaulttext
from varestorer_cli.core.install.hub_backend import Hub
from varestorer_cli.core.install.importer import import_files
from varestorer_cli.core.install.network_folder import (
    CONFIG,
    INDEX,
    WEIGHTS,
    needed_shards,
    read_json,
    read_network,
    write_network,
)
from varestorer_cli.core.weights.root import RELEASED, Published, Record, Source, installed_file
from varestorer_cli.core.weights.textmodels import FOLDERS, PublishedFolder


def pull(
    name: str,
    root: Path,
    *,
    matrices: torch.dtype = torch.bfloat16,
    encoder: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
    quiet: bool = False,
    force: bool = False,
) -> Path:
    """Fetch a published model or network, check it, and make its file or folder.

    Afterwards the default text is stored in every model of the root that takes one and whose encoder is there too.

    Args:
        name: one of ``RELEASED`` or ``FOLDERS``.
        root: weights root, or the folder of a bundle.
        matrices: type of the transformer blocks' matrices.
        encoder: folder of the text encoder, see :func:`import_files`.
        say: gets one sentence a step.
        warn: told what could not be done, although the pull succeeded.
        quiet: no progress bars.
        force: also where it is there already.

    Returns:
        the model's file or the network's folder.

    Raises:
        MissingDependencyError: huggingface_hub is not installed, or a file cannot be had.
        CheckpointError: a file is not the published one, or damaged.
        OutputError: cache or root cannot be written.
    """
    hub = Hub(name, say, quiet)
    published = FOLDERS.get(name)
    path = root / name if published else installed_file(name, root)
    there = (path / CONFIG).is_file() if published else path.is_file()
    if there and not force:
        say(f"{name}: {path} is there already; weights verify checks it, --force makes it again")
        if encoder is not None and name == "2b":
            defaulttext.store([name], root, encoder=encoder, say=say)
    elif published:
        _pull_network(hub, published, root, say)
    else:
        _pull_model(hub, name, root, matrices, encoder, say, warn)
    if not there or force:
        say(f"the fetched files stay in the hub's cache, {hub.cache}; they are not needed any more")
    if published or (there and not force):
        defaulttext.complete(root, say=say, warn=warn)
    return path


def _pull_model(
    hub: Hub,
    name: str,
    root: Path,
    matrices: torch.dtype,
    encoder: Path | None,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    sources = dict(_fetched(hub, published, root) for published in RELEASED[name].files)
    import_files(list(sources), root, matrices=matrices, sources=sources, encoder=encoder, say=say, warn=warn)


def _fetched(hub: Hub, published: Published, root: Path) -> tuple[Path, Source]:
    """A file in the cache, its hash and commit recorded or compared with the record."""
    record = Record.read(root)
    file, source = hub.fetch(published, record.published.get(published.key))
    if record.published.get(published.key) != source:  # at once: what was seen first holds from now on
        replace(record, published={**record.published, published.key: source}).write(root)
    return file, source


def _pull_network(hub: Hub, folder: PublishedFolder, root: Path, say: Callable[[str], None]) -> None:
    """Of the weights only the shards that are needed."""
    files: dict[str, Path] = {}
    sources: dict[str, Source] = {}

    def fetch(name: str) -> None:
        files[name], sources[name] = _fetched(hub, folder.file(name), root)

    def fetch_where_it_is(name: str) -> bool:
        published = folder.file(name)
        known = Record.read(root).published.get(published.key)
        if known is None and not hub.has(published):
            return False
        fetch(name)
        return True

    fetch(CONFIG)
    for group in folder.needs:
        there = [name for name in group if fetch_where_it_is(name)]
        if not there:
            raise MissingDependencyError(f"{folder.repository}: has no {' or '.join(group)} at {folder.revision[:12]}")
    for name in folder.also:
        fetch_where_it_is(name)
    if fetch_where_it_is(INDEX):
        for shard in needed_shards(files[INDEX], read_json(files[CONFIG])):
            fetch(shard)
    else:
        fetch(WEIGHTS)
    weights = {name: source for name, source in sources.items() if name.endswith(".safetensors")}
    write_network(read_network(files[CONFIG].parent, files, weights), root, say)
