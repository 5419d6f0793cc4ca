//! Compares two runs output by output. The inputs of what differs are chosen again from the seed.

use crate::fragments::{show, terms};
use crate::inputs::inputs;
use crate::known::{Known, known};
use crate::numbers::mask;
use crate::results::{Entry, Results};
use crate::rng::hash;
use crate::test::{Kind, Test};
use std::collections::BTreeMap;
use std::fmt::Write;
use trtc_runtime::Error;

/// How a comparison is made.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Differences shown of each test.
    pub show: usize,
    /// Differences that are no faults.
    pub known: &'a [Known],
    /// Names begin with this.
    pub only: &'a str,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// For people.
    pub text: String,
    /// Tests that are the same to the bit.
    pub same: usize,
    /// Tests that differ within known bounds.
    pub known: usize,
    /// Tests that differ otherwise, or that one side could not run.
    pub different: usize,
    /// Tests that neither side could run.
    pub neither: usize,
    /// Tests of one file alone.
    pub alone: usize,
}

/// Compares runs of the same seed.
pub fn compare(a: &Results, b: &Results, table: &[Test], options: Options<'_>) -> Result<Report, Error> {
    if a.seed != b.seed {
        return Err(Error::user(format!("the runs have the seeds {} and {}", a.seed, b.seed))
            .help("run both with the same --seed"));
    }
    let mut report = Report::default();
    let tests: BTreeMap<&str, &Test> = table.iter().map(|t| (t.name.as_str(), t)).collect();
    let others: BTreeMap<&str, &Entry> = b.tests.iter().map(|e| (e.name.as_str(), e)).collect();
    let names: BTreeMap<&str, ()> = a.tests.iter().map(|e| (e.name.as_str(), ())).collect();
    let chosen = |name: &str| name.starts_with(options.only);
    report.alone = b.tests.iter().filter(|e| chosen(&e.name) && !names.contains_key(&*e.name)).count();
    for entry in a.tests.iter().filter(|e| chosen(&e.name)) {
        let Some(other) = others.get(&*entry.name) else {
            report.alone += 1;
            continue;
        };
        let Some(test) = tests.get(&*entry.name) else {
            return Err(Error::user(format!("there is no test {}", entry.name))
                .help("compare with the program that made the files"));
        };
        one(test, a.seed, entry, other, options, &mut report)?;
    }
    let Report { same, known, different, neither, alone, .. } = report;
    let _ = writeln!(
        report.text,
        "{same} tests are the same, {known} differ as known, {different} differ, {neither} ran on neither device, \
         {alone} are in one file alone"
    );
    Ok(report)
}

fn one(
    test: &Test,
    seed: u64,
    a: &Entry,
    b: &Entry,
    options: Options<'_>,
    report: &mut Report,
) -> Result<(), Error> {
    let (left, right) = match (&a.outputs, &b.outputs) {
        (Ok(left), Ok(right)) => (left, right),
        (Err(_), Err(_)) => {
            report.neither += 1;
            return Ok(());
        }
        (Err(why), _) | (_, Err(why)) => {
            report.different += 1;
            let side = if a.outputs.is_err() { "first" } else { "second" };
            let _ = writeln!(report.text, "{}: not on the {side} device: {why}", test.name);
            return Ok(());
        }
    };
    let given = inputs(test, seed);
    let wrong = |e: &Entry, out: &[u8]| e.inputs != hash(&given) || out.len() != test.output_bytes();
    if wrong(a, left) || wrong(b, right) {
        return Err(Error::user(format!("{} has other inputs now than in the files", test.name))
            .help("compare with the program that made the files"));
    }
    let found = differences(test, left, right, known(options.known, &test.name));
    if found.all == 0 {
        report.same += 1;
        return Ok(());
    }
    let why = known(options.known, &test.name).map(|k| k.why);
    let text = &mut report.text;
    let worst = found.worst;
    match why {
        Some(why) if found.beyond.is_empty() => {
            report.known += 1;
            let _ = writeln!(
                text,
                "{}: {} of {} differ by at most {worst} steps, as known: {why}",
                test.name, found.all, found.of
            );
            return Ok(());
        }
        Some(_) => {
            let _ = writeln!(
                text,
                "{}: {} of {} differ, {} more than is known, by at most {worst} steps",
                test.name,
                found.all,
                found.of,
                found.beyond.len()
            );
        }
        None => {
            let _ = writeln!(
                text,
                "{}: {} of {} differ, by at most {worst} steps",
                test.name, found.all, found.of
            );
        }
    }
    report.different += 1;
    for difference in found.beyond.iter().take(options.show) {
        describe(test, &given, *difference, text);
    }
    Ok(())
}

/// An element of an output that is not the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Difference {
    thread: usize,
    register: usize,
    element: usize,
    values: [u64; 2],
}

struct Found {
    /// Elements that differ.
    all: usize,
    /// Elements.
    of: usize,
    /// Those beyond known bounds.
    beyond: Vec<Difference>,
    /// Largest distance, in values of the format; NaNs aside.
    worst: u64,
}

fn differences(test: &Test, left: &[u8], right: &[u8], bounds: Option<&Known>) -> Found {
    let (offsets, size) = Test::record(&test.outs);
    let mut found = Found { all: 0, of: 0, beyond: Vec::new(), worst: 0 };
    for thread in 0..test.total() {
        for (register, (kind, offset)) in test.outs.iter().zip(&offsets).enumerate() {
            let at = thread * size + offset;
            let words = [left, right].map(|bytes| Test::read(bytes, at, *kind));
            let (format, filled) = (kind.format, kind.format.bits * kind.count);
            found.of += kind.count as usize;
            // Bits of the register above its elements are compared with the last one.
            let element = |word: u64, i: u32| {
                let rest =
                    if i + 1 == kind.count && filled < kind.bits { kind.bits } else { (i + 1) * format.bits };
                word >> (i * format.bits) & mask(rest - i * format.bits)
            };
            for i in (0..kind.count).filter(|i| element(words[0], *i) != element(words[1], *i)) {
                let values = words.map(|w| element(w, i));
                let numbers = values.map(|v| format.value(v));
                let clean = values.iter().all(|v| v & !mask(format.bits) == 0);
                let steps = format.steps(values[0], values[1]);
                if numbers.iter().all(|n| !n.is_nan()) {
                    found.worst = found.worst.max(steps);
                }
                found.all += 1;
                let fine = bounds.is_some_and(|k| clean && k.allows(numbers[0], numbers[1], steps));
                if !fine {
                    found.beyond.push(Difference { thread, register, element: i as usize, values });
                }
            }
        }
    }
    found
}

/// Where, what, and from what.
fn describe(test: &Test, given: &[u8], difference: Difference, text: &mut String) {
    let Difference { thread, register, element, values } = difference;
    let format = test.outs[register].format;
    let [left, right] = values.map(|v| show(format, v));
    let (block, inside) = (thread / test.block as usize, thread % test.block as usize);
    let _ = write!(text, "  block {block} thread {inside} %d{register}[{element}]: {left} | {right}");
    if let Some(terms) = terms(test, given, thread, register, element) {
        let _ = writeln!(text, "\n    {terms}");
        return;
    }
    let (offsets, size) = Test::record(&test.ins);
    let shown = |(i, (kind, at)): (usize, (&Kind, &usize))| {
        let word = Test::read(given, thread * size + at, *kind);
        let all: Vec<String> = (0..kind.count)
            .map(|e| show(kind.format, word >> (e * kind.format.bits) & mask(kind.format.bits)))
            .collect();
        format!(" %a{i} {}", all.join(","))
    };
    let ins = test.ins.iter().zip(&offsets).enumerate();
    // An accumulator's own input says more than all of them.
    let few = |i: usize| test.ins.len() <= 12 || i == register;
    let _ = writeln!(text, "  from{}", ins.filter(|(i, _)| few(*i)).map(shown).collect::<String>());
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
