//! The emulator as a device: memory and its bounds, launches and recordings, faults, and launches written to files.

mod support;

use std::path::Path;
use std::sync::Arc;
use support::{dims, manifest};
use trtc_engine::manifest::{Arg, Code, Count, Dims, Extent, Kernel, Manifest, PtxKernel};
use trtc_runtime::device::emulator::{Dump, DumpedLaunch};
use trtc_runtime::device::{Bindings, Buffer, Call, Device, EmulatorDevice, Region, StepDims, WeightRegions};
use trtc_runtime::{Error, Fault};

/// `out[i] = in[i] + 1` of each token, a block each.
const ADD: &str = "\
.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out, .param .u32 t, .param .u32 l, .param .u32 s)
{
    .reg .b64 %rd<4>;
    .reg .b32 %r<3>;
    ld.param.u64 %rd1, [in];
    ld.param.u64 %rd2, [out];
    mov.u32 %r1, %ctaid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd1, %rd1, %rd3;
    add.s64 %rd2, %rd2, %rd3;
    ld.global.u32 %r2, [%rd1];
    add.s32 %r2, %r2, 1;
    st.global.u32 [%rd2], %r2;
    ret;
}
";

/// A device with one kernel, an arena, and a weight.
struct Rig {
    device: EmulatorDevice,
    kernel: Kernel,
    bind: Bindings,
}

fn gpu(kernel: &Kernel) -> Manifest {
    let mut m = manifest(dims(), 4);
    (m.target, m.capability) = ("sm_80".into(), Some((8, 0)));
    m.kernels = vec![kernel.clone()];
    m
}

fn kernel() -> Kernel {
    let one = Extent { of: Count::One, div: 1, plus: None, mul: 1 };
    let code = PtxKernel {
        module: "ptx".into(),
        cubin: None,
        entry: "k".into(),
        grid: [Extent { of: Count::Tokens, ..one }, one, one],
        shares: None,
        block: [1, 1, 1],
        shared: 0,
        scratch: None,
        maps: Vec::new(),
        dependent: false,
    };
    Kernel { name: "sm_80.add".into(), code: Code::Ptx(code), contract: String::new() }
}

impl Rig {
    fn new(text: &str) -> Result<Rig, Error> {
        let kernel = kernel();
        let m = gpu(&kernel);
        let mut device = EmulatorDevice::new(&m, Some(2))?;
        device.load(&m, &|_| Ok(text.as_bytes().to_vec()))?;
        let arena = device.alloc(64, "activations")?;
        let weight = device.share(Arc::new(vec![5u8, 0, 0, 0]), "weights")?;
        let none = device.alloc(0, "nothing")?;
        let payload = Region { buffer: weight, offset: 0, len: 4 };
        let bind = Bindings {
            arena,
            weights: vec![WeightRegions { payload, scale: None, zero: None }],
            kv: vec![],
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
        };
        Ok(Rig { device, kernel, bind })
    }

    fn launch(&mut self, args: &[Arg], tokens: u32) -> Result<(), Error> {
        let call = Call { kernel: (0, &self.kernel), args, loc: "layers.0.add" };
        self.device.launch(call, &self.bind, StepDims { tokens, rows: 0, seqs: 1, ..StepDims::NONE })
    }

    fn ints(&mut self, at: u64, count: usize) -> Vec<i32> {
        let mut bytes = vec![0; 4 * count];
        self.device.download(self.bind.arena, at, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn set(&mut self, at: u64, values: &[i32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.device.upload(self.bind.arena, at, &bytes).unwrap();
    }
}

const IN_OUT: [Arg; 2] = [Arg::Arena(0), Arg::Arena(32)];

#[test]
fn memory_is_zeroed_copied_and_bounded() {
    let mut device = EmulatorDevice::new(&gpu(&kernel()), Some(1)).unwrap();
    let (a, b) = (device.alloc(10, "a").unwrap(), device.alloc(10, "b").unwrap());
    let region = |buffer, offset, len| Region { buffer, offset, len };
    device.upload(a, 2, &[1, 2, 3]).unwrap();
    device.copy(region(a, 0, 6), region(b, 4, 6)).unwrap();
    let mut out = [9; 10];
    device.download(b, 0, &mut out).unwrap();
    assert_eq!(out, [0, 0, 0, 0, 0, 0, 1, 2, 3, 0]);
    let fetch = device.fetch(region(b, 6, 3)).unwrap();
    // What comes after does not change what was fetched.
    device.upload(b, 0, &[7; 10]).unwrap();
    let mut got = Vec::new();
    device.fetched(fetch, &mut |bytes| got.extend_from_slice(bytes)).unwrap();
    assert_eq!(got, [1, 2, 3]);
    for error in [
        device.upload(a, 8, &[0; 3]),
        device.download(a, 11, &mut []),
        device.copy(region(a, 0, 3), region(b, 0, 4)),
        device.copy(region(a, u64::MAX, 3), region(b, 0, 3)),
        device.forget(region(a, 0, 11)),
        device.fetch(region(a, 9, 2)).map(|_| ()),
        device.upload(Buffer(77), 0, &[]),
    ] {
        assert_eq!(error.unwrap_err().fault, Fault::Bug);
    }
    device.free(a);
    assert!(device.upload(a, 0, &[1]).unwrap_err().message.contains("does not exist"));
    let error = device.alloc(u64::MAX, "everything").unwrap_err();
    assert!(error.fault == Fault::Unsupported && error.message.contains("everything"), "{error}");
    assert_eq!(device.name(), "emulator (sm_80, 1 thread)");
}

#[test]
fn launches_and_recordings_read_what_is_there() {
    let mut rig = Rig::new(ADD).unwrap();
    rig.set(0, &[1, 2, 3]);
    rig.launch(&IN_OUT, 3).unwrap();
    assert_eq!(rig.ints(32, 4), [2, 3, 4, 0]);
    rig.launch(&[Arg::Weight(0), Arg::Arena(32)], 1).unwrap();
    assert_eq!(rig.ints(32, 2), [6, 3]);
    // No blocks are no work.
    rig.launch(&IN_OUT, 0).unwrap();
    let twice = [Arg::Arena(32), Arg::Arena(32)];
    let call = |args| Call { kernel: (0, &rig.kernel), args, loc: "" };
    let calls = [call(&IN_OUT[..]), call(&twice[..])];
    let graph = rig
        .device
        .record(&calls, &rig.bind, StepDims { tokens: 2, rows: 0, seqs: 1, ..StepDims::NONE })
        .unwrap();
    rig.set(0, &[10, 20]);
    rig.device.replay(graph).unwrap();
    assert_eq!(rig.ints(32, 3), [12, 22, 4]);
    rig.set(0, &[0, 0]);
    rig.device.replay(graph).unwrap();
    assert_eq!(rig.ints(32, 3), [2, 2, 4]);
    let (from, to) = (rig.device.event().unwrap(), rig.device.event().unwrap());
    assert!(rig.device.elapsed(from, to).unwrap() >= 0.0);
}

#[test]
fn a_fault_names_kernel_line_and_module() {
    let mut rig = Rig::new(ADD).unwrap();
    let error = rig.launch(&[Arg::Arena(0), Arg::Arena(60)], 2).unwrap_err();
    assert_eq!(error.fault, Fault::Bug);
    for word in [
        "sm_80.add",
        "line 16",
        "st.global.u32",
        "activations",
        "layers.0.add",
        "2 tokens",
        "block (1, 0, 0)",
    ] {
        assert!(error.message.contains(word), "no {word:?} in {error}");
    }
    assert!(error.help.is_some_and(|h| h.contains("--dump")));
    let error = rig.launch(&[Arg::Arena(0), Arg::Weight(0)], 1).unwrap_err();
    assert!(error.message.contains("only to be read"), "{error}");
    // The device goes on.
    rig.launch(&IN_OUT, 1).unwrap();
}

#[test]
fn what_is_forgotten_is_not_read() {
    let mut rig = Rig::new(ADD).unwrap();
    let arena = rig.bind.arena;
    rig.device.forget(Region { buffer: arena, offset: 0, len: 64 }).unwrap();
    let error = rig.launch(&IN_OUT, 1).unwrap_err();
    assert!(error.message.contains("nobody has written"), "{error}");
    rig.set(0, &[1]);
    rig.launch(&IN_OUT, 1).unwrap();
    assert!(rig.launch(&IN_OUT, 2).is_err());
}

#[test]
fn what_cannot_be_executed_is_told_before_it_is() {
    let error = Rig::new(&ADD.replace("add.s32 %r2", "sustain.s32 %r2")).err().unwrap();
    assert_eq!(error.fault, Fault::Unsupported);
    for word in ["sm_80.add", "line 15", "sustain.s32"] {
        assert!(error.message.contains(word), "no {word:?} in {error}");
    }
    let error = Rig::new(&ADD.replace(".entry k", ".entry other")).err().unwrap();
    assert!(error.message.contains("no entry point k"), "{error}");
    let error = EmulatorDevice::new(&manifest(dims(), 4), None).err().unwrap();
    assert_eq!((error.fault, error.help.as_deref()), (Fault::Unsupported, Some("run it with --device host")));
    let mut device = EmulatorDevice::new(&gpu(&kernel()), None).unwrap();
    let error = device.load(&manifest(dims(), 4), &|_| Ok(vec![])).unwrap_err();
    assert!(error.message.contains("is a host function"), "{error}");
}

fn files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> =
        names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Executes a file's launch, and gives the memory of its second parameter.
fn again(path: &Path) -> Result<Vec<u8>, String> {
    let launch = DumpedLaunch::from_bytes(&std::fs::read(path).unwrap()).map_err(|e| e.message)?;
    let global = launch.restore().map_err(|e| e.message)?;
    let words = launch.params().map_err(|e| e.message)?;
    let words: Vec<&[u8]> = words.iter().map(|w| &w[..]).collect();
    let kernel = launch.decode().map_err(|e| e.message)?;
    trtc_emulator::launch(&kernel, launch.sizes(), &words, &global, 1, trtc_emulator::Limits::default())
        .map_err(|f| f.to_string())?;
    let mut out = vec![0; 8];
    assert!(global.read(launch.params[1].address(), &mut out));
    Ok(out)
}

#[test]
fn launches_are_written_and_executed_again() {
    let dir = tempfile::tempdir().unwrap();
    let (all, faults) = (dir.path().join("all"), dir.path().join("faults"));
    let mut rig = Rig::new(ADD).unwrap();
    rig.set(0, &[41, 1]);
    rig.device.dump_to(Dump::new(&faults, false));
    rig.launch(&IN_OUT, 2).unwrap();
    assert_eq!(files(&faults), Vec::<String>::new());
    let error = rig.launch(&[Arg::Arena(0), Arg::Arena(60)], 2).unwrap_err();
    let path = faults.join("00000-sm_80.add.launch");
    assert_eq!(error.help, Some(format!("trtc emulate {} executes this launch alone", path.display())));
    let found = again(&path).unwrap_err();
    assert!(found.contains("line 16") && found.contains("activations"), "{found}");
    rig.device.dump_to(Dump::new(&all, true));
    rig.set(0, &[6, 7]);
    rig.launch(&IN_OUT, 2).unwrap();
    rig.set(0, &[0, 0]);
    rig.launch(&IN_OUT, 1).unwrap();
    assert!(rig.launch(&[Arg::Arena(0), Arg::Weight(0)], 1).is_err());
    assert_eq!(files(&all), [0, 1, 2].map(|i| format!("0000{i}-sm_80.add.launch")));
    assert_eq!(again(&all.join("00000-sm_80.add.launch")), Ok(vec![7, 0, 0, 0, 8, 0, 0, 0]));
    assert!(again(&all.join("00002-sm_80.add.launch")).unwrap_err().contains("only to be read"));
}

#[test]
fn files_of_launches_that_are_cut_or_changed_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(ADD).unwrap();
    rig.device.dump_to(Dump::new(dir.path(), true));
    rig.launch(&IN_OUT, 1).unwrap();
    let file = std::fs::read(dir.path().join("00000-sm_80.add.launch")).unwrap();
    let whole = DumpedLaunch::from_bytes(&file).unwrap();
    assert_eq!(whole.to_bytes(), file);
    for keep in 0..file.len() {
        assert_eq!(DumpedLaunch::from_bytes(&file[..keep]).unwrap_err().fault, Fault::User, "{keep}");
    }
    assert!(DumpedLaunch::from_bytes(&[&file[..], &[0]].concat()).is_err());
    for at in 0..file.len() {
        for change in [1, 2, 8, 0x40] {
            let mut bytes = file.clone();
            bytes[at] ^= change;
            if let Ok(launch) = DumpedLaunch::from_bytes(&bytes)
                && launch.memory.iter().all(|m| m.bytes < 1 << 20)
            {
                let _ = (launch.restore().is_ok(), launch.decode().is_ok());
            }
        }
    }
    let mut large = whole.clone();
    large.memory[0].bytes = u64::MAX;
    assert!(large.restore().err().unwrap().message.contains("more memory"));
    let mut twice = whole.clone();
    twice.memory.push(twice.memory[0].clone());
    assert!(twice.restore().err().unwrap().message.contains("other memory lies there"));
}
