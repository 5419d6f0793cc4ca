//! What a run came to: counts, rates and percentiles, computed from what each request came to. Prints nothing.

use super::answer::{Answer, Failed, Kind};
use std::collections::BTreeMap;

/// A request that was sent. Times are seconds from the beginning of the run.
#[derive(Clone, Debug)]
pub struct Sample {
    pub start: f64,
    pub end: f64,
    /// Tokens of the prompt as the client knows them, for servers that do not say.
    pub prompt_tokens: u64,
    pub result: Result<Answer, Failed>,
}

impl Answer {
    /// Seconds a token after the first; none if there is no other.
    fn per_token(&self) -> Option<f64> {
        let more = self.output_tokens.checked_sub(1).filter(|&n| n > 0)?;
        Some((self.end - self.first?) / more as f64)
    }
}

/// Times that are told of, in the order in which they are: with vLLM's names for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    Ttft,
    Tpot,
    Itl,
    E2el,
}

impl Metric {
    pub const ALL: [Metric; 4] = [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el];

    /// Its name in fields of JSON, and in upper case in a table.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Ttft => "ttft",
            Metric::Tpot => "tpot",
            Metric::Itl => "itl",
            Metric::E2el => "e2el",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Metric::Ttft => "Time to First Token",
            Metric::Tpot => "Time per Output Token (excl. 1st token)",
            Metric::Itl => "Inter-token Latency",
            Metric::E2el => "End-to-end Latency",
        }
    }

    /// The values that an answer adds, seconds.
    fn of(self, answer: &Answer) -> Vec<f64> {
        match self {
            Metric::Ttft => answer.first.into_iter().collect(),
            Metric::Tpot => answer.per_token().into_iter().collect(),
            Metric::Itl => answer.gaps.clone(),
            Metric::E2el => vec![answer.end],
        }
    }
}

/// An upper bound of a request's time, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    pub metric: Metric,
    pub seconds: f64,
}

impl std::str::FromStr for Bound {
    type Err = String;

    /// `ttft:500`: milliseconds.
    fn from_str(text: &str) -> Result<Bound, String> {
        let want = || "ttft, tpot or e2el, a colon and milliseconds above 0, such as ttft:500".to_owned();
        let (name, ms) = text.split_once(':').ok_or_else(want)?;
        // A request has many gaps between tokens and none stands for it.
        let metric =
            Metric::ALL.into_iter().find(|m| m.name() == name && *m != Metric::Itl).ok_or_else(want)?;
        let ms = ms.parse::<f64>().ok().filter(|ms| *ms > 0.0 && ms.is_finite()).ok_or_else(want)?;
        Ok(Bound { metric, seconds: ms / 1e3 })
    }
}

impl Bound {
    /// True if the answer keeps it. Without a second token there is no time between tokens that could be too long.
    fn holds(self, answer: &Answer) -> bool {
        match self.metric {
            Metric::Tpot if answer.output_tokens <= 1 => true,
            metric => metric.of(answer).first().is_some_and(|&value| value <= self.seconds),
        }
    }
}

/// How values are distributed; the unit is theirs.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    pub mean: f64,
    pub median: f64,
    /// Of the values themselves: divided by their number.
    pub std: f64,
    /// As they were asked for: each in percent, with its value.
    pub percentiles: Vec<(f64, f64)>,
}

impl Spread {
    /// None of no values.
    fn new(mut values: Vec<f64>, percentiles: &[f64]) -> Option<Spread> {
        if values.is_empty() {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        Some(Spread {
            mean,
            median: percentile(&values, 50.0),
            std: variance.sqrt(),
            percentiles: percentiles.iter().map(|&p| (p, percentile(&values, p))).collect(),
        })
    }
}

/// The value below which `p` percent are, of values in order; between two it is on the line through them (NumPy's default).
fn percentile(sorted: &[f64], p: f64) -> f64 {
    let at = (sorted.len() - 1) as f64 * p / 100.0;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Failures {
    pub kind: Kind,
    pub count: usize,
    /// What the first one said.
    pub message: String,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Summary {
    pub completed: usize,
    pub failed: usize,
    pub failures: Vec<Failures>,
    /// Answers in which no event brought a token: when it came is not known.
    pub silent: usize,
    /// Seconds from the first request to the end of the last answer.
    pub duration: f64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Most requests that were open at once.
    pub peak: usize,
    /// Requests that kept all bounds; none if there are no bounds.
    pub good: Option<usize>,
    /// Seconds that requests were open, all together.
    open: f64,
    /// In milliseconds; none where there is no value.
    pub times: Vec<(Metric, Option<Spread>)>,
}

impl Summary {
    /// Of a run that took this long, seconds.
    pub fn new(samples: &[Sample], duration: f64, percentiles: &[f64], bounds: &[Bound]) -> Summary {
        let answers = || samples.iter().filter_map(|s| s.result.as_ref().ok());
        let times = |metric: Metric| {
            let values = answers().flat_map(|a| metric.of(a)).map(|seconds| 1e3 * seconds).collect();
            (metric, Spread::new(values, percentiles))
        };
        let input = |s: &Sample| s.result.as_ref().ok().map(|a| a.prompt_tokens.unwrap_or(s.prompt_tokens));
        let good = answers().filter(|a| bounds.iter().all(|b| b.holds(a))).count();
        let completed = answers().count();
        Summary {
            completed,
            failed: samples.len() - completed,
            failures: failures(samples),
            silent: answers().filter(|a| a.first.is_none()).count(),
            duration,
            input_tokens: samples.iter().filter_map(input).sum(),
            output_tokens: answers().map(|a| a.output_tokens).sum(),
            peak: peak(samples),
            good: (!bounds.is_empty()).then_some(good),
            open: samples.iter().map(|s| s.end - s.start).sum(),
            times: Metric::ALL.into_iter().map(times).collect(),
        }
    }

    /// A second, of the whole run.
    fn rate(&self, count: f64) -> f64 {
        if self.duration > 0.0 { count / self.duration } else { 0.0 }
    }

    pub fn request_throughput(&self) -> f64 {
        self.rate(self.completed as f64)
    }

    pub fn request_goodput(&self) -> Option<f64> {
        self.good.map(|good| self.rate(good as f64))
    }

    pub fn output_throughput(&self) -> f64 {
        self.rate(self.output_tokens as f64)
    }

    pub fn total_token_throughput(&self) -> f64 {
        self.rate((self.input_tokens + self.output_tokens) as f64)
    }

    /// Requests that were open at once, in the mean over the run.
    pub fn concurrency(&self) -> f64 {
        self.rate(self.open)
    }
}

/// Failures by kind, the most frequent first.
fn failures(samples: &[Sample]) -> Vec<Failures> {
    let mut kinds: BTreeMap<Kind, Failures> = BTreeMap::new();
    for failed in samples.iter().filter_map(|s| s.result.as_ref().err()) {
        let first = || Failures { kind: failed.kind, count: 0, message: failed.message.clone() };
        kinds.entry(failed.kind).or_insert_with(first).count += 1;
    }
    let mut list: Vec<Failures> = kinds.into_values().collect();
    list.sort_by_key(|f| std::cmp::Reverse(f.count));
    list
}

/// Most requests open at once; one that ends when another begins does not overlap it.
fn peak(samples: &[Sample]) -> usize {
    let mut changes: Vec<(f64, i64)> = samples.iter().flat_map(|s| [(s.start, 1), (s.end, -1)]).collect();
    changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let open = changes.iter().scan(0, |open, (_, change)| {
        *open += change;
        Some(*open)
    });
    open.max().unwrap_or(0).max(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(output: u64, first: f64, gaps: &[f64], end: f64) -> Answer {
        Answer { prompt_tokens: Some(5), output_tokens: output, first: Some(first), gaps: gaps.to_vec(), end }
    }

    fn sample(start: f64, result: Result<Answer, Failed>) -> Sample {
        let end = start + result.as_ref().map_or(0.1, |a| a.end);
        Sample { start, end, prompt_tokens: 9, result }
    }

    #[test]
    fn percentiles_lie_between_values_as_numpy_has_them() {
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!((percentile(&values, 0.0), percentile(&values, 100.0)), (1.0, 10.0));
        assert_eq!((percentile(&values, 50.0), percentile(&[3.0], 99.0)), (5.5, 3.0));
        assert!((percentile(&values, 90.0) - 9.1).abs() < 1e-12);
        assert!((percentile(&values, 99.0) - 9.91).abs() < 1e-12);
        let spread = Spread::new(vec![4.0, 2.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], &[25.0]).expect("values");
        assert_eq!((spread.mean, spread.median, spread.std), (5.0, 4.5, 2.0));
        assert_eq!(spread.percentiles, [(25.0, 4.0)]);
        assert_eq!(Spread::new(Vec::new(), &[50.0]), None);
    }

    #[test]
    fn a_run_is_summed_up() {
        let refused = |status| Err(Failed::new(Kind::Status(status), format!("says {status}")));
        let unsaid = Answer { prompt_tokens: None, ..answer(1, 0.4, &[], 0.4) };
        let samples = [
            sample(0.0, Ok(answer(3, 0.1, &[0.1, 0.3], 0.5))),
            sample(0.2, refused(503)),
            sample(0.4, Ok(unsaid)),
            sample(0.5, refused(429)),
            sample(0.6, refused(429)),
        ];
        let bounds = ["ttft:200".parse().unwrap(), "tpot:250".parse().unwrap()];
        let s = Summary::new(&samples, 2.0, &[50.0], &bounds);
        assert_eq!((s.completed, s.failed, s.silent), (2, 3, 0));
        assert_eq!((s.input_tokens, s.output_tokens), (5 + 9, 3 + 1));
        assert_eq!((s.request_throughput(), s.request_goodput()), (1.0, Some(0.5)));
        assert_eq!((s.output_throughput(), s.total_token_throughput()), (2.0, 9.0));
        assert!((s.concurrency() - (0.5 + 0.4 + 3.0 * 0.1) / 2.0).abs() < 1e-9);
        let counts: Vec<_> = s.failures.iter().map(|f| (f.kind, f.count, f.message.as_str())).collect();
        assert_eq!(counts, [(Kind::Status(429), 2, "says 429"), (Kind::Status(503), 1, "says 503")]);
        let means: Vec<f64> = s.times.iter().map(|(_, spread)| spread.as_ref().unwrap().mean).collect();
        for (mean, want) in means.iter().zip([250.0, 200.0, 200.0, 450.0]) {
            assert!((mean - want).abs() < 1e-9, "{means:?}");
        }
        let none = Summary::new(&[], 0.0, &[50.0], &[]);
        assert_eq!((none.request_throughput(), none.request_goodput(), none.peak), (0.0, None, 0));
    }

    #[test]
    fn requests_are_open_at_once_only_while_they_overlap() {
        let at = |start, end| Sample { start, end, ..sample(0.0, Ok(answer(1, 0.1, &[], 0.1))) };
        assert_eq!(peak(&[at(0.0, 1.0), at(1.0, 2.0), at(2.0, 3.0)]), 1);
        assert_eq!(peak(&[at(0.0, 1.5), at(1.0, 2.0), at(1.2, 3.0), at(5.0, 6.0)]), 3);
    }

    #[test]
    fn bounds_hold_or_do_not() {
        let bound = |text: &str| text.parse::<Bound>().expect("a bound");
        let slow = answer(3, 0.1, &[0.1, 0.3], 0.5);
        assert!(bound("ttft:100").holds(&slow) && !bound("ttft:99").holds(&slow));
        assert!(bound("tpot:201").holds(&slow) && !bound("tpot:199").holds(&slow));
        assert!(bound("e2el:500.5").holds(&slow) && !bound("e2el:499").holds(&slow));
        assert!(bound("tpot:1").holds(&answer(1, 0.4, &[], 0.4)));
        let silent = Answer { first: None, ..slow };
        assert!(!bound("ttft:9999").holds(&silent) && !bound("tpot:9999").holds(&silent));
        for text in ["ttft", "itl:5", "ttft:0", "ttft:x", "ttft:inf", "x:5", ""] {
            assert!(text.parse::<Bound>().is_err(), "{text}");
        }
    }
}
