//! Runs tests on a device: a module, a launch and a copy back for each. A device that fails a launch is opened again.

use crate::inputs::inputs;
use crate::results::{Entry, Results};
use crate::rng::hash;
use crate::test::{Target, Test};
use trtc_engine::manifest::*;
use trtc_runtime::device::{Bindings, Buffer, Call, Device, StepDims};
use trtc_runtime::{DeviceChoice, Error, LoadOptions, open_device};

/// What outputs hold that a kernel does not write.
const UNWRITTEN: u8 = 0xa5;
/// Name of the module's text.
const MODULE: &str = "kernel/test.ptx";

/// A device, and the memory that all tests use.
struct Bench {
    device: Box<dyn Device>,
    bindings: Bindings,
}

/// Runs the tests whose names begin with `only`. `target` names what kernels are assembled for; without it, it is the
/// newest that the device takes.
pub fn run(choice: DeviceChoice, target: Option<Target>, only: &str, seed: u64) -> Result<Results, Error> {
    let target = match target {
        Some(target) => target,
        None => newest(choice)?,
    };
    let mut tests = crate::table::of(target);
    tests.retain(|t| t.name.starts_with(only));
    let arena = tests.iter().map(|t| outputs_at(t) + t.output_bytes() as u64).max().unwrap_or(0);
    let mut bench = Bench::open(choice, target, arena)?;
    let mut results =
        Results { seed, target: target.name().to_owned(), device: bench.device.name(), tests: Vec::new() };
    for test in &tests {
        let given = inputs(test, seed);
        let outputs = match bench.load(test, target) {
            Err(refused) => Err(refused.to_string()),
            Ok(manifest) => match bench.outputs(test, &manifest, &given) {
                Ok(bytes) => Ok(bytes),
                Err(failed) => {
                    // The fault may have taken the device's context with it.
                    drop(bench);
                    bench = Bench::open(choice, target, arena)?;
                    Err(failed.to_string())
                }
            },
        };
        if let Err(why) = &outputs {
            eprintln!("{}: {why}", test.name);
        }
        results.tests.push(Entry { name: test.name.clone(), inputs: hash(&given), outputs });
    }
    Ok(results)
}

/// The newest target that a device takes.
fn newest(choice: DeviceChoice) -> Result<Target, Error> {
    let mut refused = None;
    for target in Target::ALL.into_iter().rev() {
        match open(choice, target) {
            Ok(_) => return Ok(target),
            Err(e) => refused = Some(e),
        }
    }
    Err(refused.unwrap_or_else(|| Error::bug("there are no targets")))
}

fn open(choice: DeviceChoice, target: Target) -> Result<Box<dyn Device>, Error> {
    let options = LoadOptions { device: choice, ..LoadOptions::default() };
    open_device(&manifest(target, Vec::new(), 0), &options)
}

fn outputs_at(test: &Test) -> u64 {
    (test.input_bytes() as u64).next_multiple_of(256)
}

impl Bench {
    fn open(choice: DeviceChoice, target: Target, arena: u64) -> Result<Bench, Error> {
        let mut device = open(choice, target)?;
        let arena = device.alloc(arena, "tests")?;
        let none = device.alloc(256, "nothing")?;
        Ok(Bench { device, bindings: bindings(arena, none) })
    }

    fn load(&mut self, test: &Test, target: Target) -> Result<Manifest, Error> {
        let text = test.ptx(target);
        let one = Extent { of: Count::One, div: 1, plus: None, mul: 1 };
        let kernel = Kernel {
            name: test.name.clone(),
            code: Code::Ptx(PtxKernel {
                module: MODULE.to_owned(),
                cubin: None,
                entry: "k".to_owned(),
                grid: [Extent { mul: test.blocks, ..one }, one, one],
                shares: None,
                block: [test.block, 1, 1],
                shared: test.shared_bytes(),
                scratch: None,
                maps: Vec::new(),
                dependent: false,
            }),
            contract: String::new(),
        };
        let args = vec![Arg::Arena(0), Arg::Arena(outputs_at(test))];
        let arena = outputs_at(test) + test.output_bytes() as u64;
        let manifest = manifest(target, vec![(kernel, args)], arena);
        self.device.load(&manifest, &|_| Ok(text.clone().into_bytes()))?;
        Ok(manifest)
    }

    fn outputs(&mut self, test: &Test, manifest: &Manifest, given: &[u8]) -> Result<Vec<u8>, Error> {
        let (arena, at) = (self.bindings.arena, outputs_at(test));
        let mut bytes = vec![UNWRITTEN; test.output_bytes()];
        self.device.upload(arena, 0, given)?;
        self.device.upload(arena, at, &bytes)?;
        let dims = StepDims { tokens: 1, rows: 1, seqs: 1, ..StepDims::NONE };
        for (kernel, launch) in manifest.kernels.iter().zip(&manifest.launches) {
            self.device.launch(
                Call { kernel: (0, kernel), args: &launch.args, loc: &launch.loc },
                &self.bindings,
                dims,
            )?;
        }
        self.device.download(arena, at, &mut bytes)?;
        Ok(bytes)
    }
}

/// All of a step's buffers that are not the arena are one that nobody looks at.
fn bindings(arena: Buffer, none: Buffer) -> Bindings {
    Bindings {
        arena,
        weights: Vec::new(),
        kv: Vec::new(),
        tokens: none,
        positions: none,
        rows: none,
        draws: none,
        masks: none,
        query_start: none,
        context: none,
        block_table: none,
        table_width: 1,
        pages: 0,
        limits: Dims::default(),
        scratch: none,
        counters: none,
    }
}

/// A manifest without a model, for kernels with their arguments.
fn manifest(target: Target, kernels: Vec<(Kernel, Vec<Arg>)>, arena: u64) -> Manifest {
    let (kernels, args): (Vec<Kernel>, Vec<Vec<Arg>>) = kernels.into_iter().unzip();
    let launch = |(i, args): (usize, Vec<Arg>)| Launch {
        ops: vec![i as u32],
        choices: vec![Choice { from: 1, to: 1, steps: Steps::Any, kernel: i as u32 }],
        args,
        loc: "test".to_owned(),
    };
    Manifest {
        format: FORMAT,
        target: target.name().to_owned(),
        capability: Some(target.capability()),
        precision: "bf16".to_owned(),
        deterministic: false,
        model: Model {
            name: "instructions".to_owned(),
            arch: "none".to_owned(),
            vocab: 1,
            hidden: 1,
            layers: 1,
            parameters: 0,
            bos: None,
            eos: Vec::new(),
            context: 1,
        },
        dims: Dims { max_batch: 1, max_seq_len: 1, max_step_tokens: 1, max_logit_rows: 1 },
        arena,
        kv: Kv { page_tokens: 1, dtype: Dtype::Bf16, layers: Vec::new() },
        weights: Vec::new(),
        dummy_seed: None,
        kernels,
        launches: args.into_iter().enumerate().map(launch).collect(),
        logits: 0,
        sampled: None,
        text: None,
        generation: Generation::default(),
        provenance: Provenance::default(),
    }
}
