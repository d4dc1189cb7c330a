// The timeline page: keeps every span in typed arrays and draws the view of the window that is on screen.
(function () {
  "use strict";
  const page = JSON.parse(document.getElementById("spans").textContent);
  const root = document.getElementById("timeline");
  const kinds = page.kinds.length;

  function unpack(text, type) {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new type(bytes.buffer);
  }
  const panels = page.panels.map((p) => ({
    rows: p.rows, names: p.names, details: p.details,
    start: unpack(p.columns.start, Float64Array), duration: unpack(p.columns.duration, Float32Array),
    kind: unpack(p.columns.kind, Uint16Array), name: unpack(p.columns.name, Uint32Array),
    detail: unpack(p.columns.detail, Uint32Array),
    areas: p.areas.map((a) => {
      const times = unpack(a.times, Float64Array), share = unpack(a.share, Float32Array);
      const total = new Float64Array(times.length);  // area under the steps up to each time: any mean is a difference
      for (let i = 1; i < times.length; i++) total[i] = total[i - 1] + share[i - 1] * (times[i] - times[i - 1]);
      return { times, share, total };
    }),
  }));
  const tracks = panels.reduce((n, p) => n + p.rows.length, 0);

  // First index in [low, high) whose value is true; values go from false to true.
  function first(low, high, value) {
    while (low < high) {
      const middle = (low + high) >> 1;
      if (value(middle)) high = middle; else low = middle + 1;
    }
    return low;
  }
  const digits = (x, n) => String(+x.toPrecision(n));

  function label(name, kind, width) {
    const short = name.slice(name.lastIndexOf(".") + 1);
    for (const text of [name, short, short.slice(short.lastIndexOf(" ") + 1), kind]) {
      if (text.length * 6.6 + 8 <= width) return text;
    }
    return "";
  }

  function boxes(panel, from, to, pixel, least, put) {
    const { start, duration, kind } = panel;
    let offset = 0;
    panel.rows.forEach((count, row) => {
      const end = (i) => start[i] + duration[i];
      const low = first(offset, offset + count, (i) => end(i) > from);
      const high = first(low, offset + count, (i) => start[i] >= to);
      const owed = new Float64Array(kinds);  // time of each kind not yet shown: colours come in their true proportions
      const close = (a, b, until) => {
        let busy = 0, top = kind[a];
        for (let i = a; i < b; i++) {
          owed[kind[i]] += duration[i];
          busy += duration[i];
        }
        for (let k = 0; k < kinds; k++) if (owed[k] > owed[top]) top = k;
        owed[top] -= busy;
        const wide = until - start[a], share = wide > 0 ? Math.min(1, busy / wide) : 1;
        put(top, row, start[a], wide, `${b - a} ops in ${digits(wide, 4)} ${page.unit}, ${Math.round(100 * share)} % busy` +
          "<br>zoom in to see them", "", 0.25 + 0.75 * share, 0);
      };
      let block = -1;
      for (let i = low; i < high; i++) {
        const wide = duration[i];
        const gap = block < 0 ? 0 : start[i] - end(i - 1);
        if (block >= 0 && (wide >= least || gap > least || start[i] - start[block] >= least)) {
          close(block, i, gap > least ? end(i - 1) : start[i]);
          block = -1;
        }
        if (wide >= least) {
          const name = panel.names[panel.name[i]];
          const at = Math.max(start[i], from), until = Math.min(end(i), to);  // names stay near the screen
          put(kind[i], row, at, until - at,
            `<b>${name}</b><br>${page.kinds[kind[i]]}, ${digits(wide, 6)} ${page.unit} from ${digits(start[i], 9)} ` +
            `${page.unit}<br>${panel.details[panel.detail[i]]}`,
            label(name, page.kinds[kind[i]], (until - at) / pixel), 1, wide > 6 * pixel ? 1 : 0);
        } else if (block < 0) {
          block = i;
        }
      }
      if (block >= 0) close(block, high, end(high - 1));
      offset += count;
    });
  }

  function area(a, from, to, bins) {
    const n = a.times.length, x = [], y = [];
    if (!n) return { x: [from, to], y: [0, 0] };
    const low = first(0, n, (i) => a.times[i] > from), high = first(low, n, (i) => a.times[i] > to);
    const at = (t) => { const i = first(0, n, (k) => a.times[k] > t) - 1; return i < 0 ? 0 : a.share[i]; };
    const upTo = (t) => {
      const i = first(0, n, (k) => a.times[k] > t) - 1;
      return i < 0 ? 0 : a.total[i] + a.share[i] * (t - a.times[i]);
    };
    if (high - low > bins) {
      for (let i = 0, before = upTo(from); i < bins; i++) {
        const next = upTo(from + (to - from) * (i + 1) / bins);
        x.push(from + (to - from) * i / bins);
        y.push((next - before) / (to - from) * bins);
        before = next;
      }
    } else {  // each step as it is, and points in between, so that the hover finds one near the pointer
      const gap = (to - from) / 300;
      let t = from;
      for (let i = low; i <= high; i++) {
        const until = i < high ? a.times[i] : to, value = at(t);
        for (; t < until; t += gap) { x.push(t); y.push(value); }
        t = until;
        if (i < high) { x.push(until); y.push(a.share[i]); }
      }
    }
    x.push(to);
    y.push(at(to));
    return { x, y };
  }

  // Draws into `traces` what can be seen between `from` and `to`, and half as much on either side for dragging.
  function view(traces, range) {
    const width = Math.max(200, root.clientWidth - page.layout.margin.l - page.layout.margin.r);
    const pixel = (range[1] - range[0]) / width, least = pixel * Math.max(2, width * tracks / page.budget);
    const from = 1.5 * range[0] - range[1] / 2, to = 1.5 * range[1] - range[0] / 2;
    panels.forEach((panel, p) => {
      const mine = traces.slice(p * kinds, (p + 1) * kinds);
      for (const t of mine) {
        for (const key of ["base", "x", "y", "customdata", "text"]) t[key] = [];
        t.marker.opacity = [];
        t.marker.line.width = [];
      }
      boxes(panel, from, to, pixel, least, (kind, row, at, wide, hover, text, opacity, border) => {
        const t = mine[kind];
        t.base.push(at); t.x.push(wide); t.y.push(row); t.customdata.push(hover); t.text.push(text);
        t.marker.opacity.push(opacity); t.marker.line.width.push(border);
      });
    });
    let next = panels.length * kinds;
    for (const panel of panels) for (const a of panel.areas) Object.assign(traces[next++], area(a, from, to, width >> 1));
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  function dress(layout) {
    const ink = dark.matches ? "#e6e9ee" : "#1d2430", paper = dark.matches ? "#14181f" : "#ffffff";
    layout.paper_bgcolor = layout.plot_bgcolor = paper;
    layout.font.color = ink;
    layout.hoverlabel = { align: "left", bgcolor: dark.matches ? "#222833" : "#ffffff", bordercolor: "#8a8f98",
      font: { color: ink, size: 12 } };
    for (const t of page.traces) if (t.type === "bar") t.marker.line.color = paper;
  }

  dress(page.layout);
  view(page.traces, page.layout.xaxis.range);
  const config = { responsive: true, scrollZoom: true, displaylogo: false, doubleClick: "reset",
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: "timeline" } };
  const ready = Plotly.newPlot(root, page.traces, page.layout, config);
  const redraw = () => { view(root.data, root.layout.xaxis.range); return Plotly.redraw(root); };
  let waiting = 0;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(redraw, 30); };
  ready.then(() => {
    document.documentElement.dataset.drawnMs = String(Math.round(performance.now()));
    root.on("plotly_relayout", (change) => { if (Object.keys(change).some((k) => k.startsWith("xaxis"))) soon(); });
    addEventListener("resize", soon);
    dark.addEventListener("change", () => { dress(root.layout); redraw(); });
  });

  // Buttons: a window of so much time around the middle of what is shown.
  const nav = document.getElementById("windows");
  function button(text, length) {
    const b = document.createElement("button");
    b.type = "button";
    b.textContent = text;
    b.onclick = () => {
      const [a, z] = root.layout.xaxis.range, whole = length >= page.end - page.begin;
      const from = whole ? page.begin : Math.max(page.begin, Math.min((a + z - length) / 2, page.end - length));
      Plotly.relayout(root, { "xaxis.range": [from, whole ? page.end : from + length] });
    };
    nav.append(b);
  }
  button("everything", page.end - page.begin);
  const top = Math.ceil(Math.log10(page.end - page.begin)) - 1, scale = { "s": 1, "ms": 1e3, "µs": 1e6 }[page.unit];
  for (let power = top; power > top - 4; power--) {
    const seconds = 10 ** power / scale;
    const [unit, factor] = seconds >= 0.9999 ? ["s", 1] : seconds >= 0.9999e-3 ? ["ms", 1e3] : seconds >= 0.9999e-6 ? ["µs", 1e6] : ["ns", 1e9];
    button(`${+(seconds * factor).toPrecision(3)} ${unit}`, 10 ** power);
  }
})();
