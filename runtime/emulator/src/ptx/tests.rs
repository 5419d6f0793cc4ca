//! The parser: declarations, operands, scopes, and text that is no PTX.

use super::*;
use proptest::prelude::*;

const SAMPLE: &str = "
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 smem[];
.visible .entry k(
	.param .align 64 .b8 k_param_0[128],
	.param .u64 .ptr .global .align 1 k_param_1
)
.reqntid 128, 2
.reqnctapercluster 2
{
	.reg .pred 	%p<3>;
	.reg .b32 	%r<9>;
	.shared .align 8 .u64 bars[2];
	ld.param.b64 	%rd, [k_param_1+4]; // comment
}
";

fn with(body: &str) -> Result<Module, Malformed> {
    parse(&SAMPLE.replace("ld.param.b64 	%rd, [k_param_1+4];", body))
}

#[test]
fn declarations() {
    let m = with("ret;").unwrap();
    assert_eq!((m.version, &*m.target), (80, "sm_90a"));
    let k = &m.kernels[0];
    assert_eq!((k.block, k.cluster, k.params), (Some([128, 2, 1]), Some([2, 1, 1]), 2));
    let sizes: Vec<_> = k.variables.iter().map(|v| (&*v.name, v.bytes, v.align)).collect();
    assert_eq!(
        sizes,
        [
            ("k_param_0", Some(128), 64),
            ("k_param_1", Some(8), 8),
            ("smem", None, 1024),
            ("bars", Some(16), 8)
        ]
    );
    assert_eq!(k.registers.len(), 12);
}

#[test]
fn operands() {
    let m = with(
        "@!%p1 shfl.sync.bfly.b32 %r1|%p0, %r2, -1, 0x1f, 0f3F800000; st.shared.v2.b32 [bars+8], {%r1, _};",
    )
    .unwrap();
    let k = &m.kernels[0];
    let reg = |n| Operand::Reg(Reg(n));
    assert_eq!(k.body[0].guard, Some((Reg(1), true)));
    assert_eq!(k.body[0].opcode, ["shfl", "sync", "bfly", "b32"]);
    let pair = Operand::Pair(Box::new(reg(4)), Box::new(reg(0)));
    let rest = [Operand::Int(-1), Operand::Int(31), Operand::Int(0x3F80_0000)];
    assert_eq!(k.body[0].operands[..2], [pair, reg(5)]);
    assert_eq!(k.body[0].operands[2..], rest);
    let base = Box::new(Operand::Variable(3, 0));
    assert_eq!(k.body[1].operands[0], Operand::Address { base, offset: 8, more: vec![] });
    assert_eq!(k.body[1].operands[1], Operand::Vector(vec![reg(4), Operand::Sink]));
}

#[test]
fn inner_scopes_have_their_own_names() {
    let m = with("bra L; { .reg .pred P; L: @P bra L; } { .reg .pred P; L: @P bra.uni L; } L: ret;").unwrap();
    let k = &m.kernels[0];
    let aims: Vec<usize> = k.body[..3]
        .iter()
        .map(|s| match s.operands[0] {
            Operand::Label(l) => k.labels[l].at,
            _ => usize::MAX,
        })
        .collect();
    assert_eq!(aims, [3, 1, 2]);
    assert_ne!(k.body[1].guard, k.body[2].guard);
}

#[test]
fn faults_name_the_line() {
    let e = with("add.s32 %r1, %r2, nothing;").unwrap_err();
    assert_eq!(e.to_string(), "line 16: nothing is not declared");
    assert!(with(&"{".repeat(1 << 16)).unwrap_err().what.contains("deep"));
    assert!(with(&format!("add {}", "[".repeat(1 << 16))).unwrap_err().what.contains("deep"));
    assert!(with("bra L;").unwrap_err().what.contains("not declared"));
    assert!(with("{ ret;").is_err());
    assert!(with("L: L: ret;").unwrap_err().what.contains("twice"));
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(cut in 0usize..400, junk in "[ -~\n]{0,40}") {
        let cut = cut.min(SAMPLE.len());
        let _ = parse(&format!("{}{junk}{}", &SAMPLE[..cut], &SAMPLE[cut..]));
        let _ = parse(&SAMPLE[..cut]);
    }
}
