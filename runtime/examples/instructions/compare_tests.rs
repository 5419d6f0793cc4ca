//! Comparisons of runs that were made up.

use super::*;
use crate::numbers::{F16, F32};
use crate::test::{one as single, packed};

fn table() -> Vec<Test> {
    let f32_kind = single(F32);
    let pair = packed(F16, 2);
    vec![
        Test::new("exact", &[f32_kind], &[f32_kind; 2], "").threads(128),
        Test::new("near", &[f32_kind], &[f32_kind], "").threads(128),
        Test::new("pair", &[pair], &[pair], "").threads(128),
    ]
}

/// A run whose outputs are all 1.
fn results(table: &[Test]) -> Results {
    let entry = |t: &Test| {
        let one: &[u8] = if t.name == "pair" { &[0, 0x3c, 0, 0x3c] } else { &[0, 0, 0x80, 0x3f] };
        let outputs = one.repeat(t.total());
        assert_eq!(outputs.len(), t.output_bytes());
        Entry { name: t.name.clone(), inputs: hash(&inputs(t, 5)), outputs: Ok(outputs) }
    };
    let tests = table.iter().map(entry).collect();
    Results { seed: 5, target: "sm_90a".into(), device: "d".into(), tests }
}

const BOUNDS: &[Known] =
    &[Known { pattern: "near", ulp: 2, relative: 0.0, absolute: 0.0, why: "approximate" }];
const OPTIONS: Options<'static> = Options { show: 2, known: BOUNDS, only: "" };

fn change(results: &mut Results, test: usize, at: usize, to: u8) {
    results.tests[test].outputs.as_mut().unwrap()[at] = to;
}

#[test]
fn the_same_runs_do_not_differ() {
    let table = table();
    let a = results(&table);
    let report = compare(&a, &a, &table, OPTIONS).unwrap();
    assert_eq!((report.same, report.known, report.different, report.alone), (3, 0, 0, 0));
}

#[test]
fn one_bit_is_a_difference_with_its_inputs() {
    let table = table();
    let (a, mut b) = (results(&table), results(&table));
    change(&mut b, 0, 4 * 9, 1);
    let report = compare(&a, &b, &table, OPTIONS).unwrap();
    assert_eq!((report.same, report.different), (2, 1));
    assert!(report.text.contains("exact: 1 of 128 differ, by at most 1 steps"), "{}", report.text);
    assert!(report.text.contains("thread 9 %d0[0]: 3f800000=1e0 | 3f800001="), "{}", report.text);
    let given = inputs(&table[0], 5);
    let first = show(F32, Test::read(&given, 8 * 9, table[0].ins[0]));
    assert!(report.text.contains(&format!("from %a0 {first} %a1 ")), "{}", report.text);
}

#[test]
fn known_bounds_hold_for_their_tests_alone() {
    let table = table();
    let (a, mut b) = (results(&table), results(&table));
    change(&mut b, 1, 0, 2);
    let report = compare(&a, &b, &table, OPTIONS).unwrap();
    assert_eq!((report.same, report.known, report.different), (2, 1, 0));
    let exact = compare(&a, &b, &table, Options { known: &[], ..OPTIONS }).unwrap();
    assert_eq!((exact.known, exact.different), (0, 1));
    change(&mut b, 1, 0, 3);
    let report = compare(&a, &b, &table, OPTIONS).unwrap();
    assert_eq!((report.known, report.different), (0, 1));
    assert!(report.text.contains("1 more than is known, by at most 3 steps"), "{}", report.text);
}

#[test]
fn elements_of_a_register_are_compared_each() {
    let table = table();
    let (a, mut b) = (results(&table), results(&table));
    change(&mut b, 2, 2, 7);
    let report = compare(&a, &b, &table, OPTIONS).unwrap();
    assert!(report.text.contains("pair: 1 of 256 differ, by at most 7 steps"), "{}", report.text);
    assert!(report.text.contains("%d0[1]: 3c00=1e0 | 3c07="), "{}", report.text);
}

#[test]
fn tests_that_did_not_run_are_counted() {
    let table = table();
    let (mut a, mut b) = (results(&table), results(&table));
    a.tests[0].outputs = Err("no such opcode".into());
    b.tests[2].outputs = Err("x".into());
    a.tests[2].outputs = Err("y".into());
    b.tests.remove(1);
    let report = compare(&a, &b, &table, OPTIONS).unwrap();
    assert_eq!((report.same, report.different, report.neither, report.alone), (0, 1, 1, 1));
    assert!(report.text.contains("exact: not on the first device: no such opcode"), "{}", report.text);
}

#[test]
fn files_of_other_inputs_are_refused() {
    let table = table();
    let (a, mut b) = (results(&table), results(&table));
    b.tests[0].inputs ^= 1;
    assert!(compare(&a, &b, &table, OPTIONS).is_err());
    assert!(compare(&a, &Results { seed: 6, ..a.clone() }, &table, OPTIONS).is_err());
    assert!(compare(&a, &a, &table[1..], OPTIONS).is_err());
}
