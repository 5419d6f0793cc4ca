//! The device itself: recording, events, what it refuses.

use super::*;
use std::sync::Arc;

#[test]
fn a_recording_reads_the_inputs_of_its_replay() {
    let mut rig = Rig::new(Isa::detect(), 2);
    rig.dims = StepDims { tokens: 2, rows: 0, seqs: 0, ..StepDims::NONE };
    let (a, b) = (rig.input(&[1.0, 2.0], Dtype::F32), rig.input(&[10.0, 20.0], Dtype::F32));
    let (sum, twice) = (rig.output(2, Dtype::F32), rig.output(2, Dtype::F32));
    let kernel =
        HostKernel::Add { width: 1, rows: Count::Tokens, lhs: Dtype::F32, rhs: Dtype::F32, out: Dtype::F32 };
    let kernel = Kernel { name: "add".into(), code: Code::Host(kernel), contract: String::new() };
    let (first, second) = ([a, b, sum], [sum, b, twice]);
    let calls = [
        Call { kernel: (0, &kernel), args: &first, loc: "first" },
        Call { kernel: (0, &kernel), args: &second, loc: "second" },
    ];
    rig.device.load(&rig.manifest, &|_| Ok(vec![])).unwrap();
    let graph = rig.device.record(&calls, &rig.bind, rig.dims).unwrap();
    rig.device.replay(graph).unwrap();
    assert_eq!(rig.read(twice, 2, Dtype::F32), [21.0, 42.0]);
    let Arg::Arena(at) = a else { unreachable!() };
    rig.device.upload(rig.bind.arena, at, &encode(&[5.0, 6.0], Dtype::F32)).unwrap();
    rig.device.replay(graph).unwrap();
    assert_eq!(rig.read(twice, 2, Dtype::F32), [25.0, 46.0]);
    assert!(rig.device.replay(crate::device::Graph(1)).is_err());
}

#[test]
fn events_are_in_order() {
    let mut device = HostDevice::new(HostOptions { threads: Some(1) }).unwrap();
    let first = device.event().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2));
    let second = device.event().unwrap();
    device.wait(first).unwrap();
    let seconds = device.elapsed(first, second).unwrap();
    assert!((0.002..1.0).contains(&seconds) && device.elapsed(second, first).unwrap() == -seconds);
    assert!(device.wait(crate::device::Event(2)).is_err());
    for _ in 0..crate::device::instants::EVENTS {
        device.event().unwrap();
    }
    assert!(device.wait(first).is_err() && device.wait(crate::device::Event(2)).is_ok());
}

#[test]
fn weights_are_read_in_place() {
    let mut rng = Rng::new(40);
    let mut rig = Rig::new(Isa::detect(), 1);
    let matrix = Matrix::random(&mut rng, 32, 64, Encoding::Bf16, Layout::Panel16);
    let weight = matrix.place(&mut rig);
    // The same bytes in the middle of a shared file.
    let mut file = vec![0u8; 64];
    file.extend_from_slice(&matrix.parts.payload);
    let buffer = rig.device.share(Arc::new(file), "file").unwrap();
    let x = rig.input(&rng.units(64), Dtype::Bf16);
    let (one, two) = (rig.output(32, Dtype::F32), rig.output(32, Dtype::F32));
    rig.dims.tokens = 1;
    let kernel = HostKernel::Linear {
        n: 32,
        k: 64,
        rows: Count::Tokens,
        bias: false,
        residual: None,
        x: Dtype::Bf16,
        out: Dtype::F32,
    };
    rig.run(kernel.clone(), &[x, weight, one]);
    rig.bind.weights[0].payload = Region { buffer, offset: 64, len: matrix.parts.payload.len() as u64 };
    rig.run(kernel, &[x, weight, two]);
    assert_eq!(rig.read(one, 32, Dtype::F32), rig.read(two, 32, Dtype::F32));
}

#[test]
fn gpu_code_and_missing_engines_are_refused() {
    let mut rig = Rig::new(Isa::Scalar, 1);
    let ptx = PtxKernel {
        module: "kernel/a.ptx".into(),
        cubin: None,
        entry: "a".into(),
        shares: None,
        grid: [Extent { of: Count::One, div: 1, plus: None, mul: 1 }; 3],
        block: [1, 1, 1],
        shared: 0,
        scratch: None,
        maps: Vec::new(),
        dependent: false,
    };
    let kernel = Kernel { name: "a".into(), code: Code::Ptx(ptx), contract: String::new() };
    rig.manifest.kernels.push(kernel);
    let error = rig.device.load(&rig.manifest, &|_| Ok(vec![])).unwrap_err();
    assert!(error.message.contains("kernel a is GPU code") && error.help.is_some());
    let add =
        HostKernel::Add { width: 1, rows: Count::Tokens, lhs: Dtype::F32, rhs: Dtype::F32, out: Dtype::F32 };
    let add = Kernel { name: "add".into(), code: Code::Host(add), contract: String::new() };
    let call = Call { kernel: (0, &add), args: &[], loc: "" };
    assert!(rig.device.launch(call, &rig.bind, rig.dims).unwrap_err().message.contains("before an engine"));
}

#[test]
fn it_says_what_it_is() {
    let device = HostDevice::new(HostOptions { threads: Some(2) }).unwrap();
    assert!(device.name().starts_with("host (") && device.name().contains("2 threads"), "{}", device.name());
    assert_eq!(device.threads(), 2);
    assert_eq!(device.isa(), Isa::detect());
    #[cfg(target_os = "linux")]
    assert!(device.free_memory() > 1 << 20 && device.free_memory() <= device.total_memory());
}

#[test]
fn no_tokens_are_no_work() {
    let mut rng = Rng::new(41);
    let mut rig = Rig::new(Isa::detect(), 2);
    let weight = Matrix::random(&mut rng, 32, 64, Encoding::Bf16, Layout::Panel16).place(&mut rig);
    let (x, out) = (rig.input(&rng.units(64), Dtype::Bf16), rig.output(32, Dtype::Bf16));
    let kernel = HostKernel::Linear {
        n: 32,
        k: 64,
        rows: Count::Rows,
        bias: false,
        residual: None,
        x: Dtype::Bf16,
        out: Dtype::Bf16,
    };
    rig.run(kernel, &[x, weight, out]);
    assert!(rig.read(out, 32, Dtype::Bf16).iter().all(|v| v.is_nan()));
}

#[test]
fn caches_that_are_not_whole_panels_are_refused() {
    let mut device = HostDevice::new(HostOptions { threads: Some(1) }).unwrap();
    let mut load = |page_tokens, dtype, head_dim| {
        let layers = vec![KvLayer { heads: 1, head_dim, window: None }];
        device.load(&manifest(Kv { page_tokens, dtype, layers }), &|_| Ok(vec![])).map_err(|e| e.message)
    };
    assert_eq!(load(16, Dtype::Bf16, 2), Ok(()));
    assert_eq!(load(16, Dtype::F32, 3), Ok(()));
    for page_tokens in [0, 8, 24] {
        assert!(load(page_tokens, Dtype::F32, 2).unwrap_err().contains("takes multiples of 16"));
    }
    assert!(load(16, Dtype::Bf16, 3).unwrap_err().contains("heads of 3 elements"));
}
