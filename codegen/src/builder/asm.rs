//! Inline PTX, typed: for instructions without an op.

use super::{Builder, Raw, Ty, Val};

/// Whether the optimiser may drop, duplicate or move an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// Result depends on the operands only.
    Pure,
    /// Stays where it is, in order with memory accesses.
    Keeps,
}

impl Builder {
    /// Inline PTX without results; `$0`, `$1` are `inputs`. It stays in order with memory accesses.
    pub fn ptx(&self, text: &str, inputs: &[Raw]) {
        let (names, types, letters) = operands(inputs);
        let letters = [letters, vec!["~{memory}".to_owned()]].concat().join(",");
        self.stmt(format_args!(
            "llvm.inline_asm has_side_effects asm_dialect = att \"{text}\", \"{letters}\" {names} : ({types}) -> ()"
        ));
    }

    /// Inline PTX with one result, `$0`; `$1`... are `inputs`.
    pub(super) fn ptx_value<T: Ty>(&self, effect: Effect, text: &str, inputs: &[Raw]) -> Val<'_, T> {
        let (names, types, mut letters) = operands(inputs);
        letters.insert(0, format!("={}", T::REG));
        let flags = self.effect(effect, &mut letters);
        self.op(format_args!(
            "llvm.inline_asm {flags}asm_dialect = att \"{text}\", \"{}\" {names} : ({types}) -> {}",
            letters.join(","),
            T::mlir()
        ))
    }

    /// Inline PTX with `N` results of one type, `$0..$N`; then `inputs`.
    pub(super) fn ptx_values<T: Ty>(
        &self,
        effect: Effect,
        text: &str,
        n: usize,
        inputs: &[Raw],
    ) -> Vec<Val<'_, T>> {
        let (names, types, mut letters) = operands(inputs);
        letters.splice(0..0, (0..n).map(|_| format!("={}", T::REG)));
        self.ptx_struct(effect, text, n, &names, &types, letters)
    }

    /// Inline PTX that updates `tied`, `$0..$N`; what follows them are `inputs`, from `$(2 N)` on.
    pub(super) fn ptx_tied<'b, T: Ty>(
        &'b self,
        text: &str,
        tied: &[Val<'b, T>],
        inputs: &[Raw],
    ) -> Vec<Val<'b, T>> {
        let n = tied.len();
        let all: Vec<Raw> = tied.iter().map(|t| t.raw()).chain(inputs.iter().cloned()).collect();
        let (names, types, _) = operands(&all);
        let (_, _, input_letters) = operands(inputs);
        let outputs = (0..n).map(|_| format!("={}", T::REG));
        let letters = outputs.chain((0..n).map(|i| i.to_string())).chain(input_letters).collect();
        self.ptx_struct(Effect::Keeps, text, n, &names, &types, letters)
    }

    fn ptx_struct<T: Ty>(
        &self,
        effect: Effect,
        text: &str,
        n: usize,
        names: &str,
        types: &str,
        mut letters: Vec<String>,
    ) -> Vec<Val<'_, T>> {
        let flags = self.effect(effect, &mut letters);
        let result = if n == 1 { T::mlir().into_owned() } else { structure(&T::mlir(), n) };
        // A struct has no Rust type; only its name is used.
        let all: Val<'_, T> = self.op(format_args!(
            "llvm.inline_asm {flags}asm_dialect = att \"{text}\", \"{}\" {names} : ({types}) -> {result}",
            letters.join(",")
        ));
        if n == 1 { vec![all] } else { self.extract(all.id, &result, n) }
    }

    fn effect(&self, effect: Effect, letters: &mut Vec<String>) -> &'static str {
        match effect {
            Effect::Pure => "",
            Effect::Keeps => {
                letters.push("~{memory}".to_owned());
                "has_side_effects "
            }
        }
    }

    /// The `n` fields of struct `%id`, all of one type.
    pub(super) fn extract<T: Ty>(&self, id: u32, ty: &str, n: usize) -> Vec<Val<'_, T>> {
        (0..n).map(|i| self.op(format_args!("llvm.extractvalue %{id}[{i}] : {ty}"))).collect()
    }
}

/// `!llvm.struct<(f32, f32)>`.
pub(super) fn structure(element: &str, n: usize) -> String {
    format!("!llvm.struct<({})>", vec![element; n].join(", "))
}

/// Names, types and register letters of operands.
fn operands(inputs: &[Raw]) -> (String, String, Vec<String>) {
    let names: Vec<String> = inputs.iter().map(Raw::to_string).collect();
    let types: Vec<&str> = inputs.iter().map(|r| r.ty.as_ref()).collect();
    (names.join(", "), types.join(", "), inputs.iter().map(|r| r.reg.to_string()).collect())
}
