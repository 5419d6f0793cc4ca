//! The sample passes; each single contradiction is found, at its place.

use super::*;
use crate::manifest::*;
use crate::testing::{manifest, ptx_manifest, weight};

/// Checks the sample after a change and gives the error's text.
fn broken(change: impl FnOnce(&mut Manifest)) -> String {
    let mut m = manifest();
    change(&mut m);
    m.check().expect_err("the change should be refused").to_string()
}

fn broken_ptx(change: impl FnOnce(&mut PtxKernel)) -> String {
    let mut m = ptx_manifest();
    if let Code::Ptx(ptx) = &mut m.kernels[0].code {
        change(ptx);
    }
    m.check().expect_err("the change should be refused").to_string()
}

/// The same kernel for single tokens of prefill steps.
fn single(choice: &Choice) -> Choice {
    Choice { steps: Steps::Single, ..*choice }
}

#[test]
fn samples_pass() {
    manifest().check().unwrap();
    ptx_manifest().check().unwrap();
}

#[test]
fn format_comes_first() {
    let mut m = manifest();
    m.format = FORMAT + 1;
    m.launches.clear();
    let other = u64::from(FORMAT) + 1;
    assert!(matches!(m.check(), Err(EngineError::Format { found }) if found == other));
}

#[test]
fn contradictions_are_found() {
    type Change = fn(&mut Manifest);
    let cases: &[(&str, Change)] = &[
        ("max_batch is 0", |m| m.dims.max_batch = 0),
        ("max_step_tokens", |m| m.dims.max_step_tokens = u32::MAX),
        ("vocab", |m| m.model.vocab = 0),
        ("bytes of them", |m| m.weights[1].shape = vec![1 << 60]),
        ("page_tokens", |m| m.kv.page_tokens = 0),
        ("head_dim", |m| m.kv.layers[0].head_dim = 0),
        ("window", |m| m.kv.layers[0].window = Some(0)),
        ("arena", |m| m.arena = u64::MAX),
        ("BOS", |m| m.model.bos = None),
        ("BOS", |m| m.model.bos = Some(21)),
        ("generation", |m| m.generation.top_p = Some(f32::INFINITY)),
        ("capability", |m| m.capability = Some((9, 0))),
        ("a host function", |m| {
            m.target = "sm_90".into();
            m.capability = Some((9, 0));
        }),
        ("two tensors are called \"norm\"", |m| m.weights[0].name = "norm".into()),
        ("two tensors are called \"o.scale\"", |m| m.weights[0].name = "o.scale".into()),
        ("two tensors are called \"embed\"", |m| m.text.as_mut().unwrap().tokenizer = "embed".into()),
        ("cannot name a tensor", |m| m.weights[0].name = "pad.0".into()),
        ("cannot name a tensor", |m| m.weights[0].name = String::new()),
        ("not a unique name of a kernel", |m| m.kernels[0].name = "k1".into()),
        ("no elements", |m| m.weights[0].shape = vec![0, 4]),
        ("dimensions", |m| m.weights[1].shape = vec![1; 5]),
        ("there are none", |m| m.launches.clear()),
        ("launch 3 (op 3), choices", |m| m.launches[3].choices.clear()),
        ("does not follow", |m| m.launches[0].choices[0].from = 2),
        ("do not cover 1..=16", |m| m.launches[0].choices[0].to = 15),
        ("does not follow", |m| m.launches[0].choices[0].to = 17),
        ("does not follow", |m| {
            let choice = m.launches[0].choices[0];
            m.launches[0].choices = vec![Choice { to: 8, ..choice }, Choice { from: 8, ..choice }];
        }),
        ("do not cover 1..=16 of prefill steps", |m| m.launches[0].choices[0].steps = Steps::Decode),
        ("does not follow", |m| {
            let choice = m.launches[0].choices[0];
            m.launches[0].choices.push(Choice { steps: Steps::Prefill, ..choice });
        }),
        ("none for prefill steps", |m| {
            let choice = single(&m.launches[0].choices[0]);
            m.launches[0].choices.push(choice);
        }),
        ("1..=16 of requests with one token", |m| {
            let choice = m.launches[0].choices[0];
            m.launches[0].choices =
                [Steps::Decode, Steps::Prefill].map(|steps| Choice { steps, ..choice }).into();
            m.launches[0].choices.push(Choice { to: 15, ..single(&choice) });
        }),
        ("launch 2 (op 2), ops", |m| m.launches[2].ops.clear()),
        ("does not follow", |m| m.launches[1].ops = vec![0, 1]),
        ("does not follow", |m| m.launches[1].ops = vec![1, 1]),
        ("none computes op 1, but one op 2", |m| {
            m.launches.remove(1);
        }),
        ("no kernel 10", |m| m.launches[0].choices[0].kernel = 10),
        ("64", |m| m.launches[0].args = vec![Arg::Tokens; 64]),
        ("arguments", |m| m.launches[0].args = vec![Arg::Tokens; 65]),
        ("argument 1: Weight(9)", |m| m.launches[0].args[1] = Arg::Weight(9)),
        ("argument 4: Kv(1)", |m| m.launches[3].args[4] = Arg::Kv(1)),
        ("not aligned", |m| m.launches[0].args[2] = Arg::Arena(8)),
        ("do not lie in an arena", |m| m.launches[0].args[2] = Arg::Arena(m.arena / 16 * 16)),
        ("argument 0: Positions where", |m| m.launches[0].args[0] = Arg::Positions),
        ("3 arguments, the kernel takes 4", |m| {
            m.launches[2].args.remove(2);
        }),
        ("logits", |m| m.logits = 3088),
        ("the kernel takes [24, 10]", |m| m.launches[2].args[1] = Arg::Weight(5)),
        ("the kernel takes [21, 10]", |m| m.weights[0].shape = vec![20, 10]),
        ("[24] in f32", |m| m.weights[3].encoding = Encoding::Bf16),
        ("[10] in f32 or bf16", |m| m.weights[1].shape = vec![11]),
        ("2 query heads over 3 key heads", |m| m.kv.layers[0].heads = 3),
        ("no argument is a cache", |m| m.launches[4].args[2] = Arg::Batch),
        ("rotated elements", |m| {
            set(m, 3, |k| {
                if let HostKernel::RopeKvAppend { dim, .. } = k {
                    *dim = 3
                }
            })
        }),
        ("rotated elements", |m| {
            set(m, 3, |k| {
                if let HostKernel::RopeKvAppend { dim, .. } = k {
                    *dim = 8
                }
            })
        }),
        ("not finite", |m| {
            set(m, 4, |k| {
                if let HostKernel::Attention { scale, .. } = k {
                    *scale = f32::NAN
                }
            })
        }),
        ("attention multiplies Bf16", |m| {
            set(m, 4, |k| {
                if let HostKernel::Attention { products, .. } = k {
                    *products = Some(Dtype::Bf16)
                }
            })
        }),
        ("an extent is 0", |m| {
            set(m, 8, |k| {
                if let HostKernel::GatherRows { width, .. } = k {
                    *width = 0
                }
            })
        }),
        ("4 arguments, the kernel takes 5", |m| {
            m.launches[7].args.remove(1);
        }),
        ("where the kernel takes f32 or bf16", |m| {
            set(m, 8, |k| {
                if let HostKernel::GatherRows { x, .. } = k {
                    *x = Dtype::F8E4M3
                }
            })
        }),
        ("2 normalised rows share a scale", |m| {
            set(m, 1, |k| {
                if let HostKernel::RmsNorm { per_token, out, .. } = k {
                    (*per_token, *out) = (2, Dtype::F8E4M3)
                }
            })
        }),
        ("are not aligned", |m| {
            m.kv = Kv { page_tokens: 3, dtype: Dtype::F8E4M3, ..m.kv.clone() };
            m.kv.layers[0].head_dim = 5;
        }),
    ];
    for (want, change) in cases {
        let error = broken(change);
        assert!(error.contains(want), "expected {want:?} in {error:?}");
    }
}

fn set(m: &mut Manifest, kernel: usize, change: impl FnOnce(&mut HostKernel)) {
    if let Code::Host(host) = &mut m.kernels[kernel].code {
        change(host);
    }
}

#[test]
fn either_kind_of_step_has_its_kernels() {
    let mut m = manifest();
    let choice = m.launches[0].choices[0];
    let of = |from, to, steps, kernel| Choice { from, to, steps, kernel };
    m.launches[0].choices = vec![
        of(1, 4, Steps::Any, 0),
        of(5, 16, Steps::Decode, choice.kernel),
        of(5, 8, Steps::Prefill, choice.kernel),
        of(9, 16, Steps::Prefill, choice.kernel),
    ];
    m.check().unwrap();
    let launch = &m.launches[0];
    let chosen = |tokens, seqs| {
        launch.choices.iter().position(|c| Some(c) == launch.choice(Steps::of(tokens, seqs), tokens))
    };
    assert_eq!([chosen(4, 1), chosen(4, 4)], [Some(0); 2]);
    assert_eq!([chosen(8, 8), chosen(8, 7), chosen(9, 1), chosen(17, 1)], [Some(1), Some(2), Some(3), None]);
}

#[test]
fn a_launch_may_compute_another_ones_op_in_some_steps() {
    let split = || {
        let mut m = manifest();
        // Two ops: by themselves in prompts, both at once in decode steps.
        let [first, second] = [0, 1].map(|i: usize| m.launches[i].clone());
        let all = first.choices[0];
        let some = |steps| vec![Choice { steps, ..all }];
        m.launches[0].choices = some(Steps::Prefill);
        m.launches[1].choices = vec![Choice { steps: Steps::Prefill, ..second.choices[0] }];
        m.launches.insert(1, Launch { ops: vec![0, 1], choices: some(Steps::Decode), ..first });
        m
    };
    let m = split();
    m.check().unwrap();
    let chosen = |tokens, seqs| {
        m.launches.iter().map(|l| l.choice(Steps::of(tokens, seqs), tokens).is_some()).collect::<Vec<_>>()
    };
    assert_eq!(chosen(4, 4)[..3], [false, true, false]);
    assert_eq!(chosen(4, 1)[..3], [true, false, true]);
    let cases: [(&str, fn(&mut Manifest)); 4] = [
        ("do not cover 1..=16 of decode steps", |m| drop(m.launches.remove(1))),
        ("launch 2 (op 1), choices", |m| m.launches[1].ops = vec![0]),
        ("do not cover 1..=16 of decode steps", |m| m.launches[1].choices[0].to = 15),
        ("does not follow", |m| m.launches[0].choices[0].steps = Steps::Any),
    ];
    for (i, (wanted, change)) in cases.into_iter().enumerate() {
        let mut m = split();
        change(&mut m);
        let message = m.check().unwrap_err().to_string();
        assert!(message.contains(wanted), "{i}: {message}");
    }
}

#[test]
fn tensor_maps_lie_in_their_arguments() {
    // The first kernel's arguments: tokens, a table, and where the rows of the arena go.
    let m = ptx_manifest();
    let args = &m.launches[0].args;
    let at = |wanted: fn(&Arg) -> bool| args.iter().position(wanted).unwrap() as u32;
    let (table, rows) = (at(|a| matches!(a, Arg::Weight(_))), at(|a| matches!(a, Arg::Arena(_))));
    let map = Map {
        arg: rows,
        elem: MapElem::F32,
        width: 8,
        rows: MapRows::Most(Count::Tokens),
        tile: [8, 4],
        swizzle: 0,
    };
    let mut good = ptx_manifest();
    if let Code::Ptx(ptx) = &mut good.kernels[0].code {
        ptx.maps = vec![map];
    }
    good.check().unwrap();
    let with = |map: Map| broken_ptx(|p| p.maps = vec![map]);
    assert!(with(Map { arg: 64, ..map }).contains("over no argument"));
    assert!(with(Map { rows: MapRows::Fixed(1 << 30), ..map }).contains("does not fit"));
    assert!(with(Map { arg: table, rows: MapRows::Fixed(1 << 20), ..map }).contains("does not fit"));
    assert!(with(Map { rows: MapRows::Paged(1), ..map }).contains("does not fit"));
    assert!(with(Map { width: u32::MAX / 4 * 4, ..map }).contains("does not fit"));
    assert!(with(Map { width: 3, ..map }).contains("rows of 12 bytes"));
    assert!(with(Map { rows: MapRows::Fixed(0), ..map }).contains("no rows"));
    assert!(with(Map { tile: [0, 4], ..map }).contains("tiles"));
    assert!(with(Map { tile: [8, 512], ..map }).contains("tiles"));
    assert!(with(Map { tile: [8, 16], swizzle: 32, ..map }).contains("swizzled over 32"));
    assert!(with(Map { swizzle: 48, ..map }).contains("swizzle"));
    assert!(broken_ptx(|p| p.maps = vec![map; 17]).contains("17 tensor maps"));
}

#[test]
fn ptx_kernels_are_bounded() {
    assert!(broken_ptx(|p| p.entry = "a b".into()).contains("entry point"));
    assert!(broken_ptx(|p| p.entry = String::new()).contains("entry point"));
    assert!(broken_ptx(|p| p.grid[1].div = 0).contains("grid extent"));
    assert!(broken_ptx(|p| p.block = [u32::MAX, u32::MAX, 2]).contains("threads"));
    assert!(broken_ptx(|p| p.block = [32, 0, 1]).contains("threads"));
    assert!(broken_ptx(|p| p.shared = 1 << 20).contains("shared"));
    assert!(broken_ptx(|p| p.module = "embed".into()).contains("two tensors"));
    assert!(broken_ptx(|p| p.cubin = Some("embed".into())).contains("two tensors"));
    assert!(broken_ptx(|p| p.cubin = Some(p.module.clone())).contains("its PTX and its binary"));
}

#[test]
fn an_embedding_may_have_more_rows_than_the_vocabulary() {
    let mut m = manifest();
    m.weights[0] = weight("embed", &[32, 10], Encoding::Bf16, Layout::Rows);
    m.check().unwrap();
}

#[test]
fn scales_of_a_cache_are_counted() {
    let kv = Kv { dtype: Dtype::F8E4M3, ..manifest().kv };
    // Keys and values of one head: 16 tokens of 6 bytes and a scale.
    assert_eq!(kv.page_bytes(&kv.layers[0]), 2 * 16 * (6 + 4));
    assert_eq!(Kv { dtype: Dtype::Bf16, ..kv.clone() }.page_bytes(&kv.layers[0]), 2 * 16 * 6 * 2);
}

#[test]
fn huge_extents_do_not_overflow() {
    let most = u32::MAX;
    let kv = KvLayer { heads: 1, head_dim: 1 << 12, window: None };
    let (x, out) = (Dtype::F32, Dtype::F32);
    for kernel in [
        HostKernel::RmsNorm {
            width: most,
            per_token: most,
            eps: 0.0,
            offset: 0.0,
            rows: Count::Tokens,
            x,
            out,
        },
        HostKernel::RopeKvAppend { heads: most, dim: 2, q_norm: None, k_norm: None, x, out },
        HostKernel::Slice { of: most, start: most, width: most, x },
        HostKernel::Rope { heads: most, head_dim: most, dim: 2, x, out },
    ] {
        let slots = signature(&kernel, Some(&kv), 1).unwrap_or_default();
        for slot in slots {
            if let Slot::Arena { count, width, dtype } = slot {
                assert!(manifest().check_arena("", 0, count, width, dtype.bytes()).is_err());
            }
        }
    }
}
