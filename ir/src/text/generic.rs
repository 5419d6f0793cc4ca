//! The generic form that `mlir-opt --allow-unregistered-dialect` reads: for MLIR's own tools and viewers.
//!
//! Symbolic dimensions become `?`; what MLIR has no place for becomes attributes. It is not read back.

use super::print::{Rope, known_loc};
use crate::entity::{ValueId, WeightId};
use crate::loc::Loc;
use crate::module::{Def, Module, OpData, Source};
use crate::ops::Attr;
use crate::types::{Dim, Elem, KvType, TensorType, Type};
use std::fmt::Write;

/// The generic form of a module, with locations.
pub fn print_generic(module: &Module) -> String {
    let p = Generic { module };
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = p.module(&mut out);
    out
}

struct Generic<'a> {
    module: &'a Module,
}

/// A text as MLIR writes it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for b in text.bytes() {
        match b {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(b));
            }
            b' '..=b'~' => out.push(char::from(b)),
            other => {
                let _ = write!(out, "\\{other:02X}");
            }
        }
    }
    out.push('"');
    out
}

/// A symbol; bare where MLIR's grammar lets it be.
fn symbol(name: &str) -> String {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let bare = first && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.$".contains(&b));
    if bare { format!("@{name}") } else { format!("@{}", quoted(name)) }
}

/// MLIR's integer attributes are signed, its extents too.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn float(x: f32) -> String {
    if x.is_finite() {
        let text = format!("{x:?}");
        // MLIR wants a point before an exponent.
        let text = match text.split_once('e') {
            Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
            _ => text,
        };
        format!("{text} : f32")
    } else {
        format!("0x{:08X} : f32", x.to_bits())
    }
}

fn tensor(t: &TensorType) -> String {
    let mut out = String::from("tensor<");
    for d in &t.dims {
        let _ = match d {
            Dim::Const(n) => write!(out, "{}x", signed(*n)),
            Dim::Sym(_) => write!(out, "?x"),
        };
    }
    let _ = match t.elem {
        Elem::Plain(d) => write!(out, "{d}>"),
        // The inner part of `!quant<...>` as a type of our dialect, opaque to MLIR.
        Elem::Quant(s) => write!(out, "!llm.{}>", s.to_string().trim_start_matches('!')),
    };
    out
}

fn kv(k: &KvType) -> String {
    let mut out =
        format!("!llm.kv<layer = {}, heads = {}, dim = {}, {}", k.layer, k.heads, k.head_dim, k.dtype);
    for (name, n) in [("window", k.window), ("page", k.page)] {
        if let Some(n) = n {
            let _ = write!(out, ", {name} = {n}");
        }
    }
    out + ">"
}

fn ty(t: &Type) -> String {
    match t {
        Type::Tensor(t) => tensor(t),
        Type::Kv(k) => kv(k),
        Type::Batch => "!llm.batch".to_owned(),
    }
}

fn loc(loc: &Loc) -> String {
    match loc {
        Loc::Unknown => "unknown".into(),
        Loc::Name(n) => quoted(n),
        Loc::File { path, line, col } => format!("{}:{line}:{col}", quoted(path)),
        Loc::Fused(parts) => {
            let parts: Vec<_> = parts.iter().filter(|l| !matches!(l, Loc::Fused(_))).map(self::loc).collect();
            format!("fused[{}]", parts.join(", "))
        }
    }
}

impl Generic<'_> {
    /// `%h`, or `%h#1` for a further result of the op whose first result is `h`.
    fn value(&self, id: ValueId) -> String {
        let func = &self.module.func;
        if let Some(Def::Op(op, n)) = func.values.get(id).map(|v| v.def)
            && let Some(data) = func.ops.get(op)
            && data.results.len() > 1
        {
            return format!("%{}#{n}", data.results.first().map_or("?".into(), |&r| self.name(r)));
        }
        format!("%{}", self.name(id))
    }

    /// A name that MLIR takes. `$` marks the made-up ones.
    fn name(&self, id: ValueId) -> String {
        let name = self.module.func.values.get(id).map_or("", |v| v.name.as_str());
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if first && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b)) {
            name.to_owned()
        } else {
            format!("${}", id.0)
        }
    }

    fn types(&self, values: &[ValueId]) -> String {
        let types: Vec<_> = values
            .iter()
            .map(|v| self.module.func.values.get(*v).map_or("none".into(), |v| ty(&v.ty)))
            .collect();
        types.join(", ")
    }

    fn weight(&self, id: WeightId) -> String {
        symbol(self.module.weights.get(id).map_or("", |w| w.name.as_str()))
    }

    fn module(&self, out: &mut String) -> std::fmt::Result {
        let m = self.module;
        let mut attrs = vec![format!("llm.arch = {}", quoted(&m.arch))];
        attrs.extend(m.target.iter().map(|t| format!("llm.target = {}", quoted(t))));
        attrs.extend(m.precision.iter().map(|p| format!("llm.precision = {}", quoted(p))));
        let dims: Vec<_> = m
            .dims
            .iter()
            .map(|(s, min, max)| format!("{s} = [{}, {}]", signed(*min), signed(*max)))
            .collect();
        attrs.push(format!("llm.dims = {{{}}}", dims.join(", ")));
        attrs.extend(m.arena.map(|a| format!("llm.arena = {}", signed(a))));
        writeln!(out, "module {} attributes {{{}}} {{", symbol(&m.name), attrs.join(", "))?;
        for (_, w) in m.weights.iter() {
            let mut attrs =
                vec![format!("sym_name = {}", quoted(&w.name)), format!("type = {}", tensor(&w.ty))];
            attrs.extend(w.packing.map(|p| format!("packing = {}", quoted(p.name()))));
            match &w.source {
                Source::Rope(freqs) => attrs.push(format!("rope = {}", quoted(&Rope(freqs).to_string()))),
                Source::Tensors(parts) => {
                    let names: Vec<_> = parts.iter().map(|p| quoted(&p.name)).collect();
                    attrs.push(format!("source = [{}]", names.join(", ")));
                    let heads: Vec<_> =
                        parts.iter().map(|p| p.interleaved_heads.unwrap_or(0).to_string()).collect();
                    if parts.iter().any(|p| p.interleaved_heads.is_some()) {
                        attrs.push(format!("interleaved_heads = [{}]", heads.join(", ")));
                    }
                }
            }
            writeln!(out, "  \"llm.weight\"() {{{}}} : () -> ()", attrs.join(", "))?;
        }
        let params: Vec<_> =
            m.func.params.iter().map(|&p| format!("{}: {}", self.value(p), self.types(&[p]))).collect();
        let results = self.types(&m.func.results);
        write!(out, "  func.func {}({})", symbol(&m.func.name), params.join(", "))?;
        if !m.func.results.is_empty() {
            write!(out, " -> ({results})")?;
        }
        out.push_str(" {\n");
        for &op in &m.func.order {
            if let Some(data) = m.func.ops.get(op) {
                self.op(out, data)?;
            }
        }
        let values: Vec<_> = m.func.results.iter().map(|&v| self.value(v)).collect();
        out.push_str("    return");
        if !values.is_empty() {
            write!(out, " {} : {results}", values.join(", "))?;
        }
        out.push_str("\n  }\n}\n");
        Ok(())
    }

    fn op(&self, out: &mut String, data: &OpData) -> std::fmt::Result {
        let parts = data.op.parts();
        match data.results.as_slice() {
            [] => out.push_str("    "),
            [one] => write!(out, "    %{} = ", self.name(*one))?,
            [first, ..] => write!(out, "    %{}:{} = ", self.name(*first), data.results.len())?,
        }
        let operands: Vec<_> = parts.operands.iter().map(|&v| self.value(v)).collect();
        write!(out, "\"llm.{}\"({})", data.op.name(), operands.join(", "))?;
        let mut attrs = Vec::new();
        if !parts.weights.is_empty() {
            let weights: Vec<_> = parts.weights.iter().map(|&w| self.weight(w)).collect();
            attrs.push(format!("weights = [{}]", weights.join(", ")));
        }
        attrs.extend(parts.attrs.iter().map(|(name, attr)| match attr {
            Attr::Int(n) => format!("{name} = {n}"),
            Attr::F32(x) => format!("{name} = {}", float(*x)),
            Attr::Word(w) => format!("{name} = {}", quoted(w)),
            Attr::Weight(w) => format!("{name} = {}", self.weight(*w)),
        }));
        if !data.kernels.is_empty() {
            let kernels = data.kernels.iter().map(|k| {
                // An attribute names no value: it gives the operand's number.
                let with = k.with.and_then(|v| parts.operands.iter().position(|&o| o == v));
                let with = with.map_or(String::new(), |i| format!(", with = {i}"));
                format!(
                    "{{from = {}, to = {}, steps = {}{with}, kernel = {}}}",
                    signed(k.from),
                    signed(k.to),
                    quoted(k.steps.name()),
                    symbol(&k.kernel)
                )
            });
            attrs.push(format!("kernels = [{}]", kernels.collect::<Vec<_>>().join(", ")));
        }
        let offset = |v: &ValueId| self.module.func.values.get(*v).and_then(|v| v.offset);
        if data.results.iter().any(|v| offset(v).is_some()) {
            // -1 stands for none.
            let at: Vec<_> = data.results.iter().map(|v| offset(v).map_or(-1, signed).to_string()).collect();
            attrs.push(format!("offsets = [{}]", at.join(", ")));
        }
        if !attrs.is_empty() {
            write!(out, " {{{}}}", attrs.join(", "))?;
        }
        write!(out, " : ({}) -> ({})", self.types(&parts.operands), self.types(&data.results))?;
        if let Some(known) = known_loc(&data.loc) {
            write!(out, " loc({})", loc(known))?;
        }
        out.push('\n');
        Ok(())
    }
}
