//! Rows with their results, and how they are printed. Nothing is measured.

use serde_json::{Value, json};
use std::io::Write;

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub what: String,
    pub unit: String,
    /// True if less is better.
    pub less: bool,
    /// Recorded figures, by peer.
    pub peers: Vec<(String, f64)>,
    pub goal: Option<f64>,
    /// Least part of the limit, where that is a goal.
    pub goal_of_limit: Option<f64>,
    /// The result and the part of the limit, or why there is none.
    pub outcome: Result<(f64, Option<f64>), String>,
}

impl Row {
    /// The figure of the best peer.
    pub fn best_peer(&self) -> Option<f64> {
        let better = |a: f64, b: f64| if self.less { a.min(b) } else { a.max(b) };
        self.peers.iter().map(|p| p.1).reduce(better)
    }

    /// How many times as fast as the best peer.
    pub fn ahead(&self) -> Option<f64> {
        let (peer, (ours, _)) = (self.best_peer()?, self.outcome.as_ref().ok()?);
        Some(if self.less { peer / ours } else { ours / peer })
    }

    /// Whether each goal of the row is reached; `None` if it has none or a part of it is not known.
    pub fn met(&self) -> Option<bool> {
        let (ours, of_limit) = self.outcome.as_ref().ok()?;
        let reached = self.goal.map(|goal| if self.less { *ours <= goal } else { *ours >= goal });
        let part = match self.goal_of_limit {
            Some(goal) => Some((*of_limit)? >= goal),
            None => None,
        };
        match (reached, part) {
            (Some(a), Some(b)) => Some(a && b),
            (a, b) => a.or(b),
        }
    }

    fn goal_text(&self) -> String {
        let sign = if self.less { "<=" } else { ">=" };
        let number = self.goal.map(|g| format!("{sign} {}", figure(g)));
        let part = self.goal_of_limit.map(percent);
        match number.into_iter().chain(part).collect::<Vec<_>>() {
            goals if goals.is_empty() => "-".to_owned(),
            goals => goals.join(", "),
        }
    }

    /// `1B bf16 decode, batch 1   0.912 ms   vLLM 1.938   2.13x   <= 0.950   met   88 %`.
    pub fn line(&self) -> String {
        let peers: Vec<String> =
            self.peers.iter().map(|(name, x)| format!("{name} {}", figure(*x))).collect();
        let peers = if peers.is_empty() { "-".to_owned() } else { peers.join(", ") };
        let goal = self.goal_text();
        let (what, unit) = (&self.what, &self.unit);
        match &self.outcome {
            Err(why) => {
                format!("{what:44} {:>9} {unit:8} {peers:30} {:>7}  {goal:16} not measured: {why}", "-", "-")
            }
            Ok((ours, of_limit)) => format!(
                "{what:44} {:>9} {unit:8} {peers:30} {:>7}  {goal:16} {:4} {:>8}",
                figure(*ours),
                self.ahead().map_or("-".to_owned(), |x| format!("{x:.2}x")),
                self.met().map_or("-", |met| if met { "met" } else { "no" }),
                of_limit.map_or("-".to_owned(), percent),
            ),
        }
    }

    pub fn json(&self) -> Value {
        let peers: serde_json::Map<_, _> =
            self.peers.iter().map(|(name, figure)| (name.clone(), json!(figure))).collect();
        let (ours, of_limit) = match &self.outcome {
            Ok((ours, of_limit)) => (Some(*ours), *of_limit),
            Err(_) => (None, None),
        };
        json!({
            "what": self.what, "unit": self.unit, "ours": ours, "of_limit": of_limit, "peers": peers,
            "ahead": self.ahead(), "goal": self.goal, "goal_of_limit": self.goal_of_limit, "met": self.met(),
            "not_measured": self.outcome.as_ref().err(),
        })
    }
}

/// The names of the columns.
pub fn header() -> String {
    format!(
        "{:44} {:>9} {:8} {:30} {:>7}  {:16} {:4} {:>8}",
        "what", "trtc", "", "recorded", "ahead", "goal", "", "of limit"
    )
}

/// Four digits or more, as many as say something.
fn figure(x: f64) -> String {
    match x.abs() {
        a if a < 10.0 => format!("{x:.3}"),
        a if a < 1000.0 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    }
}

fn percent(part: f64) -> String {
    format!("{:.0} %", 100.0 * part)
}

/// The machine, as far as the measurements have told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    pub device: Option<String>,
    pub driver: Option<String>,
    /// Copy bandwidths of the commands, GB/s.
    pub copies: Vec<f64>,
}

impl Machine {
    /// `NVIDIA H100 80GB HBM3, driver 580.159, copy 3012 to 3018 GB/s`.
    pub fn line(&self) -> String {
        let device = self.device.as_deref().unwrap_or("device not known");
        let driver = self.driver.as_ref().map(|d| format!(", driver {d}")).unwrap_or_default();
        let copy = match self.range() {
            Some((least, most)) if most - least < 0.5 => format!(", copy {most:.0} GB/s"),
            Some((least, most)) => format!(", copy {least:.0} to {most:.0} GB/s"),
            None => ", copy bandwidth not measured".to_owned(),
        };
        format!("{device}{driver}{copy}")
    }

    fn range(&self) -> Option<(f64, f64)> {
        let least = self.copies.iter().copied().reduce(f64::min)?;
        Some((least, self.copies.iter().copied().fold(least, f64::max)))
    }

    /// Everything as one object.
    pub fn json(&self, rows: &[Row]) -> Value {
        json!({
            "device": self.device, "driver": self.driver,
            "copy_bandwidth_gb_s": self.range().map(|(least, most)| [least, most]),
            "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
        })
    }
}

/// The last lines: how many goals are met, and with which bandwidth.
pub fn summary(out: &mut dyn Write, machine: &Machine, rows: &[Row], seconds: f64) -> std::io::Result<()> {
    let count = |met| rows.iter().filter(|r| r.met() == met).count();
    let missing = rows.iter().filter(|r| r.outcome.is_err()).count();
    let behind = rows.iter().filter(|r| r.ahead().is_some_and(|x| x < 1.0)).count();
    writeln!(out, "{}", machine.line())?;
    writeln!(
        out,
        "{} goals met, {} not, {} rows without a goal, {missing} not measured; behind a recorded figure in {behind}; {seconds:.0} s",
        count(Some(true)),
        count(Some(false)),
        count(None) - missing,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            what: "decode".into(),
            unit: "ms".into(),
            less: true,
            peers: vec![("vLLM".into(), 2.0), ("other".into(), 1.5)],
            goal: Some(1.0),
            goal_of_limit: None,
            outcome: Ok((0.75, Some(0.9))),
        }
    }

    #[test]
    fn a_goal_is_met_in_each_of_its_parts() {
        assert_eq!((row().met(), row().ahead()), (Some(true), Some(2.0)));
        assert_eq!(Row { goal_of_limit: Some(0.95), ..row() }.met(), Some(false));
        assert_eq!(Row { goal: None, goal_of_limit: Some(0.85), ..row() }.met(), Some(true));
        assert_eq!(Row { goal: None, ..row() }.met(), None);
        let no_limit = Row { outcome: Ok((0.75, None)), goal_of_limit: Some(0.85), ..row() };
        assert_eq!(no_limit.met(), None, "half of the goal is not known");
        assert_eq!(Row { outcome: Err("no".into()), ..row() }.met(), None);
        let more = Row { less: false, unit: "tok/s".into(), ..row() };
        assert_eq!((more.met(), more.best_peer(), more.ahead()), (Some(false), Some(2.0), Some(0.375)));
    }

    #[test]
    fn lines_stand_under_the_header() {
        let line = row().line();
        assert_eq!(line.len(), header().len());
        for part in ["0.750 ms", "vLLM 2.000, other 1.500", "2.00x", "<= 1.000", " met ", "90 %"] {
            assert!(line.contains(part), "{line}");
        }
        let line = Row { outcome: Err("no engine".into()), goal_of_limit: Some(0.85), ..row() }.line();
        assert!(line.contains("<= 1.000, 85 %") && line.ends_with("not measured: no engine"), "{line}");
    }

    #[test]
    fn the_machine_is_named_with_its_bandwidth() {
        let mut machine = Machine { device: Some("H100".into()), ..Machine::default() };
        assert_eq!(machine.line(), "H100, copy bandwidth not measured");
        machine.copies = vec![3018.2, 3012.0];
        machine.driver = Some("580.1".into());
        assert_eq!(machine.line(), "H100, driver 580.1, copy 3012 to 3018 GB/s");
        let json = machine.json(&[row(), Row { outcome: Err("x".into()), ..row() }]);
        assert_eq!((&json["rows"][0]["met"], &json["rows"][1]["not_measured"]), (&json!(true), &json!("x")));
    }

    #[test]
    fn the_summary_counts_each_row_once() {
        let rows = [
            row(),
            Row { goal: Some(0.5), ..row() },
            Row { goal: None, outcome: Ok((3.0, None)), ..row() },
            Row { outcome: Err("x".into()), ..row() },
        ];
        let mut out = Vec::new();
        summary(&mut out, &Machine::default(), &rows, 12.0).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("1 goals met, 1 not, 1 rows without a goal, 1 not measured; behind a recorded figure in 1; 12 s"),
            "{text}"
        );
    }
}
