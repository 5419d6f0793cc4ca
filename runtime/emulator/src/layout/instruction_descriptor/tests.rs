//! Tests of instruction descriptors: words put together from the ISA's tables.

use super::*;
use proptest::prelude::*;

const fn form(kind: MmaKind) -> MmaForm {
    MmaForm { kind, cta_group: 1, weight_stationary: false }
}

#[test]
fn a_bf16_descriptor_as_cutlass_makes_it() {
    // c_format F32 at 4, a and b BF16 at 7 and 10, N 256 at 17, M 128 at 24.
    let word = 1 << 4 | 1 << 7 | 1 << 10 | (256 >> 3) << 17 | (128 >> 4) << 24;
    let found = InstructionDescriptor::decode(word, form(MmaKind::F16)).unwrap();
    assert_eq!((found.m, found.n, found.k), (128, 256, 16));
    assert_eq!(
        (found.a, found.b, found.d),
        (OperandFormat::Bf16, OperandFormat::Bf16, AccumulatorFormat::F32)
    );
    assert_eq!((found.a_major, found.b_major, found.scale), (Major::K, Major::K, None));
    let transposed = InstructionDescriptor::decode(word | 1 << 16 | 1 << 13, form(MmaKind::F16)).unwrap();
    assert_eq!((transposed.b_major, transposed.negate_a, transposed.negate_b), (Major::Mn, true, false));
}

#[test]
fn block_scaled_words_hold_scale_ids() {
    let word = 1 << 23 | 3 << 4 | 2 << 29 | 5 << 10 | (64 >> 3) << 17 | (128 >> 7) << 27;
    let found = InstructionDescriptor::decode(word, form(MmaKind::Mxf8f6f4)).unwrap();
    assert_eq!((found.m, found.n, found.k), (128, 64, 32));
    assert_eq!((found.a, found.b), (OperandFormat::E4m3, OperandFormat::E2m1));
    assert_eq!(found.scale, Some(BlockScale { format: ScaleFormat::Ue8m0, a_id: 2, b_id: 3 }));

    let word = 1 << 7 | 1 << 10 | (64 >> 3) << 17 | 1 << 27;
    let found = InstructionDescriptor::decode(word, form(MmaKind::Mxf4nvf4)).unwrap();
    assert_eq!(found.scale, Some(BlockScale { format: ScaleFormat::Ue4m3, a_id: 0, b_id: 0 }));
    assert_eq!(found.k, 64);
    assert!(matches!(
        InstructionDescriptor::decode(word, form(MmaKind::Mxf4)),
        Err(Error::Field { field: "the format of the scales (bit 23)", found: 0, .. })
    ));
    assert!(matches!(
        InstructionDescriptor::decode(word | 1 << 4, form(MmaKind::Mxf4nvf4)),
        Err(Error::Field { found: 1, allowed: "0 and 2", .. })
    ));
    assert_eq!(InstructionDescriptor::decode(word | 1 << 31, form(MmaKind::Mxf4nvf4)), Err(Error::K96));
    assert_eq!(
        InstructionDescriptor::decode(word | 1 << 15, form(MmaKind::Mxf4nvf4)),
        Err(Error::ReservedBits { descriptor: word | 1 << 15, kind: MmaKind::Mxf4nvf4, bits: 1 << 15 })
    );
}

#[test]
fn shapes_are_those_of_the_table() {
    let word = |m: u32, n: u32| 1 << 4 | (n >> 3) << 17 | (m >> 4) << 24;
    let ok = |form, word| InstructionDescriptor::decode(word, form).is_ok();
    let pair = MmaForm { cta_group: 2, ..form(MmaKind::F16) };
    let ws = MmaForm { weight_stationary: true, ..form(MmaKind::F16) };
    assert!(ok(form(MmaKind::F16), word(64, 8)) && !ok(form(MmaKind::F16), word(256, 64)));
    assert!(ok(pair, word(256, 256)) && !ok(pair, word(64, 64)) && !ok(pair, word(128, 24)));
    assert!(ok(ws, word(32, 64)) && !ok(ws, word(32, 96)) && !ok(form(MmaKind::F16), word(32, 64)));
    assert!(!ok(form(MmaKind::F16), word(128, 0)));
    let i8 = |n: u32| 2 << 4 | (n >> 3) << 17 | (64 >> 4) << 24;
    assert!(ok(form(MmaKind::I8), i8(24)) && !ok(form(MmaKind::I8), i8(40)));
    assert!(ok(ws, word(32, 64) | 1 << 30) && !ok(form(MmaKind::F16), word(64, 64) | 1 << 30));
    let fp8 = |n| word(64, n) | 1 << 16;
    assert!(ok(form(MmaKind::F8f6f4), fp8(16)) && !ok(form(MmaKind::F8f6f4), fp8(24)));
    let wrong = MmaForm { cta_group: 3, ..ws };
    assert_eq!(InstructionDescriptor::decode(0, wrong), Err(Error::Form { form: wrong }));
}

#[test]
fn a_selector_needs_a_sparse_a() {
    let word = 1 << 4 | (64 >> 3) << 17 | (64 >> 4) << 24;
    assert!(InstructionDescriptor::decode(word | 1, form(MmaKind::F16)).is_err());
    let found = InstructionDescriptor::decode(word | 0b101, form(MmaKind::F16)).unwrap();
    assert_eq!((found.sparsity, found.k), (Some(1), 32));
}

proptest! {
    #[test]
    fn decoding_never_panics(word in any::<u32>(), kind in 0usize..7, group in 0u8..4, ws in any::<bool>()) {
        let kinds = [MmaKind::F16, MmaKind::Tf32, MmaKind::F8f6f4, MmaKind::I8, MmaKind::Mxf8f6f4, MmaKind::Mxf4, MmaKind::Mxf4nvf4];
        let form = MmaForm { kind: kinds[kind], cta_group: group, weight_stationary: ws };
        if let Ok(found) = InstructionDescriptor::decode(word, form) {
            prop_assert!(found.m <= 256 && (8..=256).contains(&found.n));
        }
    }
}
