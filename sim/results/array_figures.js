"use strict";
// Draws the figures of a pod array. What is drawn was computed before; here names are put to numbers under the pointer.
const data = JSON.parse(document.getElementById("data").textContent);
const HUES = [205, 25, 150, 320, 45, 265, 180, 0];
const CONFIG = { displaylogo: false, responsive: true };

for (const figure of data.figures) {
  const heading = document.createElement("h2");
  heading.innerHTML = figure.heading;
  const text = document.createElement("p");
  text.innerHTML = figure.text;
  const place = document.createElement("div");
  document.getElementById("figures").append(heading, text, place);
  Plotly.newPlot(place, figure.traces, figure.layout, CONFIG);
}

const hue = (network) => HUES[network % HUES.length];
const shade = (network, place) => `hsl(${hue(network)} 70% ${[38, 52, 66, 45, 59][place % 5]}%)`;

// Colours as a stepped scale: value v is in step v + 1 of all.
function scale(run) {
  const colours = ["#e6e9ee"];
  const seen = {};
  for (const [network] of run.layers) {
    seen[network] = (seen[network] ?? -1) + 1;
    colours.push(shade(network, seen[network]));
  }
  return colours.flatMap((colour, i) => [[i / colours.length, colour], [(i + 1) / colours.length, colour]]);
}

function unit(seconds) {
  return seconds < 2e-3 ? ["µs", 1e6] : seconds < 2 ? ["ms", 1e3] : ["s", 1];
}

function draw(run) {
  const [name, per] = unit(run.seconds);
  const wide = (run.seconds * per) / run.rounds.length;
  const place = document.getElementById("pods");
  const trace = {
    type: "heatmap", z: run.layer, x0: wide / 2, dx: wide, y: run.pods, zmin: -0.5, zmax: run.layers.length + 0.5,
    colorscale: scale(run), showscale: false, hoverinfo: "none", zsmooth: false,
  };
  const layout = {
    template: "none", font: data.font, height: 520, margin: { l: 60, r: 20, t: 34, b: 50 },
    xaxis: { title: { text: `time (${name})` } },
    yaxis: { title: { text: "pod" }, autorange: "reversed" },
  };
  Plotly.react(place, [trace], layout, CONFIG).then(() => {
    place.removeAllListeners?.("plotly_hover");
    place.on("plotly_hover", (event) => {
      const point = event.points[0];
      const [row, column] = [point.pointIndex[0], point.pointIndex[1]];
      const round = run.rounds[column];
      const when = `pod ${run.pods[row]}, ${point.x.toPrecision(4)} ${name}`;
      const layer = run.layers[point.z - 1];
      const doing = layer ? `<b>${layer[1]}</b> of ${run.networks[layer[0]]}` : round < 0 ? "between rounds" : "no tile";
      document.getElementById("seen").innerHTML = `${when}${round < 0 ? "" : `, round ${round}`}: ${doing}`;
    });
  });
  document.getElementById("legend").innerHTML = run.networks
    .map((network, i) => `<span><i style="background:hsl(${hue(i)} 70% 45%)"></i>${network}</span>`).join("");
}

if (data.runs.length) {
  document.getElementById("occupancy").hidden = false;
  if (data.left_out) document.getElementById("left").textContent = `${data.left_out} more schedules are not drawn.`;
  const which = document.getElementById("which");
  data.runs.forEach((run, i) => {
    const option = document.createElement("option");
    option.value = i;
    option.innerHTML = run.title;
    which.append(option);
  });
  which.addEventListener("change", () => draw(data.runs[which.value]));
  which.value = Math.max(data.runs.findIndex((run) => run.networks.length > 1), 0);
  draw(data.runs[which.value]);
}
