"""How a report looks: light or dark as the reader's system is, and readable on a phone."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root{color-scheme:light dark;--paper:#fff;--card:#f5f6f8;--ink:#22262c;--faint:#6b7380;
--grid:#e1e4e8;--mark:#2f5fb3;--good:#2b8a6b;--bad:#d9622b;--flag:#c22f3d;--warn:#fdf0e6}
@media(prefers-color-scheme:dark){:root{--paper:#15181c;--card:#1f2329;--ink:#e7eaee;
--faint:#98a1ad;--grid:#30363e;--mark:#7aa5ee;--good:#4fc29b;--bad:#f0905f;--flag:#ff6b78;
--warn:#3a2a1f}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:880px;margin:0 auto;padding:28px 16px 64px}
h1{font-size:1.5rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:40px 0 10px}
header p,section>p,figcaption,.legend{color:var(--faint);font-size:.875rem;margin:6px 0}
.warning{background:var(--warn);border-left:4px solid var(--flag);padding:10px 14px;margin:14px 0;
border-radius:4px;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;
margin-top:22px}
.tile{background:var(--card);border-radius:10px;padding:12px 14px;display:flex;
flex-direction:column}
.tile span,.tile small{color:var(--faint);font-size:.8rem}
.tile b{font-size:1.6rem;line-height:1.3;font-variant-numeric:tabular-nums}
figure{margin:8px 0}
svg{width:100%;height:auto;display:block;font-size:13px}
svg .ink{fill:var(--ink)}svg .faint{fill:var(--faint)}
svg .grid{stroke:var(--grid)}
svg circle.mark{fill:var(--mark)}svg circle.flag{fill:var(--flag)}
svg line.band{stroke-width:9;stroke-linecap:round;opacity:.28}
svg line.mark{stroke:var(--mark)}svg line.flag{stroke:var(--flag)}
svg .box{opacity:.2}svg rect.mark{fill:var(--mark)}svg rect.flag{fill:var(--flag)}
svg .median{stroke:var(--ink);stroke-width:2}
svg .good{fill:var(--good)}svg .bad{fill:var(--bad)}svg .dot{opacity:.75}
.legend i{display:inline-block;width:10px;height:10px;border-radius:2px;margin:0 6px 0 10px}
.legend i:first-child{margin-left:0}.legend .good{background:var(--good)}
.legend .bad{background:var(--bad)}
.scroll{overflow-x:auto;margin:8px 0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;width:100%}
th{font-weight:600;color:var(--faint);text-align:right;white-space:nowrap}
td{text-align:right;white-space:nowrap}
th,td{padding:5px 10px;border-bottom:1px solid var(--grid)}
th:first-child,td:first-child{text-align:left;padding-left:0}
.flagged{color:var(--flag)}
.facts td{text-align:left;white-space:normal;overflow-wrap:anywhere;vertical-align:top}
.faults td:last-child{text-align:left;white-space:normal}
.facts td:first-child{color:var(--faint);white-space:nowrap;width:1%}
.bar{display:flex;align-items:center;gap:10px;font-size:.875rem;margin:4px 0}
.bar span{width:140px;flex:none}.bar i{height:14px;background:var(--mark);border-radius:3px}
.films{display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:14px}
video{width:100%;border-radius:8px;background:#000}
details{margin:8px 0}summary{cursor:pointer;color:var(--mark)}
a{color:var(--mark)}
"""
