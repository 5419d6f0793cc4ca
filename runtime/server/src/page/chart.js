// A card with figures of the moment and a small chart of the last minutes. Draws what it is given; computes no metric.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [300, 80];

/** An element with a class and a text. */
export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

const round = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Ways of writing a number, by the word that a chart has for its unit. */
const UNITS = {
  count: (n) => (n < 100 ? round : whole).format(n),
  "per second": (n) => `${(n < 100 ? round : whole).format(n)}/s`,
  share: (n) => `${round.format(n * 100)} %`,
  seconds: (n) => (n < 1 ? `${round.format(n * 1000)} ms` : `${round.format(n)} s`),
};

/** A number with its unit; a dash if it is not known. */
export function written(number, unit) {
  return number === null || Number.isNaN(number) ? "–" : UNITS[unit](number);
}

/** The next of 1, 2, 5, 10, 20, … that is no less. */
function ceiling(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= number * 0.999999);
}

/**
 * A card. `lines` are names of its lines, `top` the end of the scale if it is fixed. `draw` takes points, each with a
 * `time` and `values`, one a line or null, and shows those of the last `span` seconds.
 */
export function makeChart({ title, unit, lines, top }, span) {
  const card = element("figure");
  card.append(element("figcaption", "", title));
  const list = card.appendChild(element("dl"));
  const figures = lines.map((name) => {
    const pair = list.appendChild(element("div"));
    pair.append(element("dt", "", name));
    return pair.appendChild(element("dd", "", "–"));
  });
  const svg = card.appendChild(document.createElementNS(SVG, "svg"));
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title} over the last ${span / 60} minutes`);
  const paths = lines.map(() => svg.appendChild(document.createElementNS(SVG, "path")));
  const scale = card.appendChild(element("p", "scale"));
  scale.append(element("span", "", `${span / 60} min ago`));
  const most = scale.appendChild(element("span"));
  scale.append(element("span", "", "now"));

  function draw(points) {
    const last = points.at(-1);
    figures.forEach((figure, i) => (figure.textContent = written(last?.values[i] ?? null, unit)));
    const known = points.flatMap((p) => p.values).filter((v) => v !== null);
    const end = top ?? ceiling(Math.max(...known, 0) || 1);
    most.textContent = known.length ? `top is ${written(end, unit)}` : "no values yet";
    paths.forEach((path, i) => path.setAttribute("d", outline(points, i, end, last?.time ?? 0)));
  }

  function outline(points, i, end, now) {
    let [text, open] = ["", false];
    for (const { time, values } of points) {
      // A line has a gap where nothing is known.
      if (values[i] !== null) {
        const x = WIDTH * (1 - (now - time) / span);
        const y = (HEIGHT - 2) * (1 - Math.min(values[i] / end, 1)) + 1;
        text += `${open ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      }
      open = values[i] !== null;
    }
    return text;
  }

  return { card, draw };
}
