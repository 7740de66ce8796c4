"""How a page looks: on a phone (390 px), at a desk, in the dark and on paper."""

STYLE = """
:root { color-scheme: light; --ink: #1c2733; --soft: #4b5a67; --line: #d5dce2; --ground: #fff; --panel: #f3f6f8;
  --accent: #1a659e; --warm: #a8431f }
@media screen and (prefers-color-scheme: dark) {
  :root { color-scheme: dark; --ink: #e6ebef; --soft: #aebac5; --line: #36424d; --ground: #12181d; --panel: #1c252d;
    --accent: #7db8e8; --warm: #f0a07c }
  .chart { filter: invert(1) hue-rotate(180deg) }
}
* { box-sizing: border-box }
body { font: 17px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 }
main { max-width: 52rem; margin: 0 auto; padding: 1rem 1rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 2.6rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
h1, h2, h3, p, td, th, figcaption { overflow-wrap: anywhere }
p { margin: .6rem 0; max-width: 44rem } p.note { color: var(--soft) }
table { border-collapse: collapse; font-size: .92rem }
td, th { padding: .3rem 1rem .3rem 0; text-align: left; vertical-align: top; overflow-wrap: break-word }
thead th { font-weight: 600; color: var(--soft); vertical-align: bottom }
tbody th { font-weight: 400; min-width: 9.5rem }
tr { border-bottom: 1px solid var(--line) }
.figure { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap }
thead .figure { white-space: normal }
.scroll { overflow-x: auto; margin: .8rem 0 }
img { max-width: 100%; height: auto } .chart { display: block; margin: .8rem 0 }
.scroll .chart { max-width: none; margin: 0 }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.4rem, 1fr)); gap: .6rem; margin: 1.2rem 0 }
dl div { background: var(--panel); border-radius: .5rem; padding: .65rem .7rem }
dt { color: var(--soft); font-size: .85rem; line-height: 1.3 }
dd { margin: .2rem 0 0; font-size: 1.05rem; font-weight: 600; line-height: 1.25 }
.tiles { display: grid;
  grid-template-columns: repeat(auto-fill, minmax(var(--tile, 6.8rem), 1fr)); gap: .9rem; margin: .8rem 0 }
.tiles:has(.pair, audio) { --tile: 7.4rem }
figure { margin: 0 } figcaption { font-size: .82rem; line-height: 1.35; margin-top: .3rem; color: var(--soft) }
figcaption b { color: var(--ink) } figcaption .flagged { color: var(--warm) }
.pair { display: flex; gap: 3px } .pair > * { flex: 1 1 0; min-width: 0 }
.picture { display: block; width: 100%; border-radius: 3px; background: var(--panel) }
.fine { image-rendering: auto } .coarse { image-rendering: pixelated }
.wave { display: block; width: 100%; height: auto; fill: var(--accent); background: var(--panel); border-radius: 3px }
audio { width: 100%; height: 2.2rem; margin-top: .3rem }
.strip { display: grid; gap: 3px; margin: .3rem 0 .9rem; align-items: center }
.strip .query { border-right: 3px solid var(--accent); padding-right: 3px }
.confusion td { text-align: center; padding: .3rem .5rem; min-width: 2.3rem; white-space: nowrap }
.confusion td {
  background: color-mix(in srgb, var(--tint, transparent) calc(var(--share, 0) * 45%), transparent) }
.confusion th { padding: .3rem .6rem .3rem 0; min-width: 0; white-space: nowrap }
.confusion thead th { text-align: center; padding: .3rem .4rem }
.turned { writing-mode: vertical-rl; transform: rotate(180deg) }
.hit { --tint: var(--accent) } .miss { --tint: var(--warm) }
details { border-top: 1px solid var(--line); padding: .1rem 0 } details[open] { padding-bottom: 1.2rem }
summary { cursor: pointer; padding: .45rem 0 } summary h3 { display: inline; margin: 0; font-weight: 600 }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
@media print {
  @page { margin: 16mm }
  body { font-size: 10.5pt } main { max-width: none; padding: 0 }
  details::details-content { content-visibility: visible; display: block }
  summary { list-style: none } audio { display: none }
  .scroll { overflow: visible } .scroll .chart { max-width: 100% } table { font-size: 8.5pt }
  h2, h3, summary, .note { break-after: avoid } figure, tr, img, dl div, .strip, p { break-inside: avoid }
  .tiles { grid-template-columns: repeat(6, 1fr) } dl { grid-template-columns: repeat(5, 1fr) }
  dl div, .confusion td { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""
SCRIPT = """
const folded = () => document.querySelectorAll("details:not([open])");
let opened = [];
addEventListener("beforeprint", () => { opened = [...folded()]; opened.forEach(one => one.open = true) });
addEventListener("afterprint", () => { opened.forEach(one => one.open = false) });
"""
"""Paper cannot be clicked: what is folded is printed open."""
