"""The file of a backup: a tar archive with a readable header and a content that is encrypted with age.

The header, ``header.json``, names the hub, the time and the versions. It contains no secret, so that a wrong backup is
recognized without a key. The content, ``content.tar.age``, is a tar archive that begins with ``manifest.json``: the
same facts, and the SHA-256 of each member. Only the manifest is protected against changes, so that the header must
agree with it.

Without hpchub, these commands open a backup::

    tar --extract --to-stdout --file BACKUP content.tar.age | age --decrypt --identity KEY | tar --list
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from hpchub import __version__
from hpchub.messages import show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

FORMAT = 1
"""The version of this format. A program refuses a newer one."""
HEADER = "header.json"
CONTENT = "content.tar.age"
MANIFEST = "manifest.json"
_LARGEST_HEADER = 1024 * 1024
_WORD = re.compile(r"[\w.:+-]{1,255}", re.ASCII)
"""A value of the header."""
_LAST_TIME = 253402300799
"""The last second of the year 9999."""
_TAR_ERRORS = (tarfile.TarError, ArithmeticError, EOFError, LookupError, RecursionError, TypeError, ValueError)
"""What the module tarfile raises for a file that is damaged, or that somebody has made to cause harm."""
_NOBODY = "no identity matched"
"""What age reports if the content is encrypted for somebody else."""


class BackupError(Exception):
    """A backup cannot be made, is refused, or cannot be restored. The message explains why, and what to do."""


@dataclass(frozen=True)
class Manifest:
    """What a backup contains.

    Attributes:
        hub: The host name of the service.
        database: The id of the hub's database.
        backend: The kind of the database: ``sqlite`` or ``postgresql``.
        schema: The revision of JupyterHub's tables.
        time: When the backup was made, in seconds since 1970.
        hpchub: The version of hpchub that made it.
        format: The version of the format.
        members: The SHA-256 of each member, by its name. The header does not contain them.
    """

    hub: str
    database: str
    backend: str
    schema: str
    time: int
    hpchub: str = __version__
    format: int = FORMAT
    members: dict[str, str] = field(default_factory=dict)

    def header(self) -> dict[str, Any]:
        """Return the facts that everybody may read."""
        return {name: value for name, value in asdict(self).items() if name != "members"}


@dataclass(frozen=True)
class Member:
    """A file in a backup.

    Attributes:
        name: The name in the archive.
        source: The content, or the file that has it.
        mode: The file's permissions.
        owner: The name of the file's owner.
        group: The name of the file's group.
    """

    name: str
    source: bytes | Path
    mode: int = 0o600
    owner: str = "root"
    group: str = "root"

    def open(self) -> BinaryIO:
        """Open the content."""
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")


def newer(version: str, than: str = __version__) -> bool:
    """Return whether a version of hpchub is newer than another one, such as ``1.0.0`` than ``1.0.0rc1``."""
    return _order(version) > _order(than)


def _order(version: str) -> tuple[list[int], int, int]:
    found = re.match(r"([0-9.]+)-?(?:(a|b|rc)\.?([0-9]+))?", version)
    if not found:
        return [], 0, 0
    kind = {"a": 0, "b": 1, "rc": 2, None: 3}[found[2]]
    return [int(part) for part in found[1].strip(".").split(".")], kind, int(found[3] or 0)


# Writing


def write(path: Path, manifest: Manifest, members: Sequence[Member], recipients: Sequence[str]) -> None:
    """Write a backup. The file appears under its name when it is complete.

    Args:
        path: The file to write. Its directory must be private, because the encrypted content is put together there.
        manifest: The facts. This function adds the members.
        members: The members. Their contents must not change any more.
        recipients: Public keys of age, or public ssh keys. Each of their owners can decrypt the backup.

    Raises:
        BackupError: A recipient is invalid, or age is missing.
        OSError: The file cannot be written.
    """
    if not recipients:
        raise BackupError("there are no recipients; set hpc_backup.recipients in the inventory, or use --recipient")
    manifest = Manifest(**{**asdict(manifest), "members": {member.name: _digest(member) for member in members}})
    content = path.with_name(f".{path.name}.content")
    partial = path.with_name(f".{path.name}.partial")
    try:
        _encrypt(content, [Member(MANIFEST, _json(asdict(manifest))), *members], recipients)
        with _create(partial) as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as outer:
                _add(outer, Member(HEADER, _json(manifest.header())), manifest.time)
                _add(outer, Member(CONTENT, content), manifest.time)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        content.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)


def _encrypt(path: Path, members: Sequence[Member], recipients: Sequence[str]) -> None:
    words = [word for recipient in recipients for word in ("--recipient", recipient)]
    with _create(path) as output:
        process = _start(["--encrypt", *words], stdin=subprocess.PIPE, stdout=output)
        assert process.stdin is not None  # noqa: S101  (for mypy)
        broken = ""
        try:
            with process.stdin as pipe, tarfile.open(fileobj=pipe, mode="w|", format=tarfile.PAX_FORMAT) as inner:
                for member in members:
                    _add(inner, member)
        except BrokenPipeError:
            broken = "age ended early"
        except BaseException:
            process.kill()
            raise
        finally:
            assert process.stderr is not None  # noqa: S101  (for mypy)
            reason = process.stderr.read().decode(errors="replace").strip()
            process.stderr.close()
            code = process.wait()
        if code or broken:
            raise BackupError(
                f"age cannot encrypt the backup: {_first_line(reason) or broken}; check hpc_backup.recipients"
            )


def _add(archive: tarfile.TarFile, member: Member, time: int = 0) -> None:
    entry = tarfile.TarInfo(member.name)
    entry.mode, entry.uname, entry.gname, entry.mtime = member.mode, member.owner, member.group, time
    with member.open() as file:
        entry.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        archive.addfile(entry, file)


def _digest(member: Member) -> str:
    with member.open() as file:
        digest = hashlib.sha256()
        while block := file.read(1024 * 1024):
            digest.update(block)
        return digest.hexdigest()


def _create(path: Path) -> IO[bytes]:
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


# Reading


def read_header(path: Path) -> Manifest:
    """Return the readable facts of a backup, after a check that its file is complete.

    Raises:
        BackupError: The file cannot be read, is no backup, is truncated, or has a newer format.
    """
    with _outer(path) as (manifest, _):
        return manifest


def extract(path: Path, directory: Path, identity: Path | bytes) -> tuple[Manifest, dict[str, Member]]:
    """Decrypt a backup into an empty, private directory, and verify it.

    Args:
        path: The backup.
        directory: The directory for the members.
        identity: The file with the private key, or its content.

    Returns:
        The manifest, and the members by name. Their sources are files in the directory.

    Raises:
        BackupError: The backup is truncated, has a newer format, is encrypted for somebody else, or is damaged.
    """
    with _outer(path) as (header, content):
        encrypted, plain = directory / "content.age", directory / "content.tar"
        with _create(encrypted) as file:
            _copy(content, file)
        _decrypt(path, encrypted, plain, identity)
        encrypted.unlink()
    try:
        manifest, members = _unpack(path, plain, directory)
    except _TAR_ERRORS as error:
        raise BackupError(f"{path} is damaged: its content is not a backup of hpchub ({error})") from None
    finally:
        plain.unlink()
    if manifest.header() != header.header():
        raise BackupError(f"{path} was changed: its header does not agree with its encrypted manifest; use another one")
    found = {name: _digest(member) for name, member in members.items()}
    if wrong := sorted(
        name for name in manifest.members.keys() | found if manifest.members.get(name) != found.get(name)
    ):
        raise BackupError(f"{path} is damaged: the SHA-256 of {show(wrong[0])} is not the one in its manifest")
    return manifest, members


@contextmanager
def _outer(path: Path) -> Iterator[tuple[Manifest, IO[bytes]]]:
    """Open the outer archive, and check that it is complete."""
    try:
        if path.exists() and not path.is_file():
            raise BackupError(f"{path} is not a file; give a file that 'hpchub backup' wrote")
        file = path.open("rb")
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        size = os.fstat(file.fileno()).st_size
        begins = HEADER.encode().startswith(file.read(len(HEADER)))
        file.seek(0)
        if not begins:
            raise BackupError(f"{path} is not a backup of hpchub; give a file that 'hpchub backup' wrote")
        header = content = text = source = None
        try:
            archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  (closed with the file)
            header, content = archive.next(), archive.next()
            if header is not None and content is not None and (header.name, content.name) == (HEADER, CONTENT):
                text, source = _member(archive, header, _LARGEST_HEADER), _open_member(archive, content)
        except _TAR_ERRORS:
            pass  # the checks below find the reason
        whole = _whole(content) if source is not None and content is not None else 0
        # A complete archive consists of whole records.
        if size < whole or (source is None and (not size or size % tarfile.RECORDSIZE)):
            of_all = f" of {whole}" if whole else ""
            raise BackupError(f"{path} is truncated: it has {size}{of_all} bytes; copy it again, or use another backup")
        if text is None or source is None:
            raise BackupError(f"{path} is damaged: it is no archive with {HEADER} and {CONTENT}; use another backup")
        yield _parse(path, text), source


def _whole(content: tarfile.TarInfo) -> int:
    """Return the size of the whole archive, with the padding that tar adds."""
    end = content.offset_data + -(-content.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return -(-(end + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _open_member(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    """Open a member that is a file. A link could lead to another member, and a sparse file could fill the disk."""
    file = archive.extractfile(entry) if entry.isreg() and not entry.issparse() else None
    if file is None:
        raise ValueError(f"{show(entry.name)} is not a file")
    return file


def _member(archive: tarfile.TarFile, entry: tarfile.TarInfo, largest: int) -> bytes:
    if entry.size > largest:
        raise ValueError(f"{show(entry.name)} has more than {largest} bytes")
    return _open_member(archive, entry).read()


def _parse(path: Path, text: bytes) -> Manifest:
    """Return the manifest in a text. The format's version is checked first, because a newer one may differ."""
    try:
        raw = json.loads(text)
        version = raw["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        version = None
    if type(version) is not int:
        raise BackupError(f"{path} is damaged: its {HEADER} cannot be read")
    if version > FORMAT:
        raise BackupError(
            f"{path} is of a newer version: its format is {version}, made by hpchub {show(raw.get('hpchub'))};"
            f" this is hpchub {__version__}, which reads format {FORMAT}; install the newer version first"
        )
    known = {each.name for each in fields(Manifest)}
    if not known - {"members"} <= raw.keys():
        raise BackupError(f"{path} is damaged: its {HEADER} is incomplete")
    manifest = Manifest(**{name: value for name, value in raw.items() if name in known})
    words = (manifest.hub, manifest.database, manifest.backend, manifest.schema, manifest.hpchub)
    if not (
        all(isinstance(word, str) and _WORD.fullmatch(word) for word in words)
        and type(manifest.time) is int
        and 0 <= manifest.time <= _LAST_TIME
        and isinstance(manifest.members, dict)
    ):
        raise BackupError(f"{path} is damaged: its {HEADER} has values of a wrong kind")
    return manifest


def _decrypt(path: Path, encrypted: Path, plain: Path, identity: Path | bytes) -> None:
    inherited: tuple[int, ...] = ()
    if isinstance(identity, bytes):
        # The key stays in memory.
        key = os.memfd_create("identity")
        os.write(key, identity)
        name, inherited = f"/dev/fd/{key}", (key,)
    else:
        name = str(identity)
        if not os.access(identity, os.R_OK):
            raise BackupError(f"{identity} cannot be read; give the file with the private key of a recipient")
    try:
        with encrypted.open("rb") as source, _create(plain) as target:
            process = _start(
                ["--decrypt", "--identity", name],
                stdin=source,
                stdout=target,
                pass_fds=inherited,
            )
            _, output = process.communicate()
    finally:
        for each in inherited:
            os.close(each)
    reason = output.decode(errors="replace")
    if process.returncode == 0:
        return
    plain.unlink()
    if _NOBODY in reason:
        raise BackupError(
            f"{path} is encrypted for somebody else: the identity that you gave is not the private key of one of its"
            " recipients; give the private key of another recipient"
        )
    line = _first_line(reason)
    if "identit" in reason or "passphrase" in reason or line.startswith("reading "):
        detail = line.rpartition(f'"{name}": ')[2]  # age names the file twice
        raise BackupError(f"the identity cannot be used: {detail}; give a file that age-keygen wrote")
    raise BackupError(f"{path} is damaged: {line}; copy it again, or use another backup")


def _unpack(path: Path, plain: Path, directory: Path) -> tuple[Manifest, dict[str, Member]]:
    """Write each member into its own file. The names in the archive never become paths."""
    members: dict[str, Member] = {}
    with tarfile.open(plain, "r:") as archive:
        first = archive.next()
        if first is None or first.name != MANIFEST:
            raise ValueError(f"{MANIFEST} is missing")
        manifest = _parse(path, _member(archive, first, 64 * 1024 * 1024))
        for number, entry in enumerate(archive):
            if entry.name == MANIFEST:
                continue
            source = _open_member(archive, entry)
            if entry.name in members:
                raise ValueError(f"{show(entry.name)} is there twice")
            target = directory / f"member{number}"
            with _create(target) as file:
                _copy(source, file)
            members[entry.name] = Member(entry.name, target, entry.mode & 0o777, entry.uname, entry.gname)
    return manifest, members


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while block := source.read(1024 * 1024):
        target.write(block)


# age


def _start(arguments: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(["age", *arguments], stderr=subprocess.PIPE, **streams)
    except FileNotFoundError:
        raise BackupError("the program age is missing on this host; install the package age, or run site.yml") from None


def _first_line(text: str) -> str:
    lines = [line.removeprefix("age: ").removeprefix("error: ") for line in text.splitlines() if line.strip()]
    return lines[0] if lines else ""
