"""``weights pull``: download published files, check them, and install models and networks from them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from varestorer_cli.core.errors import MissingDependencyError
from varestorer_cli.core.install import default_text
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
from varestorer_cli.core.weights.catalog import FOLDERS, RELEASED, PublishedFile, PublishedFolder
from varestorer_cli.core.weights.root import PublishedSource, Record, installed_file, require_outside_package


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
    """Download a published model or network, check it, and write its file or folder.

    Afterwards the default text is stored in every model of the root that takes one and whose encoder is there too.

    Args:
        name: one of ``RELEASED`` or ``FOLDERS``.
        root: weights root, or the folder of a bundle.
        matrices: dtype of the transformer blocks' matrices.
        encoder: folder of the text encoder, as in :func:`import_files`.
        say: called with one sentence per step.
        warn: called with what could not be done, although the pull succeeded.
        quiet: without progress bars.
        force: write it again where it exists.

    Returns:
        the model's file or the network's folder.

    Raises:
        MissingDependencyError: huggingface_hub is not installed, or a file cannot be downloaded.
        CheckpointError: a file is not the published one, or damaged.
        OutputError: cache or root cannot be written.
        UsageError: the root lies inside the package.
    """
    require_outside_package(root)
    hub = Hub(name, say, quiet)
    published = FOLDERS.get(name)
    path = root / name if published else installed_file(name, root)
    there = (path / CONFIG).is_file() if published else path.is_file()
    if there and not force:
        say(f"{name}: {path} is there already; weights verify checks it, --force makes it again")
        if encoder is not None and name == "2b":
            default_text.store([name], root, encoder=encoder, say=say)
    elif published:
        _pull_network(hub, published, root, say)
    else:
        _pull_model(hub, name, root, matrices, encoder, say, warn)
    if not there or force:
        say(f"the fetched files stay in the hub's cache, {hub.cache}; they are not needed any more")
    if published or (there and not force):
        default_text.complete(root, say=say, warn=warn)
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


def _fetched(hub: Hub, published: PublishedFile, root: Path) -> tuple[Path, PublishedSource]:
    """Path and source of a file in the cache; hash and commit are compared with the record, or recorded."""
    record = Record.read(root)
    file, source = hub.fetch(published, record.published.get(published.key))
    if record.published.get(published.key) != source:  # at once: what was seen first holds from now on
        replace(record, published={**record.published, published.key: source}).write(root)
    return file, source


def _pull_network(hub: Hub, folder: PublishedFolder, root: Path, say: Callable[[str], None]) -> None:
    """Download a network; of its weights only the shards that hold tensors it needs."""
    files: dict[str, Path] = {}
    sources: dict[str, PublishedSource] = {}

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
