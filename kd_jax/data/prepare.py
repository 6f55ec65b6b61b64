"""Make what training reads: from a download, from local archives or from a tfrecord copy.

cifar10 and cifar100 need none of this: data.name=cifar100 reads the published archives itself.
Converting a tfrecord copy needs no TensorFlow; preparing a set from its sources does.
"""

import importlib.util
import os
import urllib.error
import urllib.request
from difflib import get_close_matches

from etils import epath

from kd_jax.data.convert import convert
from kd_jax.data.names import shown
from kd_jax.data.tfds import FORMAT, INFO, describe, find, formats, root
from kd_jax.typing import InputError, first_line

OPENCLIPART = "openclipart"  # no set of TFDS
_ARCHIVES = ("cifar10", "cifar100")
_PATIENCE = 10  # seconds to wait for the first byte of a download


def prepare(name: str, *, data_dir: str = "", source: str = "", size: int | None = None) -> str:
    """Make a TFDS set readable by data.name=tfds:NAME.

    Args:
      name: NAME or NAME/CONFIG, as TFDS has it; or openclipart, see `openclipart.prepare_openclipart`.
      data_dir: TFDS's data_dir; "" is TFDS's own default.
      source: a folder with a tfrecord copy of the set, to be converted; or a downloaded archive, or
        a folder of them, that TFDS then takes instead of the network. "" takes what is in data_dir
        (a tfrecord copy there gets array_record files beside it), else downloads.
      size: pixels a side, of openclipart only; None is its usual one.

    Returns:
      Lines to print: what was done and how to use it.

    Raises:
      InputError: TensorFlow is needed and missing, an unknown set, a wrong source, a failed download.
    """
    if name == OPENCLIPART:
        from kd_jax.data.openclipart import prepare_openclipart

        if not data_dir:
            raise InputError("--data_dir: missing; name a new folder for the pictures")
        return prepare_openclipart(data_dir, source=source, **({} if size is None else {"size": size}))
    if size is not None:
        raise InputError(
            f"--size={size}: of --dataset={OPENCLIPART} only; other sets are resized by --config.data.size"
        )
    where, given = root(data_dir), epath.Path(source).expanduser()
    if source and not given.exists():
        raise InputError(f"--source={source}: no such file or folder")
    there = find(name, where)
    copy = (_copy(name, given) if source and given.is_dir() else None) or there
    try:
        if there is not None and FORMAT in formats(there):
            done = f"{shown(there)} is {FORMAT} already"
        elif copy is not None:
            target = convert(copy, there or _target(copy, where))
            done = f"converted {shown(copy)} to {FORMAT} in {shown(target)}"
        else:
            done = f"prepared {shown(_build(name, where, given if source else None))}"
    except OSError as e:
        raise InputError(f"--data_dir={where}: cannot be read or written ({e})") from e
    hint = f"\nnote: {_no_need(name)}" if name in _ARCHIVES else ""
    return f"{done}\nuse it by --config.data.name=tfds:{name} --config.data.dir={shown(where)}{hint}"


def _no_need(name: str) -> str:
    return f"{name} needs no preparation: --config.data.name={name} reads the published archives itself"


def _copy(name: str, source: epath.Path) -> epath.Path | None:
    """The prepared set in `source`: a data_dir, the folder of the set or the folder of its version."""
    if (source / INFO).exists():
        return source
    return find(name, source) or find(source.name, source.parent)


def _target(copy: epath.Path, data_dir: epath.Path) -> epath.Path:
    info = describe(copy)
    return data_dir.joinpath(*(info[key] for key in ("name", "configName", "version") if info.get(key)))


def _build(name: str, data_dir: epath.Path, source: epath.Path | None) -> epath.Path:
    """Let TFDS download and prepare."""
    if importlib.util.find_spec("tensorflow") is None:
        hint = f"; but {_no_need(name)}" if name in _ARCHIVES else ""
        raise InputError(
            f"--dataset={name}: preparing a TFDS set needs TensorFlow (reading does not): "
            f"pip install 'kd_jax[prepare]'{hint}"
        )
    import tensorflow_datasets as upstream

    try:
        builder = upstream.builder(name, data_dir=os.fspath(data_dir), file_format=FORMAT)
    except Exception as e:
        close = get_close_matches(name, upstream.list_builders(with_community_datasets=False), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"--dataset={name}: {first_line(e)}{hint}") from e
    settings = {}
    if source is not None:
        settings["manual_dir"] = os.fspath(_archives(builder, source))
    else:
        _check_network(builder)
    try:
        builder.download_and_prepare(download_config=upstream.download.DownloadConfig(**settings))
    except Exception as e:
        raise InputError(f"--dataset={name}: TFDS could not prepare it ({first_line(e)})") from e
    return epath.Path(builder.data_dir)


def _archives(builder, source: epath.Path) -> epath.Path:
    """The folder in which TFDS should look for downloads; at least one of the files that it wants is there."""
    folder = source if source.is_dir() else source.parent
    wanted = sorted({info.filename for info in (builder.url_infos or {}).values() if info.filename})
    given = {path.name for path in folder.iterdir()} if source.is_dir() else {source.name}
    if wanted and not builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not given & set(wanted):
        raise InputError(
            f"--source={source}: neither a tfrecord copy nor a download of {builder.name}; "
            f"TFDS wants files of these names: {', '.join(wanted[:5])}{', ...' if len(wanted) > 5 else ''}"
        )
    return folder


def _check_network(builder) -> None:
    """Fail in seconds where TFDS would try for minutes. Files that are downloaded already need no network."""
    downloads = epath.Path(builder._data_dir_root) / "downloads"
    urls = [url for url in builder.url_infos or {} if url.startswith("http")]
    if not urls or (downloads.is_dir() and any(downloads.iterdir())):
        return
    try:
        urllib.request.urlopen(urls[0], timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        pass  # it answers, so there is a network; TFDS will say more
    except (OSError, ValueError) as e:
        raise InputError(
            f"--dataset={builder.name}: {urls[0]} cannot be reached ({e}); "
            "download it elsewhere and give the file by --source=FILE"
        ) from e
