"""The HTML and CSS of the page: escaping, tables, one style sheet."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

#: Okabe and Ito, "Color Universal Design" (2008): told apart with every common colour blindness. Black is the text's.
PALETTE = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2")
#: Under an entity; with more labels than colours, the next round has another line.
LINES = ("solid", "dashed", "double")
TONES = len(PALETTE) * len(LINES)
#: Colours are the theme's own variables, so that everything is right in light and dark.
STYLE = """
/* Without min-width the widest table would set the width of the page. */
.gradio-container { width: 100%; min-width: 0 !important; max-width: min(60rem, 100vw) !important;
  margin-inline: auto; }
footer .divider { display: none !important; }

.answer { display: flex; flex-direction: column; gap: 0.75rem; padding: 0.5rem; overflow-wrap: anywhere; }
.answer p { margin: 0; }
.answer .verdict { font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
.answer .quiet { color: var(--body-text-color-subdued); }
.answer .notice { border-left: 4px solid var(--color-accent); padding: 0.25rem 0.75rem;
  background: var(--background-fill-secondary); }
.answer ul { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column; gap: 0.6rem; }
.answer li { display: grid; grid-template-columns: 1fr auto; gap: 0.15rem 1rem; margin: 0; }
.answer li .share { font-variant-numeric: tabular-nums; }
.answer li.chosen { font-weight: 600; }
.answer .track { grid-column: 1 / -1; position: relative; height: 0.6rem; border-radius: 0.3rem;
  background: var(--border-color-primary); }
.answer .fill { display: block; height: 100%; min-width: 2px; border-radius: inherit;
  background: var(--body-text-color-subdued); }
.answer li.chosen .fill { background: var(--color-accent); }
.answer .limit { position: absolute; top: -0.2rem; bottom: -0.2rem; width: 2px;
  background: var(--body-text-color); }
.answer details { margin-top: 0.75rem; }
.answer summary { cursor: pointer; color: var(--body-text-color-subdued); }
.answer summary + ul { margin-top: 0.75rem; }

.answer .marked { white-space: pre-wrap; line-height: 2.1; }
/* A tint so faint that the letters keep the contrast they have without it, in light and dark. */
.answer mark { color: inherit; background: color-mix(in srgb, var(--tone) 22%, transparent);
  border-bottom: 3px var(--line) var(--tone); border-radius: 0.2rem; padding: 0.1rem 0.2rem;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
/* Copied text is the text as given. */
.answer mark .type { margin-inline-start: 0.4em; font-size: 0.75em; font-weight: 600; user-select: none; }

.answer .answer { padding: 0; }
.answer .verdict.small { font-size: 1.15rem; }
/* Words that spoke for an answer, and against: by colour and by line. */
.answer mark.for { --tone: #56b4e9; --line: solid; }
.answer mark.against { --tone: #e69f00; --line: dashed; }
.answer mark.for, .answer mark.against { padding: 0.1rem 0; color: var(--body-text-color);
  background: color-mix(in srgb, var(--tone) calc(var(--strength) * 50%), transparent);
  border-bottom-color: color-mix(in srgb, var(--tone) calc(25% + var(--strength) * 75%), transparent); }

.answer .sides { display: grid; gap: 1rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
.answer .sides section { min-width: 0; display: flex; flex-direction: column; gap: 0.75rem; }
.answer h3 { margin: 0; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere; }
.answer ol.hits { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column; }
.answer ol.hits > li { display: block; padding: 0.75rem 0; border-top: 1px solid var(--border-color-primary); }
.answer ol.hits > li:first-child { border-top: 0; padding-top: 0; }
.answer .head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 0.75rem; }
.answer .head .rank { font-weight: 600; min-width: 1.5rem; font-variant-numeric: tabular-nums; }
.answer .head .name { color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.answer .head .share { margin-inline-start: auto; font-variant-numeric: tabular-nums; }
.answer .head .moved { font-size: 0.85rem; }
.answer .head .up { font-weight: 600; }
.answer .hits .track { display: block; margin: 0.25rem 0; height: 0.4rem; }
.answer .hits .fill { background: var(--color-accent); }
.answer .hits p { margin-top: 0.25rem; white-space: pre-line; }
.answer .hits details { margin-top: 0.4rem; font-size: 0.9rem; }
.answer mark.passage { --tone: #e69f00; --line: solid; padding: 0; border-bottom-width: 2px; }
.answer .warm { border-radius: 0.2rem;
  background: color-mix(in srgb, #56b4e9 calc(var(--strength) * 55%), transparent); }
/* Warm words inside the passage keep their own colour. */
.answer mark.passage:has(.warm) { background: transparent; }

.answer .notes { gap: 0.25rem; color: var(--body-text-color-subdued); }
.answer .notes li { display: block; }
.answer pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.5rem 0 0; font-size: 0.85rem; }
.answer .panels { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(16rem, 100%), 1fr)); }
.answer figure { margin: 0; min-width: 0; }
.answer figcaption { font-size: 0.9rem; }
.answer svg { display: block; width: 100%; height: auto; max-width: 30rem; }
.answer svg polyline { fill: none; stroke: var(--color-accent); stroke-width: 2; }
.answer svg circle { fill: var(--color-accent); }
.answer svg .axis { stroke: var(--border-color-primary); }
.answer svg text { fill: var(--body-text-color-subdued); font-size: 11px; }

.rows { overflow: auto; max-height: 30rem; border: 1px solid var(--border-color-primary);
  border-radius: var(--block-radius); }
.rows table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.rows th { position: sticky; top: 0; background: var(--background-fill-secondary); }
.rows th, .rows td { text-align: left; vertical-align: top; padding: 0.4rem 0.75rem; }
.rows th { font-weight: 600; }
.rows td { border-top: 1px solid var(--border-color-primary); }
.rows td { white-space: nowrap; }
.rows td.long { min-width: 16rem; white-space: pre-line; }
/* Beside an answer there is half the width: all columns of it in sight on a phone. */
.answer .rows { overflow-wrap: normal; font-size: 0.8rem; }
.answer .rows th, .answer .rows td { padding-inline: 0.3rem; }
.answer .rows td { white-space: normal; }
.answer .rows td.long { min-width: 8rem; overflow-wrap: anywhere; }
"""
STYLE += "".join(
    f".answer .tone-{i} {{ --tone: {PALETTE[i % len(PALETTE)]}; --line: {LINES[i // len(PALETTE)]}; }}\n"
    for i in range(TONES)
)
#: Characters from which a cell gets room to wrap into lines of a readable width.
LONG = 30


def escape(text: Any) -> str:
    """Text inside HTML. Gradio fills the result into a template of its own, so braces are written out too."""
    return html.escape(str(text)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def table(label: str, headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table that scrolls in its own frame, by finger and by keyboard; a missing cell is empty.

    (gr.Dataframe widens the whole page on a phone.)
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in headers)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return (
        f'<div class="rows" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return f"<td{' class=long' if len(text) >= LONG else ''}>{escape(text)}</td>"


def percent(share: float) -> str:
    """0.934 -> 93.4%."""
    return f"{100 * share:.1f}%"
