//! Prints the text form. Total: a broken module prints too, with `?` where something is missing.

use super::{is_bare, shortest};
use crate::entity::{ValueId, WeightId};
use crate::loc::Loc;
use crate::module::{Module, OpData, RopeFreqs, RopeScaling, Source, Steps, Weight};
use crate::ops::Attr;
use std::fmt::{self, Display, Write};

/// What to print besides the module itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrintOptions {
    /// Print the location of every op.
    pub locs: bool,
}

/// The text form of a module, ending in a newline.
pub fn print(module: &Module, options: PrintOptions) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = Printer { module, options }.module(&mut out);
    out
}

/// A name, quoted where it has to be.
struct Name<'a>(&'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_bare(self.0) { f.write_str(self.0) } else { write!(f, "{:?}", self.0) }
    }
}

/// Writes items with commas between them.
fn list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut String, T) -> fmt::Result,
) -> fmt::Result {
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        each(out, item)?;
    }
    Ok(())
}

struct Printer<'a> {
    module: &'a Module,
    options: PrintOptions,
}

impl Printer<'_> {
    fn value(&self, id: ValueId) -> Name<'_> {
        Name(self.module.func.values.get(id).map_or("?", |v| v.name.as_str()))
    }

    fn weight_name(&self, id: WeightId) -> Name<'_> {
        Name(self.module.weights.get(id).map_or("?", |w| w.name.as_str()))
    }

    fn module(&self, out: &mut String) -> fmt::Result {
        let m = self.module;
        write!(out, "llm.module @{}", Name(&m.name))?;
        if !m.arch.is_empty() {
            write!(out, " arch({:?})", m.arch)?;
        }
        if let Some(target) = &m.target {
            write!(out, " target({target:?})")?;
        }
        if let Some(precision) = &m.precision {
            write!(out, " precision({precision:?})")?;
        }
        if m.deterministic {
            out.push_str(" deterministic");
        }
        if !m.dims.is_empty() {
            out.push_str(" dims(");
            list(out, &m.dims, |out, (sym, min, max)| write!(out, "{sym} in {min}..{max}"))?;
            out.push(')');
        }
        if let Some(arena) = m.arena {
            write!(out, " arena({arena})")?;
        }
        out.push_str(" {\n");
        for (_, weight) in m.weights.iter() {
            self.weight(out, weight)?;
        }
        write!(out, "  llm.func @{}(", Name(&m.func.name))?;
        list(out, &m.func.params, |out, &param| {
            write!(out, "%{}", self.value(param))?;
            let Some(value) = m.func.values.get(param) else {
                return Ok(());
            };
            write!(out, ": {}", value.ty)?;
            self.offsets(out, &[param])
        })?;
        out.push_str(") {\n");
        for &op in &m.func.order {
            match m.func.ops.get(op) {
                Some(data) => self.op(out, data)?,
                None => out.push_str("    ?\n"),
            }
        }
        out.push_str("    llm.return");
        if !m.func.results.is_empty() {
            out.push(' ');
        }
        list(out, &m.func.results, |out, &v| write!(out, "%{}", self.value(v)))?;
        out.push_str("\n  }\n}\n");
        Ok(())
    }

    fn weight(&self, out: &mut String, w: &Weight) -> fmt::Result {
        write!(out, "  llm.weight @{} : {}", Name(&w.name), w.ty)?;
        if let Some(packing) = w.packing {
            write!(out, " packed({})", packing.name())?;
        }
        match &w.source {
            Source::Rope(freqs) => write!(out, " from {}", Rope(freqs))?,
            Source::Tensors(parts) => {
                out.push_str(" from [");
                list(out, parts, |out, part| {
                    write!(out, "{:?}", part.name)?;
                    match part.interleaved_heads {
                        Some(heads) => write!(out, " interleaved {heads}"),
                        None => Ok(()),
                    }
                })?;
                out.push(']');
            }
        }
        out.push('\n');
        Ok(())
    }

    fn op(&self, out: &mut String, data: &OpData) -> fmt::Result {
        out.push_str("    ");
        list(out, &data.results, |out, &v| write!(out, "%{}", self.value(v)))?;
        if !data.results.is_empty() {
            out.push_str(" = ");
        }
        write!(out, "llm.{}", data.op.name())?;
        let parts = data.op.parts();
        let operands = parts.operands.iter().map(|&v| format!("%{}", self.value(v)));
        let weights = parts.weights.iter().map(|&w| format!("@{}", self.weight_name(w)));
        for (i, arg) in operands.chain(weights).enumerate() {
            write!(out, "{} {arg}", if i > 0 { "," } else { "" })?;
        }
        if !parts.attrs.is_empty() {
            out.push_str(" {");
            list(out, &parts.attrs, |out, (name, attr)| match attr {
                Attr::Int(n) => write!(out, "{name} = {n}"),
                // Debug is the shortest form that reads back, and always has a point or an exponent.
                Attr::F32(x) => write!(out, "{name} = {x:?}"),
                Attr::Word(w) => write!(out, "{name} = {w}"),
                Attr::Weight(w) => write!(out, "{name} = @{}", self.weight_name(*w)),
            })?;
            out.push('}');
        }
        if !data.results.is_empty() {
            out.push_str(" : ");
        }
        list(out, &data.results, |out, &v| match self.module.func.values.get(v) {
            Some(value) => write!(out, "{}", value.ty),
            None => write!(out, "?"),
        })?;
        if !data.kernels.is_empty() {
            out.push_str(" kernel(");
            list(out, &data.kernels, |out, k| {
                write!(out, "\"{}..{}\"", k.from, k.to)?;
                if k.steps != Steps::Any {
                    write!(out, " {}", k.steps.name())?;
                }
                if let Some(value) = k.with {
                    write!(out, " with %{}", self.value(value))?;
                }
                write!(out, " = @{}", Name(&k.kernel))
            })?;
            out.push(')');
        }
        self.offsets(out, &data.results)?;
        if self.options.locs {
            write!(out, " loc({})", data.loc)?;
        }
        out.push('\n');
        Ok(())
    }

    /// ` at(0x100, _)`, nothing if no value has an offset.
    fn offsets(&self, out: &mut String, values: &[ValueId]) -> fmt::Result {
        let offset = |v: &ValueId| self.module.func.values.get(*v).and_then(|v| v.offset);
        if !values.iter().any(|v| offset(v).is_some()) {
            return Ok(());
        }
        out.push_str(" at(");
        list(out, values, |out, v| match offset(v) {
            Some(at) => write!(out, "{at:#x}"),
            None => write!(out, "_"),
        })?;
        out.push(')');
        Ok(())
    }
}

/// `rope<64, 10000, llama3 8 1 4 8192>`.
pub(super) struct Rope<'a>(pub(super) &'a RopeFreqs);

impl Display for Rope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rope<{}, {}", self.0.dim, shortest(self.0.theta))?;
        match self.0.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => write!(f, ", linear {}", shortest(factor))?,
            RopeScaling::Llama3 { factor, low, high, original } => {
                f.write_str(", llama3")?;
                for x in [factor, low, high, original] {
                    write!(f, " {}", shortest(x))?;
                }
            }
        }
        f.write_str(">")
    }
}

/// What `loc(...)` holds; for the generic form, which has locations of the same spelling.
pub(super) fn known_loc(loc: &Loc) -> Option<&Loc> {
    if *loc == Loc::Unknown { None } else { Some(loc) }
}
