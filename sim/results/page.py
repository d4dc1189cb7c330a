"""A page that a person reads: one file, no script, no network, on light and on dark paper."""

from __future__ import annotations

from collections.abc import Iterable

STYLE = """
:root { --ink:#1d2430; --soft:#5a6473; --paper:#fff; --line:#d9dee5; --good:#0a7a55; --bad:#b3261e;
  --warn:#8a5a00; --warnpaper:#fff4dc; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ee; --soft:#9aa4b2; --paper:#14181f;
  --line:#343c48; --good:#4fc79a; --bad:#ff8a80; --warn:#ffcf70; --warnpaper:#3a2f14; } }
* { box-sizing:border-box }
body { margin:0; background:var(--paper); color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif }
main { max-width:940px; margin:0 auto; padding:36px 28px 60px }
h1 { font-size:26px; line-height:1.25; margin:0 0 12px }
h2 { font-size:17px; margin:38px 0 8px }
.lead { font-size:18px; border-left:4px solid var(--good); padding:2px 0 2px 14px; margin:0 0 10px }
.soft, small { color:var(--soft) } p { margin:6px 0 }
svg { max-width:100%; height:auto; display:block; font-size:12px }
svg text { fill:var(--ink) } svg .soft { fill:var(--soft) } svg text.name { font-size:13px }
svg text.in[fill="#fff"] { fill:#fff }
svg text.in[fill="#111"] { fill:#111 } svg .grid { stroke:var(--line); stroke-width:1 }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
th, td { text-align:left; padding:5px 10px 5px 0; border-bottom:1px solid var(--line);
  vertical-align:top }
th { font-weight:600 } .num { text-align:right; white-space:nowrap }
.ratio { color:var(--soft); white-space:nowrap }
.best { color:var(--good); font-weight:600 } .ok { color:var(--good); font-weight:600 }
.failed { color:var(--bad); font-weight:700 } .mark { width:80px }
.legend { display:flex; flex-wrap:wrap; gap:4px 16px; color:var(--soft); font-size:13px }
.legend i { display:inline-block; width:11px; height:11px; border-radius:2px; margin-right:6px }
.tag { font-size:12px; padding:1px 7px; border-radius:9px; border:1px solid var(--line);
  white-space:nowrap }
.tag.careful { background:var(--warnpaper); color:var(--warn); border-color:var(--warn);
  font-weight:600 }
.pair { display:flex; flex-wrap:wrap; gap:16px } .wide { overflow-x:auto }
summary { cursor:pointer; font-weight:600 }
.warnings li { color:var(--warn) } a { color:inherit } td code { font-size:13px }
td:last-child { overflow-wrap:anywhere }
.dense { font-size:13px } .dense td, .dense th { padding-right:8px }
.jobs td, .jobs th { white-space:nowrap }
.meter { display:inline-block; width:110px; height:9px; border-radius:3px; background:var(--line);
  overflow:hidden }
.heat { width:auto; margin:4px 0 14px } .heat td, .heat th { padding:5px 14px }
.meter i { display:block; height:100%; background:#D55E00 } details { margin:6px 0 }
@media print { main { max-width:none; padding:0 } h2 { break-after:avoid }
  tr, svg, .legend { break-inside:avoid }
  .screen { display:none } .pair svg { width:calc(50% - 8px) }
  h2 + p, h2 + p + .legend { break-after:avoid }
  * { -webkit-print-color-adjust:exact; print-color-adjust:exact } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The page as HTML; `title` and `parts` are HTML already, and empty parts are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" '
        f'href="data:,"><title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n'
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )
