//! The file of a run: for each test its name, a hash of its inputs, and its outputs or why there are none. Integers are
//! little-endian; texts and outputs begin with their length in 32 bits.

use std::path::Path;
use trtc_runtime::Error;

const MAGIC: &[u8; 8] = b"TRTCINS1";

/// What a run gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// Of the inputs.
    pub seed: u64,
    /// What kernels were assembled for.
    pub target: String,
    /// The device's name.
    pub device: String,
    /// In the order of the table.
    pub tests: Vec<Entry>,
}

/// What one test gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Of the test.
    pub name: String,
    /// Hash of the inputs.
    pub inputs: u64,
    /// Records of all threads, or what the device said.
    pub outputs: Result<Vec<u8>, String>,
}

impl Results {
    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        std::fs::write(path, self.bytes())
            .map_err(|e| Error::user(format!("cannot write {}: {e}", path.display())))
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Results, Error> {
        let bytes =
            std::fs::read(path).map_err(|e| Error::user(format!("cannot read {}: {e}", path.display())))?;
        Results::parse(&bytes)
            .ok_or_else(|| Error::user(format!("{} holds no results, or not all of them", path.display())))
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let text = |out: &mut Vec<u8>, bytes: &[u8]| {
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        };
        out.extend_from_slice(&self.seed.to_le_bytes());
        text(&mut out, self.target.as_bytes());
        text(&mut out, self.device.as_bytes());
        out.extend_from_slice(&(self.tests.len() as u32).to_le_bytes());
        for entry in &self.tests {
            text(&mut out, entry.name.as_bytes());
            out.extend_from_slice(&entry.inputs.to_le_bytes());
            out.push(u8::from(entry.outputs.is_err()));
            match &entry.outputs {
                Ok(bytes) => text(&mut out, bytes),
                Err(why) => text(&mut out, why.as_bytes()),
            }
        }
        out
    }

    /// What a file's bytes hold; `None` if they are no such file.
    pub fn parse(bytes: &[u8]) -> Option<Results> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let seed = word(&mut rest)?;
        let (target, device) = (string(&mut rest)?, string(&mut rest)?);
        let count = number(&mut rest)?;
        let mut tests = Vec::new();
        for _ in 0..count {
            let (name, inputs) = (string(&mut rest)?, word(&mut rest)?);
            let outputs = match take(&mut rest, 1)? {
                [0] => Ok(run(&mut rest)?.to_vec()),
                _ => Err(string(&mut rest)?),
            };
            tests.push(Entry { name, inputs, outputs });
        }
        rest.is_empty().then_some(Results { seed, target, device, tests })
    }
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(head)
}

fn word(rest: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(rest, 8)?.try_into().ok()?))
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take(rest, 4)?.try_into().ok()?))
}

fn run<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let n = number(rest)?;
    take(rest, n as usize)
}

fn string(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(run(rest)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_written_and_never_in_part() {
        let entry = |name: &str, outputs| Entry { name: name.into(), inputs: 7, outputs };
        let results = Results {
            seed: 3,
            target: "sm_90a".into(),
            device: "a device".into(),
            tests: vec![entry("a", Ok(vec![1, 2, 3])), entry("b", Err("no".into()))],
        };
        let bytes = results.bytes();
        assert_eq!(Results::parse(&bytes), Some(results));
        for end in 0..bytes.len() {
            assert_eq!(Results::parse(&bytes[..end]), None);
        }
    }
}
