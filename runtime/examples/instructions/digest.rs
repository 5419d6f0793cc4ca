//! What a device gave, as a hash of each test: small enough to be kept beside the source, so that the emulator can be
//! held against a GPU where there is none. It says that something differs, not what; for that there is `compare`.
//!
//! The text: lines `# key: value` with the device, its driver, the target and the seed; then a line a test: the
//! hash of its inputs that the run's file has, the XXH3 of its outputs, and its name.

use crate::results::Results;
use std::fmt::Write;
use trtc_runtime::Error;
use xxhash_rust::xxh3::xxh3_64;

/// Hashes of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// The device's name.
    pub device: String,
    /// Version of its driver.
    pub driver: String,
    /// What kernels were assembled for.
    pub target: String,
    /// Of the inputs.
    pub seed: u64,
    /// In the order of the table.
    pub tests: Vec<Line>,
}

/// Hashes of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Of the test.
    pub name: String,
    /// Hash of the inputs, as in `results::Entry`.
    pub inputs: u64,
    /// Hash of the outputs.
    pub outputs: u64,
}

impl Digest {
    /// Of a run in which no test failed.
    pub fn of(results: &Results, driver: &str) -> Result<Digest, Error> {
        let mut digest = Digest {
            device: results.device.clone(),
            driver: driver.to_owned(),
            target: results.target.clone(),
            seed: results.seed,
            tests: Vec::new(),
        };
        for entry in &results.tests {
            let outputs = match &entry.outputs {
                Ok(outputs) => xxh3_64(outputs),
                Err(why) => return Err(Error::user(format!("{} has no outputs: {why}", entry.name))),
            };
            digest.tests.push(Line { name: entry.name.clone(), inputs: entry.inputs, outputs });
        }
        Ok(digest)
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let Digest { device, driver, target, seed, tests } = self;
        let mut out = format!("# device: {device}\n# driver: {driver}\n# target: {target}\n# seed: {seed}\n");
        for Line { name, inputs, outputs } in tests {
            let _ = writeln!(out, "{inputs:016x} {outputs:016x} {name}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::{KNOWN, known};
    use crate::results::Entry;
    use crate::test::Target;
    use std::path::Path;
    use trtc_runtime::DeviceChoice;

    /// What a text says; `None` if it is no such text.
    fn parse(text: &str) -> Option<Digest> {
        let mut digest = Digest::default();
        for line in text.lines() {
            if let Some((key, value)) = line.strip_prefix("# ").and_then(|l| l.split_once(": ")) {
                match key {
                    "device" => digest.device = value.to_owned(),
                    "driver" => digest.driver = value.to_owned(),
                    "target" => digest.target = value.to_owned(),
                    "seed" => digest.seed = value.parse().ok()?,
                    _ => return None,
                }
                continue;
            }
            let mut parts = line.splitn(3, ' ');
            let mut hash = || u64::from_str_radix(parts.next()?, 16).ok();
            let (inputs, outputs) = (hash()?, hash()?);
            digest.tests.push(Line { name: parts.next()?.to_owned(), inputs, outputs });
        }
        (!digest.tests.is_empty()).then_some(digest)
    }

    #[test]
    fn texts_are_read_as_written() {
        let entry = |name: &str, outputs: &[u8]| Entry {
            name: name.into(),
            inputs: 7,
            outputs: Ok(outputs.to_vec()),
        };
        let mut results = Results {
            seed: 3,
            target: "sm_90a".into(),
            device: "a device: the first".into(),
            tests: vec![entry("a b", &[1]), entry("c", &[])],
        };
        let digest = Digest::of(&results, "1.2").unwrap();
        assert_ne!(digest.tests[0].outputs, digest.tests[1].outputs);
        assert_eq!(digest.tests[0].name, "a b");
        assert_eq!(parse(&digest.text()), Some(digest));
        assert_eq!(parse("# seed: 1\n12 x"), None);
        results.tests[0].outputs = Err("no".into());
        assert!(Digest::of(&results, "").is_err());
    }

    /// What the emulator makes of every instruction is what the GPUs made of it, but for what `known` excuses.
    #[test]
    fn the_emulator_does_what_gpus_do() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/instructions");
        let mut files = 0;
        for file in std::fs::read_dir(&folder).unwrap() {
            let gpu = parse(&std::fs::read_to_string(file.unwrap().path()).unwrap()).unwrap();
            let target = Target::named(&gpu.target).unwrap();
            let results = crate::run::run(DeviceChoice::Emulator, Some(target), "", gpu.seed).unwrap();
            let own = Digest::of(&results, "").unwrap();
            let names = |digest: &Digest| digest.tests.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
            let again =
                "the tests are not those of the GPU's run any more: main.rs says how to run them again";
            assert_eq!(names(&own), names(&gpu), "{again}");
            let mut wrong = Vec::new();
            for (own, gpu) in own.tests.iter().zip(&gpu.tests) {
                assert_eq!(own.inputs, gpu.inputs, "{}: {again}", own.name);
                if own.outputs != gpu.outputs && known(KNOWN, &own.name).is_none() {
                    wrong.push(&own.name);
                }
            }
            assert!(wrong.is_empty(), "not what {} gave: {wrong:#?}", gpu.device);
            files += 1;
        }
        assert!(files > 0);
    }
}
