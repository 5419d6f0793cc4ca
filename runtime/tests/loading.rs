//! Loading: the choice of a device, the size of the cache, made-up weights, and what is refused.

mod support;

use std::path::PathBuf;
use support::{FakeDevice, dims, file, manifest, write};
use trtc_engine::dummy;
use trtc_engine::layout::Part;
use trtc_engine::manifest::{Code, Count, Dims, Encoding, Extent, Layout, Manifest, PtxKernel, Weight};
use trtc_runtime::{CacheSize, DeviceChoice, Engine, Error, Fault, LoadOptions};

/// The hash model's manifest as if it were built for a GPU.
fn for_gpu() -> Manifest {
    let mut m = manifest(dims(), 4);
    m.target = "sm_90".into();
    m.capability = Some((9, 0));
    let one = Extent { of: Count::One, div: 1, plus: None, mul: 1 };
    for kernel in &mut m.kernels {
        kernel.code = Code::Ptx(PtxKernel {
            module: "ptx".into(),
            cubin: None,
            entry: "main".into(),
            grid: [one; 3],
            shares: None,
            block: [32, 1, 1],
            shared: 0,
            scratch: None,
            maps: Vec::new(),
            dependent: false,
        });
    }
    m
}

fn gpu_engine(dir: &std::path::Path) -> PathBuf {
    let path = dir.join("gpu.engine");
    let mut writer = trtc_engine::EngineWriter::create(&path, &for_gpu(), &[("ptx", 4)]).unwrap();
    for (name, bytes) in [("table", 96 * 8), ("output", 96 * 8), ("ptx", 4)] {
        support::put(&mut writer, name, &vec![0; bytes]);
    }
    writer.finish().unwrap();
    path
}

fn refused(path: &std::path::Path, device: DeviceChoice) -> Error {
    match Engine::load(path, LoadOptions { device, ..LoadOptions::default() }) {
        Ok(_) => panic!("{device:?} is not refused"),
        Err(error) => error,
    }
}

#[test]
fn another_machine_is_told_what_to_build() {
    let dir = tempfile::tempdir().unwrap();
    let path = gpu_engine(dir.path());
    for choice in [DeviceChoice::Host, DeviceChoice::Auto, DeviceChoice::Cuda(0)] {
        let gpu = matches!(choice, DeviceChoice::Auto | DeviceChoice::Cuda(_));
        if gpu && trtc_runtime::device::cuda_present() {
            continue;
        }
        let error = refused(&path, choice);
        assert_eq!(error.fault, Fault::Unsupported);
        assert!(error.message.contains("built for sm_90 (compute capability 9.0)"), "{error}");
        let help = error.help.clone().unwrap_or_default();
        assert!(help.contains("trtc build MODEL -o ENGINE --target host"), "{help}");
        let told = match choice {
            DeviceChoice::Host => "the device is host (",
            _ => "no NVIDIA driver found, this machine is host (",
        };
        assert!(error.message.contains(told), "{error}");
    }
    // The emulator takes it, and finds that the tests' PTX is none.
    let error = refused(&path, DeviceChoice::Emulator);
    assert!(error.message.contains("the emulator does not execute kernel embed"), "{error}");
    let host = dir.path().join("host.engine");
    write(&host, &manifest(dims(), 4), None);
    let error = refused(&host, DeviceChoice::Emulator);
    assert_eq!((error.fault, error.help.as_deref()), (Fault::Unsupported, Some("run it with --device host")));
}

#[test]
fn what_is_no_engine_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refused(&dir.path().join("none.engine"), DeviceChoice::Auto).message.contains("none.engine"));
    let path = dir.path().join("text.engine");
    std::fs::write(&path, "hello").unwrap();
    assert_eq!(refused(&path, DeviceChoice::Auto).fault, Fault::User);
}

#[test]
fn device_names_are_read() {
    for (text, choice) in [
        ("auto", DeviceChoice::Auto),
        ("host", DeviceChoice::Host),
        ("cuda", DeviceChoice::Cuda(0)),
        ("cuda:3", DeviceChoice::Cuda(3)),
        ("emulator", DeviceChoice::Emulator),
    ] {
        assert_eq!(text.parse(), Ok(choice));
    }
    for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "host:1"] {
        assert!(text.parse::<DeviceChoice>().unwrap_err().message.contains("there is no device"));
    }
}

fn with(manifest: &Manifest, options: LoadOptions) -> Result<Engine, Error> {
    let (device, _) = FakeDevice::new();
    Engine::with_device(file(manifest, None), Box::new(device), &options)
}

#[test]
fn the_cache_has_the_size_that_was_asked_for() {
    let pages = |dims: Dims, cache| {
        with(&manifest(dims, 4), LoadOptions { cache, ..LoadOptions::default() }).map(|e| e.stats().pages)
    };
    // A page of 4 tokens: two layers of key and value, 8 bytes each.
    let page = 2 * 2 * 4 * 8;
    assert_eq!(pages(dims(), CacheSize::Auto), Ok(4 * 16));
    assert_eq!(pages(dims(), CacheSize::Pages(5)), Ok(5));
    assert_eq!(pages(dims(), CacheSize::Bytes(7 * page + 1)), Ok(7));
    // The fake device has 1 MiB: 80 % of it, and not the 2 MiB of a full batch.
    let long = Dims { max_batch: 64, max_seq_len: 1024, ..dims() };
    assert_eq!(pages(long, CacheSize::Auto), Ok(((1 << 20) / 100 * 80 / page) as u32));
    // What a full batch needs not is left.
    assert_eq!(pages(dims(), CacheSize::AtMost(1 << 20)), Ok(4 * 16));
    assert_eq!(pages(dims(), CacheSize::AtMost(7 * page + 1)), Ok(7));
    // Of its 4 MiB, 3 are in use: a fraction leaves what is above them, and takes it all.
    assert_eq!(pages(dims(), CacheSize::Fraction(1.0)), Ok(((1 << 20) / page) as u32));
    assert_eq!(pages(dims(), CacheSize::Fraction(0.875)), Ok(((1 << 19) / page) as u32));
    assert_eq!(pages(long, CacheSize::Fraction(0.875)), Ok(((1 << 19) / page) as u32));
    for cache in [CacheSize::Pages(0), CacheSize::Bytes(page - 1), CacheSize::Fraction(0.75)] {
        let error = pages(dims(), cache).unwrap_err();
        assert!(error.message.contains("no room for the KV cache"), "{error}");
    }
    let error = pages(dims(), CacheSize::Fraction(0.5)).unwrap_err();
    assert!(error.message.contains("4194304 bytes that the device has, 1048576 are free"), "{error}");
    for fraction in [0.0, -1.0, 1.001, f64::NAN] {
        let error = pages(dims(), CacheSize::Fraction(fraction)).unwrap_err();
        assert_eq!(error.help.as_deref(), Some("give a number above 0 and at most 1"));
    }
}

#[test]
fn what_an_engine_takes_is_known_before() {
    let mut made_up = manifest(dims(), 4);
    made_up.dummy_seed = Some(3);
    made_up.weights.push(Weight {
        name: "odd".into(),
        shape: vec![33, 5],
        encoding: Encoding::I8Channel,
        layout: Layout::Panel16,
        computed: false,
    });
    let mut large = manifest(Dims { max_batch: 7, max_seq_len: 501, ..dims() }, 4);
    large.arena += 12_345;
    for m in [manifest(dims(), 4), made_up, large] {
        let (device, log) = FakeDevice::new();
        let file = file(&m, None);
        let known = trtc_runtime::footprint(&file).unwrap();
        let engine = Engine::with_device(file, Box::new(device), &LoadOptions::default()).unwrap();
        assert_eq!(engine.cache_bytes(), u64::from(engine.stats().pages) * m.kv.bytes_per_page());
        assert_eq!(known + engine.cache_bytes(), log.lock().unwrap().taken);
    }
}

#[test]
fn no_threads_are_refused() {
    let error =
        with(&manifest(dims(), 4), LoadOptions { threads: Some(0), ..LoadOptions::default() }).err().unwrap();
    assert_eq!(error.message, "threads is 0");
}

#[test]
fn made_up_weights_are_the_seeds_on_any_number_of_threads() {
    let mut m = manifest(dims(), 4);
    m.dummy_seed = Some(11);
    // Larger than a piece, and not a multiple of anything.
    m.weights.push(Weight {
        name: "large".into(),
        shape: vec![9_000_001, 3],
        encoding: Encoding::I8Channel,
        layout: Layout::Panel16,
        computed: false,
    });
    let sizes = trtc_engine::layout::sizes(&[9_000_001, 3], Encoding::I8Channel, Layout::Panel16).unwrap();
    for threads in [1, 3] {
        let (device, log) = FakeDevice::new();
        let options = LoadOptions { threads: Some(threads), ..LoadOptions::default() };
        let engine = Engine::with_device(file(&m, None), Box::new(device), &options).unwrap();
        drop(engine);
        let log = log.lock().unwrap();
        let bindings = log.weights.as_slice();
        for (part, len) in [(Part::Payload, sizes.payload), (Part::Scale, sizes.scale)] {
            let mut want = vec![0; len as usize];
            dummy::fill(&m.weights[2], 2, 11, part, 0, &mut want).unwrap();
            let at = bindings.windows(64).step_by(64).position(|w| w == &want[..64]).unwrap() * 64;
            assert!(bindings[at..at + want.len()] == want[..], "{part:?} on {threads} threads");
        }
    }
}
