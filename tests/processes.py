"""Several processes that find each other as torchrun's do, each of which calls a function of a test file."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from pathlib import Path


def free_port() -> int:
    """A port that nobody listens at, below those that systems give to whoever asks for any.

    One of the latter may be somebody else's by the time that the first process has imported torch.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def started(module: str, size: int, what: str, *arguments: object) -> list[subprocess.Popen[str]]:
    """So many processes, each of which runs a test file with the name of a function and what it is given."""
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    environment |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore", "-m", module, what, *map(str, arguments)]
    return [
        subprocess.Popen(
            command,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """How each ended, and what it said."""
    try:
        said = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, said, strict=True)]
