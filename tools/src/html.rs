//! An engine as one page for a browser: no script, no other file, readable without colours.

use crate::cmd::inspect::{code, launches, summary};
use crate::facts;
use std::fmt::Write;
use trtc_engine::manifest::Manifest;

const STYLE: &str = "\
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}\
body{max-width:72rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%;margin:1rem 0}\
caption{text-align:left;font-weight:600;padding:.5rem 0}\
th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8885}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
meter{width:12rem;height:1em}\
code,pre{font:14px/1.4 ui-monospace,monospace}pre{overflow-x:auto}\
.wide{overflow-x:auto}";

/// Text as HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// A cell of a table: words, or a number that is set to the right.
enum Cell {
    Text(String),
    Code(String),
    Number(String),
    /// A part of a whole, as a bar; the number stands beside it in a cell of its own.
    Part(u64, u64),
}

fn table(out: &mut String, caption: &str, heads: &[(&str, bool)], rows: impl IntoIterator<Item = Vec<Cell>>) {
    let _ =
        write!(out, "<div class=wide tabindex=0><table><caption>{}</caption><thead><tr>", escape(caption));
    for (head, number) in heads {
        let class = if *number { " class=n" } else { "" };
        let _ = write!(out, "<th scope=col{class}>{}</th>", escape(head));
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let _ = match cell {
                Cell::Text(t) => write!(out, "<td>{}</td>", escape(&t)),
                Cell::Code(t) => write!(out, "<td><code>{}</code></td>", escape(&t)),
                Cell::Number(t) => write!(out, "<td class=n>{}</td>", escape(&t)),
                Cell::Part(part, whole) => write!(
                    out,
                    "<td><meter min=0 max={} value={part}>{:.0} %</meter></td>",
                    whole.max(1),
                    100.0 * part as f64 / whole.max(1) as f64
                ),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

/// The page.
pub fn page(m: &Manifest, bytes: u64, hash: &str) -> String {
    let title = escape(&format!("{} {} for {}", m.model.name, m.precision, m.target));
    let mut out = format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body><main><h1>{title}</h1>\n\
         <nav aria-label=Contents><a href=#summary>Summary</a> · <a href=#memory>Memory</a> · \
         <a href=#launches>Launches</a> · <a href=#kernels>Kernels</a> · <a href=#weights>Weights</a></nav>\n"
    );
    out.push_str("<h2 id=summary>Summary</h2>\n");
    let rows = summary(m, bytes, hash)
        .into_iter()
        .map(|(name, value)| vec![Cell::Text(name.to_owned()), Cell::Text(value)]);
    table(&mut out, "Facts of the engine", &[("What", false), ("Value", false)], rows);

    out.push_str("<h2 id=memory>Memory</h2>\n");
    let cache = facts::kv_per_token(m) * u64::from(m.dims.max_seq_len);
    let parts = [
        ("weights", facts::all_weights(m)),
        ("activations", m.arena),
        ("cache of one request of the greatest length", cache),
    ];
    let whole = parts.iter().map(|(_, n)| n).sum();
    let rows = parts.iter().map(|(name, n)| {
        vec![Cell::Text((*name).to_owned()), Cell::Number(facts::human(*n)), Cell::Part(*n, whole)]
    });
    table(&mut out, "What a device holds", &[("What", false), ("Bytes", true), ("Part", false)], rows);

    out.push_str("<h2 id=launches>Launches</h2>\n");
    let rows = m.launches.iter().enumerate().map(|(i, l)| {
        let chosen = l.choices.iter().map(|c| {
            let name = m.kernels.get(c.kernel as usize).map_or("?", |k| k.name.as_str());
            format!("{}..{}{} {name}", c.from, c.to, c.steps.suffix())
        });
        vec![
            Cell::Number(i.to_string()),
            Cell::Text(l.loc.clone()),
            Cell::Code(chosen.collect::<Vec<_>>().join(", ")),
        ]
    });
    let heads = [("Number", true), ("From", false), ("Kernel by token count", false)];
    table(&mut out, "One step, in order", &heads, rows);

    out.push_str("<h2 id=kernels>Kernels</h2>\n");
    for (i, k) in m.kernels.iter().enumerate() {
        let _ = writeln!(
            out,
            "<details><summary><code>{}</code>: {}, {} launches</summary><pre>{}\n\n{}</pre></details>",
            escape(&k.name),
            escape(&code(k)),
            launches(m, i).count(),
            escape(k.contract.trim_end()),
            escape(&format!("{:#?}", k.code))
        );
    }

    out.push_str("<h2 id=weights>Weights</h2>\n");
    let rows = m.weights.iter().map(|w| {
        let shape: Vec<String> = w.shape.iter().map(u64::to_string).collect();
        vec![
            Cell::Code(w.name.clone()),
            Cell::Number(shape.join(" × ")),
            Cell::Text(facts::encoding(w.encoding)),
            Cell::Number(facts::human(facts::weight_bytes(w))),
        ]
    });
    let heads = [("Name", false), ("Shape", true), ("Stored as", false), ("Bytes", true)];
    table(&mut out, "In the order of the manifest", &heads, rows);
    out.push_str("</main></body></html>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<b a=\"x\">&"), "&lt;b a=&quot;x&quot;&gt;&amp;");
        let mut out = String::new();
        let heads = [("a", false)];
        table(&mut out, "<i>", &heads, [vec![Cell::Text("<script>".to_owned())]]);
        assert!(!out.contains("<script>") && !out.contains("<i>"));
    }

    #[test]
    fn tables_have_captions_and_scopes() {
        let mut out = String::new();
        table(
            &mut out,
            "What",
            &[("Bytes", true)],
            [vec![Cell::Number("1".to_owned())], vec![Cell::Part(1, 4)]],
        );
        assert!(out.contains("<caption>What</caption>") && out.contains("<th scope=col class=n>Bytes</th>"));
        assert!(out.contains(">25 %</meter>"));
    }
}
