"""Where the processes of a run live, and whether one beside us is still there."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple

__all__ = ["Member"]


class Member(NamedTuple):
    """Where a process of a run lives.

    Examples
    --------
    >>> me = Member.here()
    >>> me.is_beside(me), me.is_running
    (True, True)
    """

    host: str
    namespace: str
    """Of its process number: the same number in another container is someone else."""
    pid: int

    @classmethod
    def here(cls) -> Member:
        """This process."""
        return cls(socket.gethostname(), _pid_namespace(), os.getpid())

    def is_beside(self, other: Member) -> bool:
        """Whether both are on one machine, and in one container."""
        return (self.host, self.namespace) == (other.host, other.namespace)

    @property
    def is_running(self) -> bool:
        """Whether it is there, where it is beside us."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's, so there
            return True
        try:  # one that has ended stands there until its parent asks for it
            return Path(f"/proc/{self.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return True


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        return ""
