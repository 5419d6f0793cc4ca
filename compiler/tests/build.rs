//! Whole builds of the small reference checkpoints: engines are reproducible, complete and say what they are.

use std::path::{Path, PathBuf};
use trtc_codegen::emit::{EmitOptions, emit};
use trtc_codegen::ptxas::Ptxas;
use trtc_codegen::select::select;
use trtc_compiler::{BuildOptions, Phase, build, module_after, pipeline};
use trtc_engine::EngineFile;
use trtc_engine::manifest::{Arg, Code, Steps};
use trtc_ir::{DType, Fault, Op, Target};
use trtc_passes::{PassCx, run_passes};

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny").join(name)
}

fn options(precision: &str) -> BuildOptions {
    BuildOptions {
        precision: precision.to_owned(),
        max_seq_len: Some(128),
        spec: true,
        ..BuildOptions::default()
    }
}

const ARCHS: [&str; 6] = ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma3"];

#[test]
fn engines_of_every_architecture_and_precision_open_and_are_reproducible() {
    let dir = tempfile::tempdir().unwrap();
    for arch in ARCHS {
        for precision in ["fp32", "bf16", "fp8", "int8", "int4"] {
            let (a, b) = (dir.path().join("a.engine"), dir.path().join("b.engine"));
            let report = build(&tiny(arch), &a, &options(precision), &mut |_| ())
                .unwrap_or_else(|d| panic!("{arch} {precision}: {d}"));
            assert_eq!(report.phase, Phase::Pack);
            build(&tiny(arch), &b, &options(precision), &mut |_| ()).unwrap();
            let bytes = std::fs::read(&a).unwrap();
            assert_eq!(bytes.len() as u64, report.bytes);
            assert!(bytes == std::fs::read(&b).unwrap(), "{arch} {precision} differs from build to build");
            let engine = EngineFile::open(&a).unwrap_or_else(|e| panic!("{arch} {precision}: {e}"));
            assert_eq!(engine.manifest().precision, precision);
            assert_eq!(engine.manifest().launches_of(Steps::Decode, 1), report.launches);
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no part is left behind");
}

#[test]
fn dummy_weights_are_not_written_but_computed_tables_are() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("dummy.engine");
    let dummy = BuildOptions { dummy_seed: Some(7), ..options("bf16") };
    build(&tiny("llama").join("config.json"), &out, &dummy, &mut |_| ()).unwrap();
    let engine = EngineFile::open(&out).unwrap();
    assert_eq!(engine.manifest().dummy_seed, Some(7));
    assert!(engine.manifest().weights.iter().any(|w| w.computed));
    assert!(std::fs::metadata(&out).unwrap().len() < 100_000);
    // The same configuration without the option cannot be built.
    let error = build(&tiny("llama").join("config.json"), &out, &options("bf16"), &mut |_| ()).unwrap_err();
    assert_eq!(error.fault, Fault::User);
}

#[test]
fn engines_for_gpus_carry_their_kernels() {
    let dir = tempfile::tempdir().unwrap();
    for (i, model) in ARCHS.iter().enumerate() {
        for (target, precision) in
            [("sm_80", "bf16"), ("sm_89", "fp8"), ("sm_90", "int8"), ("sm_120", "int4")]
        {
            let out = dir.path().join(format!("{i}-{target}.engine"));
            let gpu = BuildOptions { target: target.to_owned(), ..options(precision) };
            build(&tiny(model), &out, &gpu, &mut |_| ()).unwrap_or_else(|e| panic!("{model} {target}: {e}"));
            let engine = EngineFile::open(&out).unwrap();
            assert!(engine.manifest().capability.is_some());
            for kernel in &engine.manifest().kernels {
                let Code::Ptx(code) = &kernel.code else { panic!("{} is not PTX", kernel.name) };
                let ptx = String::from_utf8(engine.tensor(&code.module).unwrap().to_vec()).unwrap();
                assert!(ptx.contains(&format!(".visible .entry {}(", code.entry)), "{}", kernel.name);
                assert!(ptx.contains(&format!(".target {target}")), "{}", kernel.name);
            }
        }
    }
}

/// The assembler, or a loud word that there is none.
fn ptxas() -> Option<Ptxas> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let found = Ptxas::search(std::env::var_os("PATH").as_deref(), home.as_deref());
    if found.is_none() {
        eprintln!("\n*** NOT TESTED: there is no ptxas on PATH or in ~/.cache/trtc/ptxas ***\n");
    }
    found
}

#[test]
fn binaries_of_kernels_are_stored_beside_their_ptx_and_reproducible() {
    let Some(ptxas) = ptxas() else { return };
    let dir = tempfile::tempdir().unwrap();
    let cubin = BuildOptions {
        target: "sm_90".to_owned(),
        cubin: Some(ptxas),
        dummy_seed: Some(1),
        ..options("int8")
    };
    let built = ["a.engine", "b"].map(|name| {
        let out = dir.path().join(name);
        build(&tiny("llama"), &out, &cubin, &mut |_| ()).unwrap_or_else(|d| panic!("{d}"));
        out
    });
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "the assembler's folder is gone");
    assert!(std::fs::read(&built[0]).unwrap() == std::fs::read(&built[1]).unwrap(), "builds differ");
    let engine = EngineFile::open(&built[0]).unwrap();
    let m = engine.manifest();
    for kernel in &m.kernels {
        let Code::Ptx(code) = &kernel.code else { panic!("{} is not PTX", kernel.name) };
        let binary = engine.tensor(code.cubin.as_ref().unwrap()).unwrap();
        assert!(binary.starts_with(b"\x7fELF"), "{}", kernel.name);
        assert!(binary.windows(code.entry.len()).any(|w| w == code.entry.as_bytes()), "{}", kernel.name);
        assert!(engine.tensor(&code.module).unwrap().starts_with(b"//"), "{}", kernel.name);
    }
    assert!(m.provenance.options.contains(&"--cubin".to_owned()));
    let assembler = m.provenance.assembler.as_deref();
    assert!(assembler.is_some_and(|a| a.starts_with("ptxas V")), "{assembler:?}");
}

#[test]
fn binaries_need_an_assembler_and_a_gpu_target() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.engine");
    let cubin = Some(Ptxas::at("/nowhere/ptxas"));
    let gpu = BuildOptions { target: "sm_90".to_owned(), cubin: cubin.clone(), ..options("bf16") };
    let error = build(&tiny("llama"), &out, &gpu, &mut |_| ()).unwrap_err();
    assert!(error.message.starts_with("cannot run /nowhere/ptxas") && error.help.is_some(), "{error}");
    let error = build(&tiny("llama"), &out, &BuildOptions { cubin, ..options("bf16") }, &mut |_| ());
    assert!(error.unwrap_err().message.contains("--cubin is for a GPU target"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_quantised_value_is_two_arguments_and_its_scales_follow_its_elements() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a.engine");
    let gpu = BuildOptions { target: "sm_89".to_owned(), ..options("fp8") };
    build(&tiny("llama"), &out, &gpu, &mut |_| ()).unwrap_or_else(|d| panic!("{d}"));
    let engine = EngineFile::open(&out).unwrap();
    let m = engine.manifest();
    let quantize = |l: &&trtc_engine::manifest::Launch| {
        m.kernels[l.choices[0].kernel as usize].name.contains(".quantize.w256.")
    };
    let launch = m.launches.iter().find(quantize).expect("what attention makes is quantised");
    // x, then the result.
    let [Arg::Arena(_), Arg::Arena(elements), Arg::Arena(scales)] = launch.args[..] else {
        panic!("{:?}", launch.args)
    };
    let rows = u64::from(m.dims.max_step_tokens);
    assert_eq!(scales - elements, rows * 256);
    assert!(scales + 4 * rows <= m.arena);
    // The linear after it reads both, and then its weight.
    let linear = m.launches.iter().find(|l| l.args.starts_with(&launch.args[1..])).expect("a reader");
    assert!(matches!(linear.args[2], Arg::Weight(_)));
}

#[test]
fn queries_are_rounded_where_that_is_asked_for() {
    for (target, asked, wanted) in [
        ("host", None, None),
        ("sm_90", Some("bf16"), None),
        ("sm_90", Some("fp8"), Some(DType::F8E4M3)),
        ("sm_80", Some("fp8"), Some(DType::F8E4M3)),
    ] {
        let attention_precision = asked.map(str::to_owned);
        let options = BuildOptions { target: target.to_owned(), attention_precision, ..options("bf16") };
        let module = module_after(&tiny("llama"), Phase::Select, &options).unwrap();
        let ops = module.func.order.iter().map(|&id| &module.func.ops[id]);
        let attentions: Vec<_> = ops
            .filter_map(|d| if let Op::Attention(a) = &d.op { Some((a.products, &d.kernels)) } else { None })
            .collect();
        assert_eq!(attentions.len(), 2);
        for (products, kernels) in attentions {
            assert_eq!(products, wanted, "{target} {asked:?}");
            let named = kernels.iter().filter(|k| k.kernel.contains(".products-f8E4M3FN.")).count();
            assert_eq!(named, if wanted.is_some() { kernels.len() } else { 0 });
        }
    }
}

#[test]
fn gpus_without_e4m3_refuse_it_and_say_what_serves() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a.engine");
    for target in ["sm_80", "sm_86"] {
        let gpu = BuildOptions { target: target.to_owned(), ..options("fp8") };
        let error = build(&tiny("llama"), &out, &gpu, &mut |_| ()).unwrap_err();
        assert_eq!(error.fault, Fault::Unsupported);
        let text = error.to_string();
        assert!(text.contains("no matrix instructions for fp8") && text.contains("choose int8"), "{text}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn gpus_serve_a_module_without_fusion() {
    let gpu = Target::named("sm_90").unwrap();
    for model in ARCHS {
        let gpu_options = BuildOptions { target: gpu.name.to_owned(), ..options("int8") };
        let mut module = module_after(&tiny(model), Phase::Quantize, &gpu_options).unwrap();
        let passes = ["kv-layout", "select", "plan-memory"].map(|name| pipeline::find(name).unwrap());
        run_passes(&mut module, &passes, &PassCx::new(gpu), Default::default()).unwrap();
        for op in ["add", "rope", "kv_append", "gated_act"] {
            let data = module.func.order.iter().map(|&id| &module.func.ops[id]).find(|d| d.op.name() == op);
            assert!(!data.unwrap().kernels.is_empty(), "{model} {op}");
        }
        assert_eq!(select(&mut module.clone(), gpu).unwrap().unsupported(gpu), None, "{model}");
        if model == "qwen3" {
            assert!(emit(&module, gpu, EmitOptions::default()).unwrap().len() > 20);
        }
    }
}

#[test]
fn what_a_gpu_target_lacks_is_told_and_what_it_has_is_dumped() {
    let dir = tempfile::tempdir().unwrap();
    let (out, dump) = (dir.path().join("x.engine"), dir.path().join("dump"));
    let gpu = BuildOptions { target: "sm_90".to_owned(), dump_dir: Some(dump.clone()), ..options("fp32") };
    let error = build(&tiny("llama"), &out, &gpu, &mut |_| ()).unwrap_err();
    assert_eq!(error.fault, Fault::Unsupported, "{error}");
    assert!(error.message.contains("linear"), "{error}");
    assert!(!out.exists());
    let kernels = std::fs::read_dir(dump.join("kernels")).unwrap().count();
    assert!(kernels >= 8, "{kernels} files of kernels");
    for file in ["00-import.mlir", "01-canonicalize.mlir", "commands.sh", "timings.json"] {
        assert!(dump.join(file).exists(), "{file}");
    }
}

#[test]
fn a_build_can_stop_after_any_phase() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("module.mlir");
    for phase in Phase::all().filter(|p| *p < Phase::Pack) {
        let stop = BuildOptions { compile_to: Some(phase), ..options("int4") };
        let report = build(&tiny("qwen3"), &out, &stop, &mut |_| ())
            .unwrap_or_else(|d| panic!("{}: {d}", phase.name()));
        assert_eq!(report.phase, phase);
        let text = std::fs::read_to_string(&out).unwrap();
        trtc_ir::text::parse(&text, "module.mlir").unwrap_or_else(|d| panic!("{}: {d:?}", phase.name()));
    }
}

#[test]
fn wrong_names_list_the_right_ones() {
    let out = Path::new("/nonexistent/x.engine");
    for (options, wanted) in [
        (BuildOptions { target: "sm_75".to_owned(), ..options("bf16") }, "sm_90"),
        (options("fp3"), "int4"),
        (BuildOptions { kv_precision: Some("int3".to_owned()), ..options("bf16") }, "bf16"),
        (BuildOptions { attention_precision: Some("fp4".to_owned()), ..options("bf16") }, "bf16, fp8"),
        (BuildOptions { max_batch: Some(0), ..options("bf16") }, "1 to"),
        (BuildOptions { max_seq_len: Some(100_000), ..options("bf16") }, "512"),
    ] {
        let error = build(&tiny("llama"), out, &options, &mut |_| ()).unwrap_err();
        assert_eq!(error.fault, Fault::User);
        assert!(error.to_string().contains(wanted), "{error}");
    }
}
