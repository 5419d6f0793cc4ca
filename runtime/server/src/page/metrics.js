// Prometheus' text as numbers: readings, rates between two of them, quantiles of what came between. Pure.

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Reads the text: `series` has a list of labels and values for each name. `time` is in seconds. */
export function parse(text, time) {
  const series = new Map();
  for (const line of text.split("\n")) {
    const found = LINE.exec(line);
    if (!found) continue;
    const [, name, inner, value] = found;
    const labels = {};
    for (const [, label, raw] of (inner ?? "").matchAll(LABEL)) {
      labels[label] = raw.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    }
    if (!series.has(name)) series.set(name, []);
    series.get(name).push({ labels, value: value === "+Inf" ? Infinity : Number(value) });
  }
  return { time, series };
}

/** The series of a name whose labels are those, and perhaps more. */
function matching(reading, name, labels) {
  const all = reading.series.get(name) ?? [];
  return all.filter((one) => Object.entries(labels).every(([label, want]) => one.labels[label] === want));
}

/** The sum of the values of all such series; null if there is none. */
export function value(reading, name, labels = {}) {
  const found = matching(reading, name, labels);
  return found.length ? found.reduce((sum, one) => sum + one.value, 0) : null;
}

/** How much a counter grew; null if that is not known: the server may have begun anew. */
export function growth(now, before, name, labels = {}) {
  if (!before) return null;
  const [newer, older] = [value(now, name, labels), value(before, name, labels)];
  return newer === null || older === null || newer < older ? null : newer - older;
}

/** How much a counter grew a second. */
export function rate(now, before, name, labels = {}) {
  const grown = growth(now, before, name, labels);
  return grown === null || now.time <= before.time ? null : grown / (now.time - before.time);
}

/** What was below this share of the values that a histogram took between two readings; null if there were none. */
export function quantile(now, before, name, labels, share) {
  const bucket = `${name}_bucket`;
  const bounds = matching(now, bucket, labels).map((one) => one.labels.le);
  const buckets = bounds.map((le) => ({
    bound: le === "+Inf" ? Infinity : Number(le),
    count: growth(now, before, bucket, { ...labels, le }),
  }));
  if (buckets.some((b) => b.count === null)) return null;
  buckets.sort((a, b) => a.bound - b.bound);
  const total = buckets.at(-1)?.count ?? 0;
  if (total === 0) return null;
  const rank = share * total;
  const at = buckets.findIndex((b) => b.count >= rank);
  const [below, here] = [buckets[at - 1] ?? { bound: 0, count: 0 }, buckets[at]];
  // Above the last bound nothing is known but that.
  if (here.bound === Infinity) return below.bound;
  const inside = here.count - below.count;
  return below.bound + (here.bound - below.bound) * (inside ? (rank - below.count) / inside : 1);
}
