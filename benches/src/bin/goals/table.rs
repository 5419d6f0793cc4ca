//! The table of goals as data: models, engines, jobs, and the rows that a job measures, with the peers' figures.
//!
//! `goals.json` is the table. Here it is parsed and checked; nothing is measured.

use crate::report::Row;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The table that comes with the program.
const TABLE: &str = include_str!("../../../goals.json");

/// All of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Where each figure comes from, and what is counted as the limit.
    pub source: BTreeMap<String, String>,
    /// `config.json` of each model, whole.
    pub models: BTreeMap<String, Value>,
    pub engines: Vec<EngineSpec>,
    pub jobs: Vec<Job>,
}

/// An engine: how `trtc build` is to make it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSpec {
    pub name: String,
    /// A key of [`Table::models`].
    pub model: String,
    /// Options of `trtc build`, as one types them.
    pub options: String,
    /// Text of a recipe, for `--recipe`.
    #[serde(default)]
    pub recipe: Option<String>,
}

/// What gives a job's numbers.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The `rows` that the command prints.
    Bench,
    /// Seconds of the whole command, on an engine with its weights in the file.
    Load,
    /// What `goals build` has noted.
    Build,
}

/// One command, and the rows that it measures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    pub kind: Kind,
    /// Name of an engine; none for [`Kind::Build`].
    #[serde(default)]
    pub engine: String,
    /// Arguments of trtc. `{engine}` is the file; `{at}` and `{kernel}` are lists of what the wanted rows need.
    #[serde(default)]
    pub run: String,
    /// Name of the field that `at` selects by; empty if a command prints one row.
    #[serde(default)]
    pub key: String,
    pub series: Vec<Series>,
}

/// Rows that differ in one number. Lists are as long as `at`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// What is measured; `{at}` is the number.
    pub what: String,
    pub at: Vec<u64>,
    /// Part of the kernel's name.
    #[serde(default)]
    pub kernel: String,
    /// Fields of a printed row, besides the key, that must have these values.
    #[serde(default, rename = "where")]
    pub fields: BTreeMap<String, Value>,
    /// Name of the field that is the result.
    pub value: String,
    pub unit: String,
    /// True if less is better.
    pub less: bool,
    /// Recorded figures of each peer.
    #[serde(default)]
    pub peer: BTreeMap<String, Vec<Option<f64>>>,
    pub goal: Goal,
    /// Least part of the limit, where that is a goal too.
    #[serde(default)]
    pub goal_of_limit: Vec<Option<f64>>,
    #[serde(default)]
    pub limit: Option<Limit>,
}

/// What is to be reached.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Goal {
    /// Numbers of this project.
    Each(Vec<Option<f64>>),
    /// The best peer's figure.
    Word(Word),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    Peer,
}

/// What is possible: `row[of] * times / peak` is the part of it that is reached.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    pub of: String,
    #[serde(default = "one")]
    pub times: f64,
    pub peak: Peak,
}

fn one() -> f64 {
    1.0
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Peak {
    Number(f64),
    Measured(Measured),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measured {
    /// The copy bandwidth of the same command, GB/s.
    Copy,
}

impl Table {
    /// The program's own table, or a file instead of it.
    pub fn load(path: Option<&Path>) -> Result<Table, String> {
        let Some(path) = path else { return Table::parse(TABLE).map_err(|e| format!("goals.json: {e}")) };
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Table::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Parses and checks: names exist, lists are as long as they must be.
    pub fn parse(text: &str) -> Result<Table, String> {
        let table: Table = serde_json::from_str(text).map_err(|e| e.to_string())?;
        for engine in &table.engines {
            if !table.models.contains_key(&engine.model) {
                return Err(format!("engine {}: there is no model {:?}", engine.name, engine.model));
            }
        }
        for job in &table.jobs {
            let known = table.engines.iter().any(|e| e.name == job.engine);
            if job.kind != Kind::Build && !known {
                return Err(format!("job {:?}: there is no engine {:?}", job.run, job.engine));
            }
            job.series.iter().try_for_each(Series::check)?;
        }
        Ok(table)
    }
}

impl Series {
    fn check(&self) -> Result<(), String> {
        let whole = |what: &str, found: usize| match found == self.at.len() {
            true => Ok(()),
            false => Err(format!("{:?}: {found} in {what}, {} in at", self.what, self.at.len())),
        };
        if self.at.is_empty() {
            return Err(format!("{:?}: at is empty", self.what));
        }
        self.peer.iter().try_for_each(|(name, list)| whole(name, list.len()))?;
        if !self.goal_of_limit.is_empty() {
            whole("goal_of_limit", self.goal_of_limit.len())?;
            if self.limit.is_none() {
                return Err(format!("{:?}: goal_of_limit without a limit", self.what));
            }
        }
        if let Goal::Each(list) = &self.goal { whole("goal", list.len()) } else { Ok(()) }
    }

    /// Row number `i`, not measured.
    pub fn row(&self, i: usize) -> Row {
        let figures = self.peer.iter().filter_map(|(name, list)| Some((name.clone(), list[i]?)));
        let mut row = Row {
            what: self.what.replace("{at}", &self.at[i].to_string()),
            unit: self.unit.clone(),
            less: self.less,
            peers: figures.collect(),
            goal: None,
            goal_of_limit: self.goal_of_limit.get(i).copied().flatten(),
            outcome: Err("not run".to_owned()),
        };
        row.goal = match &self.goal {
            Goal::Each(list) => list[i],
            Goal::Word(Word::Peer) => row.best_peer(),
        };
        row
    }

    /// The result and the part of the limit that row number `i` has among the rows of a command's output, of which
    /// exactly one must fit.
    pub fn find(
        &self,
        key: &str,
        i: usize,
        rows: &[Value],
        copy: Option<f64>,
    ) -> Result<(f64, Option<f64>), String> {
        let name = |r: &Value| r["kernel"].as_str().unwrap_or_default().to_owned();
        let fits = |r: &&Value| {
            (key.is_empty() || r[key].as_f64() == Some(self.at[i] as f64))
                && name(r).contains(&self.kernel)
                && self.fields.iter().all(|(field, want)| match want.as_f64() {
                    Some(number) => r[field].as_f64() == Some(number),
                    None => r[field] == *want,
                })
        };
        let found: Vec<&Value> = rows.iter().filter(fits).collect();
        let row = match found[..] {
            [row] => row,
            [] => return Err("the output has no such row".to_owned()),
            _ => {
                let names: Vec<String> = found.iter().map(|r| name(r)).collect();
                return Err(format!("{} rows fit: {}", found.len(), names.join(", ")));
            }
        };
        let number = |field: &str| row[field].as_f64().ok_or_else(|| format!("the output has no {field}"));
        let value = number(&self.value)?;
        let Some(limit) = &self.limit else { return Ok((value, None)) };
        let peak = match limit.peak {
            Peak::Number(peak) => Some(peak),
            Peak::Measured(Measured::Copy) => copy,
        };
        let reached = number(&limit.of)? * limit.times;
        Ok((value, peak.map(|peak| reached / peak)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn series(more: Value) -> Series {
        let mut all = json!({ "what": "decode, batch {at}", "at": [1, 8], "value": "us", "unit": "us", "less": true,
            "peer": { "a": [5.0, null], "b": [4.0, 9.0] }, "goal": "peer" });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn the_table_has_every_kind_of_row_and_no_row_twice() {
        let table = Table::load(None).unwrap();
        let mut names: Vec<String> = Vec::new();
        for job in &table.jobs {
            for s in &job.series {
                names.extend((0..s.at.len()).map(|i| s.row(i).what));
            }
        }
        for (part, count) in [
            ("deterministic decode, batch", 4),
            ("decode, batch", 22),
            ("with the output projection, ", 6),
            ("with fp8 attention, ", 3),
            ("bf16 first token, ", 6),
            ("fp8 first token, ", 3),
            ("throughput", 10),
            ("GEMM bf16", 32),
            ("GEMM fp8", 32),
            ("attention prefill", 5),
            ("attention decode", 2),
            ("load to first token", 2),
            ("build of", 2),
            ("stripped", 2),
        ] {
            assert_eq!(names.iter().filter(|n| n.contains(part)).count(), count, "{part}");
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
        // Each argument that a command leaves open is one that its rows give.
        for job in table.jobs.iter().filter(|j| j.kind == Kind::Bench) {
            assert!(job.run.contains("{engine}") && job.run.contains("--json"), "{}", job.run);
            assert_eq!(job.run.contains("{at}"), !job.key.is_empty(), "{}", job.run);
            assert!(job.series.iter().all(|s| job.run.contains("{kernel}") != s.kernel.is_empty()));
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let table = |series: &str, engine: &str| {
            Table::parse(&format!(
                r#"{{"source": {{}}, "models": {{"m": {{}}}}, "engines": [{{"name": "e", "model": "m", "options": ""}}],
                "jobs": [{{"kind": "bench", "engine": "{engine}", "run": "", "series": [{{"what": "w", "value": "v",
                "unit": "u", "less": true, {series}}}]}}]}}"#
            ))
        };
        assert!(table(r#""at": [1], "goal": [2.0]"#, "e").is_ok());
        for (series, engine, says) in [
            (r#""at": [1], "goal": [2.0]"#, "f", "no engine \"f\""),
            (r#""at": [1], "goal": []"#, "e", "0 in goal, 1 in at"),
            (r#""at": [], "goal": []"#, "e", "at is empty"),
            (r#""at": [1], "goal": "peer", "peer": {"p": [1, 2]}"#, "e", "2 in p, 1 in at"),
            (r#""at": [1], "goal": "peer", "goal_of_limit": [0.5]"#, "e", "without a limit"),
            (r#""at": [1], "goal": "best""#, "e", "Goal"),
            (r#""at": [1], "goal": [null], "gaol": 1"#, "e", "gaol"),
        ] {
            let error = table(series, engine).expect_err(series);
            assert!(error.contains(says), "{series}: {error}");
        }
    }

    #[test]
    fn a_row_has_the_figures_of_its_number() {
        let row = series(json!({})).row(0);
        assert_eq!((row.what.as_str(), row.goal), ("decode, batch 1", Some(4.0)));
        assert_eq!(series(json!({})).row(1).peers, [("b".to_owned(), 9.0)]);
        let more = series(json!({ "less": false })).row(0);
        assert_eq!(more.goal, Some(5.0));
    }

    #[test]
    fn one_row_of_the_output_is_found() {
        let s = series(json!({ "kernel": "linear.n8.", "where": { "requests": 8 },
            "limit": { "of": "gb_s", "times": 2.0, "peak": "copy" } }));
        let row = |kernel: &str, tokens: u64, us: f64| json!({ "kernel": kernel, "tokens": tokens, "requests": tokens, "us": us, "gb_s": 10.0 });
        let rows = [row("linear.n80.x", 8, 1.0), row("linear.n8.x", 8, 2.0), row("linear.n8.x", 1, 3.0)];
        assert_eq!(s.find("tokens", 1, &rows, Some(40.0)), Ok((2.0, Some(0.5))));
        assert_eq!(s.find("tokens", 1, &rows, None), Ok((2.0, None)));
        assert!(s.find("tokens", 0, &rows, None).is_err(), "one token is one request, not eight");
        let twice = [row("linear.n8.x", 8, 2.0), row("linear.n8.y", 8, 2.0)];
        assert!(s.find("tokens", 1, &twice, None).is_err_and(|e| e.contains("linear.n8.y")));
    }
}
