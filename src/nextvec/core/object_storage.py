"""Folders on object storage and other file systems, read and written through fsspec (extras `s3`, `gcs`).

    folder = StorageFolder("s3://bucket/wiki")
    for block in folder.blocks("vectors.npy", folder.size("vectors.npy")): ...

A fault that may pass, such as a broken connection, is tried again within a bounded time; reading continues at the byte
that was read last. A folder of this machine is a `StorageFolder`, too: its files are then written atomically.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from nextvec.core.files import make_folder, write_atomic
from nextvec.core.urls import clean_url, is_url
from nextvec.errors import InputError, MissingExtraError, OutputError, ServerError, StoreError, did_you_mean, one_line

BLOCK_BYTES = 2**23
"""Bytes of a request: enough that its latency matters little, and 8 requests at a time take 64 MiB."""
MAX_FAULTS = 5
"""Faults in a row, without a byte in between, after which a file is given up. The waits take about 8 s together."""
FIRST_WAIT_SECONDS = 0.5
S3_CLIENT = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}
"""Settings of the S3 client. It is below two other layers that try again, s3fs and this module; with its own defaults a
mistyped endpoint takes minutes to fail."""

_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs")}
"""Package and extra that a scheme needs. For other schemes, fsspec names the package."""
_COMMON_SCHEMES = ("s3", "gs", "az", "abfs", "hf", "file", "memory", "http", "https", "sftp", "hdfs")

_SCHEMES_WITH_FOLDERS = ("sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs", "dbfs")
"""Schemes of file systems on which a file can only be written into a folder that exists."""

# Errors that another attempt cannot mend. The libraries of the services are not imported, so some are known by name.
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_MALFORMED = (ValueError, TypeError, ImportError)
_CREDENTIALS = frozenset(
    (
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"),
        *("TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError", "NoAuthTokenError"),
        *("DefaultCredentialsError", "RefreshError", "ClientAuthenticationError", "GatedRepoError"),
        *("AuthenticationException", "LocalTokenNotFoundError"),
    )
)

Result = TypeVar("Result")


class MissingFileError(StoreError):
    """A file, its folder or its bucket does not exist."""


class StorageFolder:
    """A folder by its URL, or by its path on this machine. Threads may share it."""

    def __init__(self, name: str | Path) -> None:
        """Open a folder; nothing is read yet.

        Raises InputError for a URL that cannot be used, MissingExtraError if the package of its scheme is missing.
        """
        self.url = clean_url(str(name)) if is_url(name) else ""
        self.name = self.url or str(name)
        """The URL or the path, as messages show it."""
        self._fs, self._root, is_local = _open_file_system(self.url, name)
        self.path = Path(self._root) if is_local else None
        """The path of a folder of this machine."""
        self.stop = threading.Event()
        """Ends the reading and writing of all threads at their next block."""

    def size(self, file: str) -> int:
        """Return the size of a file. Raises MissingFileError, or ServerError if it can't be read."""
        info = self._attempt(file, lambda: self._fs.info(self._path(file)))
        if info.get("type", "file") != "file":
            self._fail(file, FileNotFoundError("it is a folder"))
        if not isinstance(info.get("size"), int):
            raise StoreError(f"{self._path_text(file)}: the server does not report its size. Use another protocol.")
        return int(info["size"])

    def exists(self, file: str) -> bool:
        """Return whether a file exists. Raises ServerError if that can't be found out."""
        try:
            self.size(file)
        except MissingFileError:
            return False
        return True

    def is_empty(self) -> bool:
        """Return whether the folder contains nothing, or does not exist."""

        def list_names() -> list[Any]:
            try:
                return list(self._fs.ls(self._root, detail=False))
            except FileNotFoundError:
                return []

        # Some services list the folder itself.
        return not {str(name).rstrip("/") for name in self._attempt("", list_names)} - {self._root.rstrip("/")}

    def read(self, file: str, max_bytes: int) -> bytes:
        """Return the content of a small file. Raises StoreError if it is larger than `max_bytes`."""
        size = self.size(file)
        if size > max_bytes:
            raise StoreError(f"{self._path_text(file)}: has {size:,} bytes, but at most {max_bytes:,} are plausible.")
        return b"".join(self.blocks(file, size))

    def blocks(self, file: str, size: int) -> Iterator[bytes]:
        """Yield the content of a file of `size` bytes in blocks; after a fault that may pass, continue there."""
        position, faults = 0, 0
        while position < size:
            try:
                with self._fs.open(self._path(file), "rb", cache_type="none") as opened:
                    if position:
                        opened.seek(position)
                    while position < size:
                        self._require_running()
                        block = opened.read(min(BLOCK_BYTES, size - position))
                        if not block:
                            raise EOFError(f"it ends after {position:,} of {size:,} bytes")
                        position, faults = position + len(block), 0
                        yield block
            except Exception as error:
                faults = self._wait_after(error, file, faults)

    def write(self, file: str, make_blocks: Callable[[], Iterator[bytes]]) -> None:
        """Write a file from blocks, which are made again for another attempt.

        Raises OutputError if the folder is of this machine and can't be written, else ServerError.
        """
        if self.path is not None:
            target = self.path / file
            make_folder(target.parent)
            write_atomic(target, lambda output: _write_blocks(output, make_blocks()))
        else:
            self._attempt(file, lambda: self._write_remote(file, make_blocks()))

    def remove(self, file: str) -> None:
        """Remove a file."""
        self._attempt(file, lambda: self._fs.rm_file(self._path(file)))

    def _write_remote(self, file: str, blocks: Iterator[bytes]) -> None:
        path = self._path(file)
        # Object storage has no folders, and some of its libraries would make a bucket of a mistyped name.
        if self.url.partition(":")[0] in _SCHEMES_WITH_FOLDERS:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            with self._fs.open(path, "wb") as output:
                for block in blocks:
                    self._require_running()
                    output.write(block)
        except BaseException:
            with suppress(Exception):  # closing has stored a part of the file
                self._fs.rm_file(path)
            raise

    def _attempt(self, file: str, call: Callable[[], Result]) -> Result:
        """Return the result of a call, which is repeated after faults that may pass."""
        faults = 0
        while True:
            self._require_running()
            try:
                return call()
            except Exception as error:
                faults = self._wait_after(error, file, faults)

    def _wait_after(self, error: Exception, file: str, faults: int) -> int:
        """Wait before the next attempt, and return the number of faults in a row; raise an error that stays."""
        if isinstance(error, InputError | OutputError | ServerError):
            raise error
        error = _cause(error)
        is_permanent = isinstance(error, (*_PERMANENT, *_MALFORMED)) or _is_refused(error)
        if is_permanent or faults + 1 >= MAX_FAULTS:
            self._fail(file, error)
        self.stop.wait(FIRST_WAIT_SECONDS * 2**faults)
        return faults + 1

    def _fail(self, file: str, error: Exception) -> NoReturn:
        """Raise the error of another package as one line with a remedy."""
        where = self._path_text(file)
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            # Some libraries only repeat the path; others say that the bucket is missing.
            reason = f" ({one_line(error)})" if " " in str(error) else ""
            raise MissingFileError(f"{where}: does not exist{reason}. Check the URL.") from error
        if _is_refused(error):
            raise ServerError(
                f"{where}: access is denied ({type(error).__name__}: {one_line(error)}). Check the URL, and set the "
                "credentials of the storage, such as AWS_PROFILE or GOOGLE_APPLICATION_CREDENTIALS."
            ) from error
        if isinstance(error, (*_MALFORMED, NotImplementedError)) or _is_invalid(error):
            reason = "its protocol does not support that" if isinstance(error, NotImplementedError) else one_line(error)
            raise StoreError(f"{where}: can't be used ({reason}). Check the URL.") from error
        raise ServerError(
            f"{where}: the connection failed {MAX_FAULTS} times ({type(error).__name__}: {one_line(error)}). "
            "Run the command again to continue."
        ) from error

    def _require_running(self) -> None:
        """Raise ServerError if another thread has failed, so that the work is given up."""
        if self.stop.is_set():
            raise ServerError(f"{self.name}: the work was given up.")

    def _path(self, file: str) -> str:
        return f"{self._root.rstrip('/')}/{file}" if file else self._root

    def _path_text(self, file: str) -> str:
        return f"{self.name}/{file}" if file else self.name


def _write_blocks(output: IO[bytes], blocks: Iterator[bytes]) -> None:
    for block in blocks:
        output.write(block)


def _cause(error: Exception) -> Exception:
    """Return the reason of an error that some libraries report as a missing file, such as a refused connection."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        is_fault = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
        if is_fault or getattr(cause, "status", 404) not in (404, 410):
            return cause
    return error


def _is_refused(error: Exception) -> bool:
    """Return whether an error is about missing or wrong credentials."""
    names = {base.__name__ for base in type(error).__mro__}
    status = getattr(error, "status", getattr(error, "code", None))
    return isinstance(error, PermissionError) or bool(names & _CREDENTIALS) or status in (401, 403)


def _is_invalid(error: Exception) -> bool:
    return type(error).__name__ in ("ParamValidationError", "InvalidURL")


def _open_file_system(url: str, name: str | Path) -> tuple[Any, str, bool]:
    """Return a file system, the path of a folder in it, and whether it is that of this machine."""
    scheme = url.partition("://")[0].partition("::")[0]
    try:
        import fsspec  # type: ignore[import-untyped]  # torch imports it as well, but a help text must not
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
        from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("fsspec", "s3", f"store {name}") from error
    if not url:
        return LocalFileSystem(), str(Path(name).absolute()), True
    try:
        options = {"config_kwargs": _client_settings(fsspec.config.conf)} if scheme in ("s3", "s3a") else {}
        file_system, root = url_to_fs(url, **options)
        file_system.invalidate_cache()  # of listings: the store may have been replaced
    except ImportError as error:
        if scheme in _EXTRAS:
            raise MissingExtraError(*_EXTRAS[scheme], f"store {url}") from error
        raise InputError(f"store {url}: {one_line(error)}.") from error
    except Exception as error:
        if "Protocol not known" in str(error):
            hint = did_you_mean(scheme, _COMMON_SCHEMES)
            raise InputError(f"store {url}: the protocol '{scheme}' is unknown.{hint}") from error
        if _is_refused(error):
            raise ServerError(f"store {url}: access is denied ({one_line(error)}). Set the credentials.") from error
        raise InputError(f"store {url}: can't be opened ({one_line(error)}). Check the URL.") from error
    # A file system that wraps or extends that of this machine is treated like any other.
    return file_system, root, type(file_system) is LocalFileSystem


def _client_settings(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the S3 client: those of fsspec's configuration, and ours that are not set there."""
    settings: dict[str, Any] = configuration.get("s3", {}).get("config_kwargs", {})
    return {**S3_CLIENT, **settings}
