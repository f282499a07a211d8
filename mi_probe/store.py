"""Files: safetensors with a JSON header that says what the file is. No pickle, written whole or not at all.

They are written and read here, not by the package safetensors, which reads them too: a digest is made on the way, several threads
read straight into the arrays that are asked for, and what is written may come in pieces that are nowhere whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from mi_probe.errors import StoreError

__all__ = ["Contents", "InPieces", "Parts", "Tensor", "check", "clear_unfinished", "in_parts", "look", "read", "write"]

_KEY = "mi_probe"
_METADATA = "__metadata__"
_BLOCK = 2**23  # bytes that are hashed together, and read by one thread at a time; part of the format
_LONGEST_HEADER = 10**8  # what the package safetensors takes, too
_MOST_AXES = 32
_THREADS = 4

_TYPES = {
    **{"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1"},
}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}

Arrays = dict[str, NDArray[Any]]


class InPieces(Protocol):
    """An array that is nowhere whole: `write` takes it piece by piece, in the order of its rows (C order)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the whole array, and of each piece."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array; pieces may have any."""

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """The pieces. Each is done with when the next is asked for."""


@dataclass(frozen=True)
class Tensor:
    """An array in a file: its type and shape, and where it begins."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Contents:
    """What a file says that it holds.

    Attributes
    ----------
    header : dict
        With ``schema`` and ``writer``.
    tensors : dict of str -> Tensor
    nbytes : int
        Of the file.
    digest : str
    """

    header: dict[str, Any]
    tensors: dict[str, Tensor]
    nbytes: int
    digest: str

    @property
    def kind(self) -> str:
        """``"state"``, ``"result"``, ..."""
        return str(self.header["schema"]).partition("/")[0]

    @property
    def called(self) -> str:
        """The kind in a sentence: ``"a state"``, ``"edges"``."""
        return _in_a_sentence(self.kind)


def _in_a_sentence(kind: str) -> str:
    return kind if kind.endswith("s") else f"a {kind}"


# -- writing ----------------------------------------------------------------------------------------------------------


def write(
    path: str | os.PathLike[str], schema: str, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any] | InPieces]
) -> None:
    """Write arrays and a header, through a temporary file beside the target that is renamed at the end.

    Nothing is copied in memory, but for arrays that are not contiguous.

    Parameters
    ----------
    path : path
    schema : str
        Kind and version, such as ``"result/1"``.
    header : dict
        Anything JSON can hold.
    arrays : dict of name -> array or InPieces

    Raises
    ------
    StoreError
        The file cannot be written, or cannot hold this; what was there before is kept. So it is if the pieces of an array end
        in an error of their own, which is raised as it is.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> write(f"{folder.name}/f.safetensors", "state/1", {"tokens": 3}, {"x": np.arange(3)})
    >>> header, arrays = read(f"{folder.name}/f.safetensors", "state", 1)
    >>> header["tokens"], arrays["x"]
    (3, array([0, 1, 2]))
    >>> folder.cleanup()
    """
    from mi_probe import __version__

    path = Path(path)
    try:
        full = json.loads(json.dumps({"schema": schema, "writer": __version__, **header}))  # as it will be read
        tensors = _placed(arrays)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot write {path}: a file cannot hold this ({error}).") from error
    head = _head(full, tensors, _said_of({}, {}, {}))
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.unfinished")
    try:
        with _named(path):
            file = unfinished.open("xb", buffering=0)  # a buffer that does not fit on the disk would raise again when closed
        try:
            _hold(file)
            _put(path, file, head)
            with ThreadPoolExecutor(1, thread_name_prefix="mi_probe_store") as beside:
                sums = {name: _write_one(path, file, beside, name, arrays[name], tensor) for name, tensor in tensors.items()}
            with _named(path):
                file.seek(0)
            _put(path, file, _head(full, tensors, _said_of(full, tensors, sums)))
            with _named(path):
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.close()
            raise
        with _named(path):
            file.close()
            unfinished.replace(path)
            _sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _put(path: Path, file: FileIO, part: bytes | memoryview) -> None:
    """Write all of it; a system may take less at a time."""
    with _named(path):
        left = memoryview(part)
        while len(left):
            left = left[file.write(left) :]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}.") from error


def _placed(arrays: Mapping[str, NDArray[Any] | InPieces]) -> dict[str, Tensor]:
    """Where each array comes, counted from the end of the header: the widest types first, so that all are aligned."""
    if _METADATA in arrays:
        raise ValueError(f"an array must not be called {_METADATA}")
    tensors, start = {}, 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        array = arrays[name]
        dtype = np.dtype(array.dtype).newbyteorder("<")
        if dtype not in _NAMES:
            raise ValueError(f"array '{name}' is of {array.dtype}")
        tensors[name] = Tensor(dtype, tuple(map(int, array.shape)), start)
        start += tensors[name].nbytes
    return tensors


def _head(header: dict[str, Any], tensors: Mapping[str, Tensor], digest: str) -> bytes:
    entries: dict[str, Any] = {_METADATA: {_KEY: json.dumps({**header, "digest": digest})}}
    for name, tensor in tensors.items():
        place = [tensor.start, tensor.start + tensor.nbytes]
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_one(
    path: Path, file: FileIO, beside: ThreadPoolExecutor, name: str, array: NDArray[Any] | InPieces, tensor: Tensor
) -> bytes:
    sums, written = _Sums(), 0
    for piece in [array] if _is_array(array) else array:
        if piece.dtype != array.dtype:
            raise StoreError(f"cannot write {path}: a piece of array '{name}' is of {piece.dtype}, not {array.dtype}.")
        written += piece.nbytes
        if written > tensor.nbytes:
            break
        flat = np.ascontiguousarray(piece, dtype=tensor.dtype).reshape(-1).view(np.uint8)
        for start in range(0, len(flat), _BLOCK):
            part = flat[start : start + _BLOCK].data
            summed = beside.submit(sums.update, part)
            _put(path, file, part)
            summed.result()
    if written != tensor.nbytes:
        raise StoreError(
            f"cannot write {path}: the pieces of array '{name}' of shape {tensor.shape} have {written:,} bytes "
            f"{'or more ' if written > tensor.nbytes else ''}together, not {tensor.nbytes:,}."
        )
    return sums.digest()


def _is_array(array: NDArray[Any] | InPieces) -> TypeGuard[NDArray[Any]]:
    return isinstance(array, np.ndarray)


def _hold(file: FileIO) -> None:
    """Say to `clear_unfinished` that this file is being written; the system forgets it with the process."""
    if sys.platform != "win32":  # where nobody can remove a file that is open
        import fcntl

        with suppress(OSError):  # some network folders have no locks; files there are not cleared
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk, too."""
    if sys.platform == "win32":  # which has no such call
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that do it by themselves
            raise
    finally:
        os.close(handle)


def clear_unfinished(path: str | os.PathLike[str]) -> int:
    """Remove what processes left that were killed while they wrote this file; what is being written is let be.

    Returns
    -------
    int
        Bytes that are free again.

    Raises
    ------
    StoreError
        The folder cannot be read, or a file in it not removed.
    """
    path = Path(path)
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{16}\.unfinished")
    freed = 0
    try:
        for left in [file for file in path.parent.iterdir() if pattern.fullmatch(file.name)] if path.parent.is_dir() else []:
            with suppress(FileNotFoundError):  # it was finished meanwhile
                freed += _remove_if_left(left)
    except OSError as error:
        raise StoreError(f"cannot clear what is unfinished of {path}: {error.strerror or error}.") from error
    return freed


def _remove_if_left(left: Path) -> int:
    size = left.stat().st_size
    if sys.platform == "win32":
        with suppress(PermissionError):  # somebody has it open
            left.unlink()
            return size
        return 0
    import fcntl

    with left.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 0
        left.unlink()
    return size


# -- digests ----------------------------------------------------------------------------------------------------------


class _Sums:
    """The digest of an array: of the digests of its blocks, so that threads may share it, however the bytes come."""

    def __init__(self) -> None:
        from xxhash import xxh3_128

        self._new = xxh3_128
        self._block, self._filled = xxh3_128(), 0
        self._whole = xxh3_128()

    def update(self, part: memoryview) -> None:
        while len(part):
            take = min(len(part), _BLOCK - self._filled)
            self._block.update(part[:take])
            self._filled += take
            part = part[take:]
            if self._filled == _BLOCK:
                self._end_block()

    def _end_block(self) -> None:
        self._whole.update(self._block.digest())
        self._block, self._filled = self._new(), 0

    def digest(self) -> bytes:
        if self._filled:
            self._end_block()
        return bytes(self._whole.digest())


def _said_of(header: Mapping[str, Any], tensors: Mapping[str, Tensor], sums: Mapping[str, bytes]) -> str:
    """The digest of a file."""
    from xxhash import xxh3_128

    whole = xxh3_128(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(json.dumps([name, tensor.dtype.str, tensor.shape]).encode())
        whole.update(sums[name])
    return f"xxh3:{whole.hexdigest()}"


def _said_before(header: dict[str, Any], arrays: Arrays) -> str:
    """The digest of a file of the schemas up to state/3 and result/3."""
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


# -- reading ----------------------------------------------------------------------------------------------------------


def look(path: str | os.PathLike[str]) -> Contents:
    """What a file says that it holds, from its header alone: nothing else is read, and no digest verified.

    Raises
    ------
    StoreError
        Missing, cut off, or not of mi_probe.
    """
    path = Path(path)
    with _opened(path) as file:
        return _contents(path, file)


def read(path: str | os.PathLike[str], kind: str, version: int) -> tuple[dict[str, Any], Arrays]:
    """Read a file written by `write`, after checking that it is whole and of this kind and version.

    Parameters
    ----------
    path : path
    kind : str
        ``"result"`` or ``"state"``.
    version : int
        The newest version that the caller understands; it reads the older ones too.

    Returns
    -------
    header : dict
    arrays : dict of name -> array

    Raises
    ------
    StoreError
        Missing, cut off, altered, not of mi_probe, of another kind, or of a newer version.
    """
    path = Path(path)
    with _opened(path) as file:
        contents = _contents_of(path, file, kind, version)
        return contents.header, _read_all(path, file, contents)


@contextmanager
def in_parts(path: str | os.PathLike[str], kind: str, version: int) -> Iterator[Parts]:
    """Open a file written by `write`, check that it is whole, and read its arrays one by one, or in part, in little memory.

    Parameters
    ----------
    path, kind, version
        As for `read`.

    Raises
    ------
    StoreError
        As for `read`.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> write(f"{folder.name}/f.safetensors", "state/1", {}, {"x": np.arange(6).reshape(3, 2)})
    >>> with in_parts(f"{folder.name}/f.safetensors", "state", 1) as parts:
    ...     parts.read("x", 1, 3)
    array([[2, 3],
           [4, 5]])
    >>> folder.cleanup()
    """
    path = Path(path)
    with _opened(path) as file:
        contents = _contents_of(path, file, kind, version)
        _require_whole(path, file, contents)
        yield Parts(file, contents)


class Parts:
    """A file that is open; `in_parts` makes one.

    Attributes
    ----------
    contents : Contents
    """

    def __init__(self, file: FileIO, contents: Contents) -> None:
        self.contents = contents
        self._file = file

    def read(self, name: str, first: int = 0, last: int | None = None) -> NDArray[Any]:
        """An array, or its rows from the first to before the last."""
        tensor = self.contents.tensors[name]
        rows = tensor.shape[0] if tensor.shape else 1
        last = rows if last is None else last
        if not 0 <= first <= last <= rows:
            raise ValueError(f"array '{name}' has {rows:,} rows; {first:,} to {last:,} were asked for.")
        part = np.empty((last - first, *tensor.shape[1:]) if tensor.shape else (), tensor.dtype)
        start = tensor.start + first * (tensor.nbytes // max(rows, 1))
        _fill(self._file, part.reshape(-1).view(np.uint8).data, start)
        return part


def check(path: str | os.PathLike[str]) -> Contents:
    """Read all of a file and verify its digest, in little memory.

    Raises
    ------
    StoreError
        Missing, cut off, altered, or not of mi_probe.
    """
    path = Path(path)
    with _opened(path) as file:
        contents = _contents(path, file)
        _require_whole(path, file, contents)
        return contents


def _require_whole(path: Path, file: FileIO, contents: Contents) -> None:
    if contents.digest.startswith("xxh3:"):
        _require_digest(path, contents, _said_of(contents.header, contents.tensors, _read_blocks(file, contents.tensors)))
    else:
        _read_all(path, file, contents)


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    if not path.is_file():
        raise StoreError(f"{path} is a folder: name a file." if path.is_dir() else f"there is no file {path}.")
    try:
        with path.open("rb", buffering=0) as file:
            yield file
    except (OSError, EOFError, MemoryError) as error:
        what = "does not fit in memory" if isinstance(error, MemoryError) else "cannot be read"
        raise StoreError(f"{path} {what} ({getattr(error, 'strerror', None) or error}).") from error


def _contents(path: Path, file: FileIO) -> Contents:
    size = os.fstat(file.fileno()).st_size
    try:
        entries, begin = _entries(file, size)
        metadata = entries.pop(_METADATA, None)
        if not isinstance(metadata, dict) or _KEY not in metadata:
            raise StoreError(f"{path} holds tensors, but was not written by mi_probe.")
        tensors = _tensors(entries, begin, size)
        header = _parsed(metadata[_KEY])
        if not isinstance(header, dict) or not isinstance(header.get("schema"), str):
            raise ValueError("its header has no schema")
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} is cut off, altered, or not a file of mi_probe ({error}).") from error
    return Contents(header, tensors, size, str(header.pop("digest", None)))


def _contents_of(path: Path, file: FileIO, kind: str, version: int) -> Contents:
    """The same, of a file of this kind that is not newer than this version."""
    contents = _contents(path, file)
    if contents.kind != kind:
        raise StoreError(f"{path} holds {contents.called} of mi_probe; {_in_a_sentence(kind)} was asked for.")
    schema = contents.header["schema"]
    if schema.partition("/")[2] not in [str(v) for v in range(1, version + 1)]:
        writer = contents.header.get("writer")
        raise StoreError(f"{path} has schema {schema}, written by mi_probe {writer}; this one reads {kind}/{version}.")
    return contents


def _entries(file: FileIO, size: int) -> tuple[dict[str, Any], int]:
    """The header of the container, and where the data begin."""
    length = int.from_bytes(_bytes_at(file, 0, min(size, 8)), "little")
    if size < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise ValueError("its header is not whole")
    entries = _parsed(_bytes_at(file, 8, length).decode())
    if not isinstance(entries, dict):
        raise ValueError("its header is no table")
    return entries, 8 + length


def _bytes_at(file: FileIO, start: int, length: int) -> bytearray:
    data = bytearray(length)
    _fill(file, memoryview(data), start)
    return data


def _parsed(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_without_repetition)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("its header has a key twice")
    return table


def _tensors(entries: dict[str, Any], begin: int, size: int) -> dict[str, Tensor]:
    """Places of the arrays, which follow each other without a gap and fill the file."""
    tensors, ends = {}, []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"'{name}' is no array")
        shape, place = entry["shape"], entry["data_offsets"]
        if not (_whole(shape) and len(shape) <= _MOST_AXES and _whole(place) and len(place) == 2 and entry["dtype"] in _TYPES):
            raise ValueError(f"'{name}' is no array")
        tensors[name] = Tensor(np.dtype(_TYPES[entry["dtype"]]), tuple(shape), begin + place[0])
        if max(shape, default=0) >= 2**48 or place[1] - place[0] != tensors[name].nbytes:
            raise ValueError(f"array '{name}' has another size than it says")
        ends.append((begin + place[0], begin + place[1]))
    at = begin
    for start, end in sorted(ends):
        if start != at:
            raise ValueError("its arrays do not follow each other")
        at = end
    if at != size:
        raise ValueError(f"it has {size:,} bytes, and should have {at:,}")
    return tensors


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _read_all(path: Path, file: FileIO, contents: Contents) -> Arrays:
    arrays = {name: np.empty(tensor.shape, tensor.dtype) for name, tensor in contents.tensors.items()}
    sums = _read_blocks(file, contents.tensors, arrays)
    if contents.digest.startswith("xxh3:"):
        _require_digest(path, contents, _said_of(contents.header, contents.tensors, sums))
    else:
        _require_digest(path, contents, _said_before(contents.header, arrays))
    return arrays


def _require_digest(path: Path, contents: Contents, digest: str) -> None:
    if contents.digest != digest:
        raise StoreError(f"{path} was altered after it was written: its digest does not fit its content.")


def _read_blocks(file: FileIO, tensors: Mapping[str, Tensor], into: Mapping[str, NDArray[Any]] | None = None) -> dict[str, bytes]:
    """Read everything, in threads, into arrays if there are some, and sum it up while it is in the cache."""
    from xxhash import xxh3_128, xxh3_128_digest

    mine = threading.local()

    def sum_of(name: str, start: int) -> bytes:
        tensor = tensors[name]
        size = min(_BLOCK, tensor.nbytes - start)
        if into is None:
            if not hasattr(mine, "scratch"):
                mine.scratch = memoryview(bytearray(_BLOCK))
            part = mine.scratch[:size]
        else:
            part = into[name].reshape(-1).view(np.uint8)[start : start + size].data
        _fill(file, part, tensor.start + start)
        return bytes(xxh3_128_digest(part))

    blocks = [(name, start) for name, tensor in tensors.items() for start in range(0, tensor.nbytes, _BLOCK)]
    found = _in_threads(sum_of, blocks)
    whole = {name: xxh3_128() for name in tensors}
    for (name, _), one in zip(blocks, found, strict=True):
        whole[name].update(one)
    return {name: bytes(each.digest()) for name, each in whole.items()}


def _in_threads(work: Any, blocks: Sequence[tuple[str, int]]) -> list[bytes]:
    threads = min(_THREADS, os.cpu_count() or 1, len(blocks))
    if threads < 2 or not hasattr(os, "preadv"):
        return [work(*block) for block in blocks]
    with ThreadPoolExecutor(threads, thread_name_prefix="mi_probe_store") as pool:
        return list(pool.map(lambda block: work(*block), blocks))


def _fill(file: FileIO, part: memoryview, start: int) -> None:
    """Read bytes from a place of the file on, which may be another than where it stands."""
    while len(part):
        if hasattr(os, "preadv"):
            got = os.preadv(file.fileno(), [part], start)
        else:
            file.seek(start)
            got = file.readinto(part)
        if not got:
            raise EOFError("it became shorter while it was read")
        part, start = part[got:], start + got
