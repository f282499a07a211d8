"""Runs over corpora, measured: several processes, memory, state files, and a run that is killed; a section of the page each.

    python benchmarks/corpora.py [--only processes files] [--text-file FILES or FOLDERS] [--out docs/measured/corpora.md]

Sections that are not asked for stay as they are in the page. Without texts the corpora are made of the bundled passage's words.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from types import ModuleType

import kill_runs
import machine
import memory_over_tokens
import processes
import state_files

PAGE = Path(__file__).resolve().parents[1] / "docs" / "measured" / "corpora.md"
SECTIONS: dict[str, ModuleType] = {
    "processes": processes,
    "memory": memory_over_tokens,
    "files": state_files,
    "kills": kill_runs,
}
TEXTS = ("processes", "kills")  # that take texts

HEAD = """\
# Runs over corpora, measured

Written by `benchmarks/corpora.py`.
"""


def defaults(name: str, texts: list[Path], given: list[str]) -> argparse.Namespace:
    """A section's options, with those that are for it alone: ``processes.tokens=100000``."""
    parser = argparse.ArgumentParser()
    SECTIONS[name].add_options(parser)
    words = ["--text-file", *map(str, texts)] if texts and name in TEXTS else []
    for option in given:
        section, _, rest = option.partition(".")
        key, _, value = rest.partition("=")
        words += [f"--{key}", *value.split(",")] if section == name else []
    return parser.parse_args(words)


def parts_of(page: str) -> dict[str, str]:
    """The sections of a page by their titles."""
    return {part.partition("\n")[0]: part for part in re.split(r"^(?=## )", page, flags=re.M)[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these sections")
    parser.add_argument("--text-file", type=Path, nargs="+", default=[], help="the corpus; made texts by default")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.OPTION=VALUE", help="an option of a section")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    facts = machine.heading()
    for name in options.only:
        began = time.perf_counter()
        part = SECTIONS[name].section(defaults(name, options.text_file, options.set))
        print(f"{part}\n{name}: {time.perf_counter() - began:.0f} s\n", flush=True)
        write(options.out, facts, part)


def write(out: Path, facts: str, part: str) -> None:
    """Put a section into the page, in its place or at the end."""
    known = parts_of(out.read_text(encoding="utf-8")) if out.exists() else {}
    known[part.partition("\n")[0]] = part.rstrip() + "\n\n"
    text = f"{HEAD}\n{facts}\n\n" + "".join(known.values())
    out.write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
