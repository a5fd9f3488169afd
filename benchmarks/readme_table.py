"""Put the table of a quickstart's report into README.md, so that its numbers are those that a run wrote.

python benchmarks/readme_table.py runs/quickstart/report.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pruneonce.files import write_part
from pruneonce.quickstart.run import TIMED_TOKENS, ModelRow, Report, table

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- quickstart results: written by benchmarks/readme_table.py -->\n", "<!-- end of results -->"


def main() -> None:
    values = json.loads(Path(sys.argv[1]).read_text())
    values["rows"] = [ModelRow(**row) for row in values["rows"]]
    report = Report(**values)
    minutes = sum(report.seconds.values()) / 60
    note = (
        f"Movie-review sentences, {report.held_out_sentences} held out; time of one text of {TIMED_TOKENS} tokens. All "
        f"of it, training included, took {minutes:.1f} minutes on {report.machine['cores']} cores of an "
        f"{report.machine['processor']}."
    )
    write_part(README, BEGIN, "\n".join([*table(report), "", note, ""]), END)


if __name__ == "__main__":
    main()
