"""Writes the table in docs/models.md: which of the most used encoders run. `make docs` runs it.

The configs are those in tests/encoder_configs; what runs is what `pruneonce export` lets through. The head of the page,
above the mark, is written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pruneonce.errors import UsageError
from pruneonce.models import encoder_plan_of, family_of

PAGE = Path(__file__).with_name("models.md")
CONFIGS = Path(__file__).parents[1] / "tests" / "encoder_configs"
MARK = "<!-- below: written by `make docs` from tests/encoder_configs -->\n"


def page(head: str) -> str:
    """The whole page."""
    models = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(CONFIGS.glob("*.json"))]
    rows = [(model, obstacle(model["config"])) for model in models]
    running = [run_row(model) for model, why in rows if why is None]
    refused = [f"| {model['name']} | {why} |" for model, why in rows if why is not None]
    return "\n".join(
        [
            f"{head}{MARK}",
            f"## {len(running)} that run",
            "| model | family | for | layers × hidden | tokens | words | weights beside tables |",
            "|---|---|---|---|---:|---:|---:|",
            *running,
            "",
            f"## {len(refused)} that do not",
            "| model | why |",
            "|---|---|",
            *refused,
            "",
        ]
    )


def obstacle(config: dict[str, Any]) -> str | None:
    """Why a model of this config does not run; None: it does."""
    try:
        encoder_plan_of(config, "config.json")
        family_of(config["model_type"]).task_of(config)
    except (UsageError, ValueError) as error:
        return str(error).replace("config.json: config.json: ", "config.json: ").removeprefix("config.json: ")
    return None


def run_row(model: dict[str, Any]) -> str:
    """A model that runs, with what a person asks first."""
    config = model["config"]
    family, plan = family_of(config["model_type"]), encoder_plan_of(config, model["name"])
    between = config.get(family.config.intermediate_size) or config["n_inner"]
    matrices = 4 * plan.hidden_size**2 + (3 if plan.gated else 2) * plan.hidden_size * between
    cells = [
        model["name"],
        family.model_type,
        model["use"],
        f"{plan.layers} × {plan.hidden_size}",
        f"{plan.max_tokens:,}",
        f"{config['vocab_size']:,}",
        f"{plan.layers * matrices / 1e6:.0f} M",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8").partition(MARK)[0]), encoding="utf-8")


if __name__ == "__main__":
    main()
