"""`pruneonce data`: raw text to articles, articles to pre-training examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pruneonce.cli.options import On, Workers
from pruneonce.cli.show import plain
from pruneonce.progress import progress_bar

if TYPE_CHECKING:
    from pruneonce.data.building import Built


def wikipedia(
    dump: Annotated[Path, typer.Argument(help="A MediaWiki dump: pages-articles.xml, .xml.bz2 or .xml.gz.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the articles.")],
    workers: Workers = None,
    on: On = "",
) -> None:
    """Stream a Wikipedia dump into plain-text articles, in constant memory."""
    from pruneonce.data.wikipedia import extract

    with progress_bar(f"articles of {dump.name}") as advance:
        built = extract(dump, out, workers=workers, on=on, on_progress=advance)
    _print_articles(built, out)


def text(
    files: Annotated[list[Path], typer.Argument(help="Files: .txt, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the articles.")],
    text_column: Annotated[str, typer.Option(help="Column of .jsonl and .parquet files that holds the text.")] = "text",
    documents: Annotated[
        str, typer.Option(help="What ends a document in a .txt file: blank-line, line or file.")
    ] = "blank-line",
    title_column: Annotated[str | None, typer.Option(help="Column that holds a document's title, if any.")] = None,
) -> None:
    """Collect your own text files into articles."""
    from pruneonce.data.text import collect

    with progress_bar("articles") as advance:
        built = collect(
            files, out, text_column=text_column, title_column=title_column, documents=documents, on_progress=advance
        )
    _print_articles(built, out)


def pretraining(
    articles: Annotated[Path, typer.Argument(help="A folder made by `data wikipedia` or `data text`.")],
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="Model folder or Hub id whose vocabulary to use.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the corpus.")],
    layout: Annotated[
        str, typer.Option(help="segment_pair_nsp (BERT) or document_sentences (DistilBERT).")
    ] = "segment_pair_nsp",
    max_tokens: Annotated[int, typer.Option(help="Longest example, special tokens included.")] = 512,
    short_sequence_probability: float = 0.1,
    random_next_probability: float = 0.5,
    validation_fraction: Annotated[float, typer.Option(help="Share of documents held out.")] = 0.05,
    seed: int = 42,
    workers: Workers = None,
    on: On = "",
) -> None:
    """Cut articles into examples for masked-LM and next-sentence pre-training."""
    from pruneonce.data.build import build

    with progress_bar("documents") as advance:
        built = build(
            articles,
            out,
            tokenizer=tokenizer,
            layout=layout,
            max_tokens=max_tokens,
            short_sequence_probability=short_sequence_probability,
            random_next_probability=random_next_probability,
            validation_fraction=validation_fraction,
            seed=seed,
            workers=workers,
            on=on,
            on_progress=advance,
        )
    splits = built.manifest["splits"]
    for split, counts in splits.items():
        print(
            f"{split}: {counts['documents']:,} documents, {counts['examples']:,} examples, {counts['tokens']:,} tokens"
        )
    _print_rate({unit: sum(counts[unit] for counts in splits.values()) for unit in ("documents", "tokens")}, built, out)


def _print_articles(built: Built, out: Path) -> None:
    shards = built.manifest["shards"]
    _print_rate({"articles": sum(shard["articles"] for shard in shards)}, built, out)


def _print_rate(counts: dict[str, int], built: Built, out: Path) -> None:
    """What was made, and how fast unless it was there already."""
    done = ", ".join(f"{count:,} {unit}" for unit, count in counts.items())
    rate = ", ".join(f"{count / built.seconds:,.0f} {unit}/s" for unit, count in counts.items())
    print(f"{done} in {plain(out)} ({'was there already' if built.reused else rate})")
