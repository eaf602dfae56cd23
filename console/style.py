"""The look of the pages; colours of Okabe and Ito 2008, which colour-blind people can tell apart."""

from charts import chart_style

_PAGES = """
:root {
  --t-back: #f7f7f5; --t-card: #fff; --t-ink: #1b1b1b; --t-soft: #5c5c5c; --t-line: #ddd; --t-link: #00507d;
  --t-bad: #a33000;
}
.body--dark {
  --t-back: #121314; --t-card: #1d1f21; --t-ink: #ececec; --t-soft: #a9a9a9; --t-line: #3a3d40;
  --t-link: #7cc4f0; --t-bad: #ff9a73;
}
body { background: var(--t-back); color: var(--t-ink); }
.nicegui-content { padding: 0; gap: 0; display: block; }
.t-header {
  display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; align-items: center; padding: .6rem 1rem;
  background: var(--t-card); border-bottom: 1px solid var(--t-line);
}
.t-header > div { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: center; }
.t-header nav { display: flex; flex-wrap: wrap; gap: .1rem .9rem; }
.t-header a {
  color: var(--t-ink); text-decoration: none; padding: .3rem 0; border-bottom: 2px solid transparent;
}
.t-header a[aria-current] { border-color: #0072b2; font-weight: 600; }
.t-switches { margin-left: auto; }
.t-switch {
  border: 1px solid var(--t-line); border-radius: .3rem; padding: .2rem .6rem; background: none;
  color: inherit; cursor: pointer;
}
.t-badge { color: var(--t-soft); font-size: .85rem; }
a:focus-visible, button:focus-visible, summary:focus-visible, input:focus-visible {
  outline: 3px solid #e69f00; outline-offset: 2px;
}
.t-main { padding: 1rem; max-width: 90rem; margin: 0 auto; }
.t-main h1 { font-size: 1.35rem; font-weight: 600; margin: 0 0 .6rem; line-height: 1.3; }
.t-main h2 { font-size: 1.05rem; font-weight: 600; margin: 1rem 0 .4rem; line-height: 1.3; }
.t-two { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1rem; }
@media (min-width: 960px) {
  .t-two { grid-template-columns: 21rem minmax(0, 1fr); }
  .t-side { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
}
.t-card {
  background: var(--t-card); border: 1px solid var(--t-line); border-radius: .5rem; padding: .8rem 1rem;
  min-width: 0;
}
.t-side { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1rem; align-items: start; }
.t-single { grid-template-columns: minmax(0, 1fr) !important; }
.t-note { color: var(--t-soft); margin: .3rem 0; overflow-wrap: anywhere; }
.t-failure {
  color: var(--t-bad); border-left: 4px solid var(--t-bad); padding: .4rem .8rem; margin: .5rem 0;
  overflow-wrap: anywhere;
}
.t-label { display: flex; justify-content: space-between; font-size: .85rem; color: var(--t-soft); }
.t-results { list-style: none; padding: 0; margin: 0; }
.t-result { padding: .45rem 0; border-bottom: 1px solid var(--t-line); }
.t-head { display: flex; gap: .5rem; align-items: baseline; }
.t-rank { color: var(--t-soft); min-width: 1.6rem; text-align: right; font-variant-numeric: tabular-nums; }
.t-name { color: var(--t-link); overflow-wrap: anywhere; }
.t-id { color: var(--t-soft); overflow-wrap: anywhere; }
.t-score { margin-left: auto; font-variant-numeric: tabular-nums; }
.t-bar { display: flex; height: .55rem; margin: .25rem 0 0 2.1rem; }
.t-piece { display: inline-block; height: 100%; }
.t-history { background: #0072b2; } .t-text { background: #e69f00; } .t-social { background: #009e73; }
.t-query { background: #cc79a7; } .t-prior { background: #8a8a8a; }
.t-minus { background-image: repeating-linear-gradient(45deg, transparent 0 3px, var(--t-card) 3px 6px); }
.t-legend { display: flex; flex-wrap: wrap; gap: .2rem .9rem; font-size: .85rem; margin: .4rem 0; }
.t-key { background: none !important; display: inline-flex; align-items: center; gap: .35rem; }
.t-key::before { content: ""; width: .8rem; height: .8rem; display: inline-block; }
.t-key.t-history::before { background: #0072b2; }
.t-key.t-text::before { background: #e69f00; }
.t-key.t-social::before { background: #009e73; }
.t-key.t-query::before { background: #cc79a7; } .t-key.t-prior::before { background: #8a8a8a; }
.t-result details { margin-left: 2.1rem; font-size: .9rem; }
.t-result summary { cursor: pointer; color: var(--t-soft); }
.t-result details ul { margin: .2rem 0; padding-left: 1rem; list-style: disc; }
.t-table { border-collapse: collapse; width: 100%; } .t-scroll { overflow-x: auto; }
.t-look { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: end; margin-bottom: .8rem; }
.t-look label { display: flex; flex-direction: column; font-size: .85rem; color: var(--t-soft); }
.t-look input, .t-look select {
  border: 1px solid var(--t-line); border-radius: .3rem; padding: .35rem .6rem; background: var(--t-card);
  color: var(--t-ink); font-size: 1rem;
}
.t-long { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 20rem; overflow-y: auto; }
.t-charts { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1rem; }
@media (min-width: 960px) { .t-charts { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
.t-minutes { margin: 0; } .t-minutes svg { width: 100%; height: auto; display: block; }
.t-minutes figcaption { font-size: .9rem; color: var(--t-soft); }
.t-minutes text { fill: var(--t-soft); font-size: 11px; }
.t-minutes .t-axis { stroke: var(--t-line); }
.t-minutes polyline { fill: none; stroke-width: 2; background: none; }
.t-minutes polyline.t-social { stroke: #009e73; } .t-minutes polyline.t-text { stroke: #e69f00; }
.t-minutes rect.t-history { fill: #0072b2; } .t-minutes rect.t-bad { fill: #d55e00; }
.t-minutes circle.t-social { fill: #009e73; } .t-minutes circle.t-text { fill: #e69f00; }
.t-key.t-bad::before { background: #d55e00; }
.t-alerts { list-style: none; padding: 0; margin: 0; }
.t-alert { border-left: 4px solid #e69f00; padding: .3rem .8rem; margin: .4rem 0; overflow-wrap: anywhere; }
.t-alert.t-critical { border-color: var(--t-bad); }
.t-well { color: var(--t-soft); margin: 0; }
.t-map { position: relative; color: var(--t-ink); }
.t-map canvas {
  width: 100%; height: min(70vh, 46rem, 110vw); display: block; touch-action: none; cursor: grab;
  border: 1px solid var(--t-line); background: var(--t-card);
}
.t-map canvas:focus-visible { outline: 3px solid #e69f00; outline-offset: 2px; }
.t-tip {
  position: absolute; max-width: 18rem; padding: .2rem .5rem; font-size: .85rem; pointer-events: none;
  background: var(--t-ink); color: var(--t-card); border-radius: .3rem; overflow-wrap: anywhere;
}
.t-map-legend { display: flex; flex-wrap: wrap; gap: .2rem .9rem; font-size: .85rem; margin: .5rem 0; }
.t-map-legend label { display: inline-flex; align-items: center; gap: .3rem; cursor: pointer; }
.t-map-legend i { width: .8rem; height: .8rem; display: inline-block; }
.t-boxes { border: 0; padding: 0; margin: .2rem 0 .5rem; display: flex; flex-wrap: wrap; gap: 0 .8rem; }
.t-boxes legend { font-size: .85rem; color: var(--t-soft); padding: 0; }
.t-range { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; margin: .2rem 0 .6rem; }
.t-goes { list-style: disc; padding-left: 1.2rem; }
details > summary { cursor: pointer; display: list-item; list-style: disclosure-closed inside; }
details[open] > summary { list-style-type: disclosure-open; }
.t-settings, .t-settings * { box-sizing: border-box; }
.t-what { min-width: 0; }
.t-card > h2:first-child, .t-card > div > h2:first-child { margin-top: 0; }
.t-table th, .t-table td {
  text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--t-line);
  overflow-wrap: anywhere; vertical-align: top;
}
.t-table th { font-weight: 600; color: var(--t-soft); }
.t-table thead th { overflow-wrap: normal; }
.t-card .c-chart > h2 { margin-top: 0; }
.t-mark { color: var(--t-bad); font-weight: 700; }
.t-differs td { font-weight: 600; }
.t-look select { max-width: min(100%, 24rem); text-overflow: ellipsis; }
.t-choose input { width: 1.1rem; height: 1.1rem; }
"""
STYLE = _PAGES + chart_style(".body--dark .c-chart {{ {} }}")
