"""Whether strangers can read what must stay secret, or put something in the place of what is trusted.

A stranger is every user of this machine but our own and root, who can do so anyway; to root, who may look after the
folder of somebody else's gateway, its owner is none either. Kubernetes mounts secrets as links inside of a folder, to
files of root's that our group may read, in a file system that nobody can write; all of that is sound.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def exposures(folder: Path, path: Path, *, secret: bool) -> Iterator[str]:
    """What is dangerous about a file of the folder, and what to do about it. Raises OSError.

    `secret`: nobody else may read it, as well as write it.
    """
    real, root = path.resolve(), folder.resolve()
    if not real.is_relative_to(root):
        yield f"it leads out of {folder}; put the file itself there"
        return
    owner = root.stat().st_uid
    for within in real.parents:
        if within == root:
            break
        yield from _replaceable(within, within.stat(), owner)
    status = real.stat()
    group_may, others_may = (stat.S_IRGRP, stat.S_IROTH) if secret else (0, 0)
    if status.st_mode & others_may:
        yield f"every user of this machine can read it; chmod o-rwx {path}"
    elif status.st_mode & group_may and not _is_ours(status):
        yield f"another group ({status.st_gid}) can read it; chmod g-rwx {path}"
    yield from _replaceable(real, status, owner)


def folder_exposures(folder: Path) -> Iterator[str]:
    """What is dangerous about a folder: that strangers can put files there. Raises OSError."""
    status = folder.stat()
    yield from _replaceable(folder, status, status.st_uid)


def _replaceable(path: Path, status: os.stat_result, owner: int) -> Iterator[str]:
    """`owner` is whose folder it is."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return
    us = os.geteuid()
    if status.st_uid not in (0, us) and (us != 0 or status.st_uid != owner):
        yield f"{path} belongs to another user ({status.st_uid}), who can write it; chown {us} {path}"
    if status.st_mode & stat.S_IWOTH:
        yield f"every user of this machine can write {path}; chmod o-w {path}"
    elif status.st_mode & stat.S_IWGRP and not _is_ours(status):
        yield f"another group ({status.st_gid}) can write {path}; chmod g-w {path}"


def _is_ours(status: os.stat_result) -> bool:
    """Whether its group is root's, or one of our own."""
    return status.st_gid in (0, os.getegid(), *os.getgroups())
