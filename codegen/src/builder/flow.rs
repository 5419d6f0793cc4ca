//! Structured control flow: loops with carried values, conditionals, waiting.

use super::{Builder, I1, I32, IntoVal, Raw, Ty, Val};
use std::fmt::Write as _;

/// Values that a loop carries from one round to the next, or that a conditional yields.
pub trait Carried<'b>: Sized {
    /// Appends the values in order.
    fn flatten(&self, out: &mut Vec<Raw>);
    /// The same shape as `self` over other values.
    fn rebuild(&self, b: &'b Builder, ids: &mut dyn Iterator<Item = u32>) -> Self;
}

impl<'b> Carried<'b> for () {
    fn flatten(&self, _: &mut Vec<Raw>) {}
    fn rebuild(&self, _: &'b Builder, _: &mut dyn Iterator<Item = u32>) {}
}

impl<'b, T: Ty> Carried<'b> for Val<'b, T> {
    fn flatten(&self, out: &mut Vec<Raw>) {
        out.push(self.raw());
    }
    fn rebuild(&self, b: &'b Builder, ids: &mut dyn Iterator<Item = u32>) -> Self {
        // The iterator has one id for each value that `flatten` gave.
        b.val(ids.next().unwrap_or(self.id))
    }
}

impl<'b, C: Carried<'b>, const N: usize> Carried<'b> for [C; N] {
    fn flatten(&self, out: &mut Vec<Raw>) {
        self.iter().for_each(|c| c.flatten(out));
    }
    fn rebuild(&self, b: &'b Builder, ids: &mut dyn Iterator<Item = u32>) -> Self {
        std::array::from_fn(|i| self[i].rebuild(b, ids))
    }
}

impl<'b, C: Carried<'b>> Carried<'b> for Vec<C> {
    fn flatten(&self, out: &mut Vec<Raw>) {
        self.iter().for_each(|c| c.flatten(out));
    }
    fn rebuild(&self, b: &'b Builder, ids: &mut dyn Iterator<Item = u32>) -> Self {
        self.iter().map(|c| c.rebuild(b, ids)).collect()
    }
}

impl<'b, A: Carried<'b>, B: Carried<'b>> Carried<'b> for (A, B) {
    fn flatten(&self, out: &mut Vec<Raw>) {
        self.0.flatten(out);
        self.1.flatten(out);
    }
    fn rebuild(&self, b: &'b Builder, ids: &mut dyn Iterator<Item = u32>) -> Self {
        (self.0.rebuild(b, ids), self.1.rebuild(b, ids))
    }
}

impl<'b, A: Carried<'b>, B: Carried<'b>, C: Carried<'b>> Carried<'b> for (A, B, C) {
    fn flatten(&self, out: &mut Vec<Raw>) {
        self.0.flatten(out);
        self.1.flatten(out);
        self.2.flatten(out);
    }
    fn rebuild(&self, b: &'b Builder, ids: &mut dyn Iterator<Item = u32>) -> Self {
        (self.0.rebuild(b, ids), self.1.rebuild(b, ids), self.2.rebuild(b, ids))
    }
}

/// `(%1, %2 : i32, f32)`, or nothing.
fn arguments(values: &[Raw]) -> String {
    if values.is_empty() {
        return String::new();
    }
    let names: Vec<String> = values.iter().map(Raw::to_string).collect();
    let types: Vec<&str> = values.iter().map(|v| v.ty.as_ref()).collect();
    format!("({} : {})", names.join(", "), types.join(", "))
}

impl Builder {
    fn label(&self) -> u32 {
        let mut state = self.state.borrow_mut();
        state.label += 1;
        state.label
    }

    /// Begins a block; returns its arguments, of the types of `like`.
    fn begin(&self, label: u32, like: &[Raw]) -> Vec<u32> {
        let ids: Vec<u32> = like.iter().map(|_| self.fresh()).collect();
        let mut head = format!("^b{label}");
        for (i, (id, v)) in ids.iter().zip(like).enumerate() {
            let _ = write!(head, "{}%{id}: {}", if i == 0 { "(" } else { ", " }, v.ty);
        }
        self.line(format_args!("{head}{}:", if ids.is_empty() { "" } else { ")" }));
        ids
    }

    /// `for i in (from..to).step_by(step) { carried = body(i, carried) }`; signed; never unrolled by LLVM.
    pub fn for_<'b, C: Carried<'b>>(
        &'b self,
        from: impl IntoVal<'b, I32>,
        to: impl IntoVal<'b, I32>,
        step: impl IntoVal<'b, I32>,
        init: C,
        body: impl FnOnce(Val<'b, I32>, C) -> C,
    ) -> C {
        let (from, to, step) = (from.into_val(self), to.into_val(self), step.into_val(self));
        let (head, inside, after) = (self.label(), self.label(), self.label());
        let mut values = vec![from.raw()];
        init.flatten(&mut values);
        self.stmt(format_args!("llvm.br ^b{head}{}", arguments(&values)));
        let ids = self.begin(head, &values);
        let i: Val<'b, I32> = self.val(ids[0]);
        let carried = init.rebuild(self, &mut ids[1..].iter().copied());
        let more = i.lt(to);
        self.stmt(format_args!("llvm.cond_br {more}, ^b{inside}, ^b{after}"));
        self.begin(inside, &[]);
        let result = init.rebuild(self, &mut ids[1..].iter().copied());
        let next = body(i, carried);
        let mut values = vec![(i + step).raw()];
        next.flatten(&mut values);
        self.stmt(format_args!(
            "llvm.br ^b{head}{} {{loop_annotation = #llvm.loop_annotation<unroll = <disable = true>>}}",
            arguments(&values)
        ));
        self.begin(after, &[]);
        result
    }

    /// `while more(&carried) { carried = body(carried) }`.
    pub fn while_<'b, C: Carried<'b>>(
        &'b self,
        init: C,
        more: impl FnOnce(&C) -> Val<'b, I1>,
        body: impl FnOnce(C) -> C,
    ) -> C {
        let (head, inside, after) = (self.label(), self.label(), self.label());
        let mut values = Vec::new();
        init.flatten(&mut values);
        self.stmt(format_args!("llvm.br ^b{head}{}", arguments(&values)));
        let ids = self.begin(head, &values);
        let carried = || init.rebuild(self, &mut ids.iter().copied());
        let more = more(&carried());
        self.stmt(format_args!("llvm.cond_br {more}, ^b{inside}, ^b{after}"));
        self.begin(inside, &[]);
        let mut next = Vec::new();
        body(carried()).flatten(&mut next);
        self.stmt(format_args!("llvm.br ^b{head}{}", arguments(&next)));
        self.begin(after, &[]);
        carried()
    }

    /// `if condition { then() }`.
    pub fn if_(&self, condition: Val<'_, I1>, then: impl FnOnce()) {
        let (inside, after) = (self.label(), self.label());
        self.stmt(format_args!("llvm.cond_br {condition}, ^b{inside}, ^b{after}"));
        self.begin(inside, &[]);
        then();
        self.stmt(format_args!("llvm.br ^b{after}"));
        self.begin(after, &[]);
    }

    /// `if condition { then() } else { other() }`; both give values of the same types.
    pub fn if_else<'b, C: Carried<'b>>(
        &'b self,
        condition: Val<'b, I1>,
        then: impl FnOnce() -> C,
        other: impl FnOnce() -> C,
    ) -> C {
        let (yes, no, after) = (self.label(), self.label(), self.label());
        self.stmt(format_args!("llvm.cond_br {condition}, ^b{yes}, ^b{no}"));
        self.begin(yes, &[]);
        let first = then();
        let mut values = Vec::new();
        first.flatten(&mut values);
        self.stmt(format_args!("llvm.br ^b{after}{}", arguments(&values)));
        self.begin(no, &[]);
        let mut others = Vec::new();
        other().flatten(&mut others);
        self.stmt(format_args!("llvm.br ^b{after}{}", arguments(&others)));
        let ids = self.begin(after, &values);
        first.rebuild(self, &mut ids.into_iter())
    }

    /// `while !done() {}`.
    pub fn wait_until<'b>(&'b self, done: impl FnOnce() -> Val<'b, I1>) {
        let (head, after) = (self.label(), self.label());
        self.stmt(format_args!("llvm.br ^b{head}"));
        self.begin(head, &[]);
        let done = done();
        self.stmt(format_args!("llvm.cond_br {done}, ^b{after}, ^b{head}"));
        self.begin(after, &[]);
    }

    /// `switch which { 0 => arms(0), 1 => arms(1), ... }`; nothing happens for other values.
    pub fn switch(&self, which: Val<'_, I32>, arms: u32, mut arm: impl FnMut(u32)) {
        let after = self.label();
        let labels: Vec<u32> = (0..arms).map(|_| self.label()).collect();
        let cases: Vec<String> = labels.iter().enumerate().map(|(i, l)| format!("{i}: ^b{l}")).collect();
        self.stmt(format_args!("llvm.switch {which} : i32, ^b{after} [{}]", cases.join(", ")));
        for (i, label) in labels.into_iter().enumerate() {
            self.begin(label, &[]);
            arm(i as u32);
            self.stmt(format_args!("llvm.br ^b{after}"));
        }
        self.begin(after, &[]);
    }
}
