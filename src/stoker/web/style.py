"""The look of every page: one sheet, light and dark, nothing loaded."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2230;--soft:#5b6577;--line:#dfe3ea;--page:#f6f7f9;--card:#fff;
--blue:#2f6fde;--red:#d1453b;--green:#2e9a5d;--gold:#d99a1c;--violet:#8358c9;--teal:#1f97a6;--grey:#9aa3b2}
@media(prefers-color-scheme:dark){:root{--ink:#e7eaf0;--soft:#9aa5b8;--line:#333b4a;--page:#14181f;--card:#1d232d;
--blue:#6ea0ff;--red:#ff7b70;--green:#5cc98b;--gold:#f0bd55;--violet:#b394f0;--teal:#58c4d2;--grey:#6d7789}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:960px;margin:0 auto;padding:28px 20px 60px}
header h1{margin:0;font-size:26px}
header p,footer,section p{color:var(--soft);margin:4px 0 0}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:18px 20px;margin-top:18px}
h2{font-size:17px;margin:0 0 10px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(120px,1fr));gap:10px;margin-top:18px}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tiles b{display:block;font-size:18px;white-space:nowrap}
.tiles span{color:var(--soft);font-size:12.5px}
svg{width:100%;height:auto;display:block}
svg.share{height:30px;border-radius:6px;overflow:hidden}
polyline{fill:none;stroke-width:2}
polyline.loss{stroke:var(--blue)}
polyline.raw{stroke:var(--blue);stroke-width:1;opacity:.28}
polyline.redone{stroke:var(--grey);stroke-dasharray:4 3}
line.grid{stroke:var(--line)}
text{fill:var(--soft);font-size:12px}
text.title{fill:var(--ink)}
.mark line{stroke-width:1.5;stroke-dasharray:3 3}
.mark.kill line{stroke:var(--red)}.mark.kill text{fill:var(--red)}
.mark.recovery line{stroke:var(--green)}.mark.recovery text{fill:var(--green)}
.productive{fill:var(--green);background:var(--green)}.evaluate{fill:var(--teal);background:var(--teal)}
.checkpoint{fill:var(--violet);background:var(--violet)}.data{fill:var(--gold);background:var(--gold)}
.startup{fill:var(--blue);background:var(--blue)}.detection,.lost{fill:var(--red);background:var(--red)}
.restart{fill:#e28a4b;background:#e28a4b}.other{fill:var(--grey);background:var(--grey)}
ul.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 22px;margin:12px 0 0;padding:0}
ul.legend b{margin:0 6px}ul.legend i{color:var(--soft);font-style:normal}
.key{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:7px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 20px;margin:12px 0 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse}th,td{text-align:right;padding:5px 16px 5px 0}
th:first-child,td:first-child{text-align:left}
th{color:var(--soft);font-weight:500;border-bottom:1px solid var(--line)}
pre{overflow-x:auto;background:var(--page);border-radius:8px;padding:12px;margin:0}
footer{margin-top:18px;font-size:13px}
"""
