"""Make the table in docs/hooks.md: every behaviour of a probe on every kind of model, tokens counted against tokens expected.

    python tools/hook_table.py run                    # in the environment of one TransformerLens: notes what it counts
    python tools/hook_table.py write docs/hooks.md    # puts what all of them counted into the page

`make table` does both for all versions.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTES = ROOT / "build" / "hook_table"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def run() -> Path:
    """Run every behaviour in this environment; returns the file with the counts."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(ROOT))
    from tests.versions.behaviours import BEHAVIOURS
    from tests.versions.kits import MAKERS, TRANSFORMER_LENS, NotThereError, kit

    columns: dict[str, dict[str, object]] = {}
    for kind in MAKERS:
        column: dict[str, object] = {}
        for name, (section, behaviour) in BEHAVIOURS.items():
            try:
                counted, expected = behaviour(kit(kind))
                cell = [len(counted), len(expected), counted == expected]
            except NotThereError:
                cell = []
            column[name] = {"section": section, "cell": cell}
        columns[kind] = column
    NOTES.mkdir(parents=True, exist_ok=True)
    path = NOTES / f"{TRANSFORMER_LENS}.json"
    path.write_text(json.dumps({"version": TRANSFORMER_LENS, "columns": columns}, indent=1))
    print(f"{path}: {', '.join(columns)} of TransformerLens {TRANSFORMER_LENS}")
    return path


def cell(of: list[int]) -> str:
    """One cell: tokens counted, tokens expected; a dash where the version has no such thing."""
    if not of:
        return "–"
    counted, expected, equal = of
    return f"{counted} / {expected}" if equal else f"**{counted} / {expected}: not equal**"


def table(notes: list[Path]) -> str:
    """The table in Markdown, of what `run` noted."""
    read = sorted((json.loads(path.read_text()) for path in notes), key=lambda n: tuple(map(int, n["version"].split("."))))
    by_kind = [(kind, n["version"], n["columns"][kind]) for n in read for kind in n["columns"]]
    by_kind.sort(key=lambda entry: entry[0])
    short = {"HookedTransformer": "HT", "TransformerBridge": "bridge"}
    heads = [f"{short.get(kind, kind)} {version}" for kind, version, _ in by_kind]
    lines = ["| what happens | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
    before = None
    for name, entry in by_kind[-1][2].items():
        if entry["section"] != before:
            before = entry["section"]
            lines.append(f"| **{before}** |" + " |" * len(heads))
        lines.append(f"| {name} | " + " | ".join(cell(column[name]["cell"]) for _, _, column in by_kind) + " |")
    return "\n".join(lines)


def write(page: Path) -> None:
    """Put the table between the marks of a page."""
    notes = sorted(NOTES.glob("*.json"))
    if not notes:
        sys.exit(f"nothing in {NOTES}: run `python tools/hook_table.py run` first.")
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{page} must have the marks {BEGIN} and {END}, once each.")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    made = table(notes)
    page.write_text(f"{head}{BEGIN}\n{made}\n{END}{tail}", encoding="utf-8")
    print(f"{page}: {len(notes)} versions")
    if "not equal" in made:
        sys.exit("some counts are not what they should be")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run"]:
            run()
        case ["write", page]:
            write(Path(page))
        case _:
            sys.exit(__doc__)
