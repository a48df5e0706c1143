/** A metric per round, on a canvas; the table of rounds beside it says the same in words. */
import { html, type TemplateResult } from "lit-html";
import { createRef, type Ref, ref } from "lit-html/directives/ref.js";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

export interface Series {
  name: string;
  values: (number | null)[]; // by round
}

const canvas: Ref<HTMLElement> = createRef();
let plotted: uPlot | null = null;
let shown = "";

export function chart({ name, values }: Series): TemplateResult {
  queueMicrotask(() => draw(name, values));
  return html`<figure><figcaption>${name} per round, as reported</figcaption>
    <div class="chart" role="img" aria-label="${name} per round; the table of rounds has the numbers" ${ref(canvas)}></div></figure>`;
}

function draw(name: string, values: (number | null)[]): void {
  const place = canvas.value;
  if (!place) return;
  const style = getComputedStyle(place);
  const [ink, line] = [style.getPropertyValue("--ink"), style.getPropertyValue("--accent")];
  const wanted = JSON.stringify([name, values, ink, place.clientWidth]);
  if (wanted === shown && plotted?.root.parentElement === place) return;
  plotted?.destroy();
  shown = wanted;
  const axis = { stroke: ink, grid: { stroke: style.getPropertyValue("--rule"), width: 1 } };
  plotted = new uPlot(
    {
      width: place.clientWidth,
      height: 200,
      legend: { show: false },
      scales: { x: { time: false } },
      axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }, axis],
      series: [{ label: "round" }, { label: name, stroke: line, width: 2, points: { show: values.length < 60 } }],
    },
    [values.map((_, round) => round), values],
    place,
  );
}
