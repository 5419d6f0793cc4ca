//! Parses one op's statement: names, operands, attributes, types, kernels, offsets, location.

use super::lexer::{Tok, clip};
use super::parser::{Failed, Parser, integer};
use crate::diag::Diag;
use crate::loc::Loc;
use crate::module::{Def, KernelChoice, OpData, Steps};
use crate::ops::{Attr, Op, Parts};

impl Parser<'_> {
    /// `%a, %b = llm.name %x, @w {attr = 1} : type, type kernel(...) at(...) loc(...)`
    pub(super) fn op(&mut self) -> Result<(), Failed> {
        let mut loc = self.here();
        let mut names = Vec::new();
        if matches!(self.peek(), Tok::Value(_)) {
            loop {
                names.push(self.new_name()?.1);
                if !self.eat(',') {
                    break;
                }
            }
            self.punct('=')?;
        }
        let at = self.here();
        let word = self.any_word("an op's name")?;
        let name = word.strip_prefix("llm.").unwrap_or_default();
        let Some(allowed) = Op::attrs_of(name) else {
            let known: Vec<_> = Op::NAMES.iter().map(|n| format!("llm.{n}")).collect();
            let help = format!("the ops are {}", known.join(", "));
            self.diags.push(Diag::user(&at, format!("there is no op '{}'", clip(word))).help(help));
            return Err(Failed);
        };
        let parts = self.parts(name, allowed)?;
        let mut types = Vec::new();
        if self.eat(':') {
            loop {
                types.push(self.ty()?);
                if !self.eat(',') {
                    break;
                }
            }
        }
        let (mut kernels, mut offsets, mut seen) = (Vec::new(), None, Vec::new());
        while let Tok::Word(part @ ("kernel" | "at" | "loc")) = *self.peek() {
            if seen.contains(&part) {
                return self.fail(format!("'{part}' is given twice"));
            }
            seen.push(part);
            self.bump();
            match part {
                "kernel" => kernels = self.kernels()?,
                "at" => offsets = Some(self.offsets()?),
                _ => loc = self.loc()?,
            }
        }
        let offsets = offsets.unwrap_or_else(|| vec![None; names.len()]);
        if types.len() != names.len() || offsets.len() != names.len() {
            let counts =
                format!("{} names, {} types and {} offsets", names.len(), types.len(), offsets.len());
            return self.fail_at(&at, format!("llm.{name} has {counts} for its results"));
        }
        let op = match Op::from_parts(name, parts) {
            Some(Ok(op)) => op,
            Some(Err(message)) => return self.fail_at(&at, message),
            None => return Err(Failed),
        };
        let id = self.module.func.ops.push(OpData { op, results: Vec::new(), loc, kernels });
        self.module.func.order.push(id);
        let all = names.into_iter().zip(types).zip(offsets).enumerate();
        let results =
            all.map(|(i, ((name, ty), offset))| self.define(name, ty, Def::Op(id, i as u32), offset));
        self.module.func.ops[id].results = results.collect();
        Ok(())
    }

    /// Operands, weights and attributes of an op.
    fn parts(&mut self, op: &str, allowed: &'static [&'static str]) -> Result<Parts, Failed> {
        let mut parts = Parts::default();
        if matches!(self.peek(), Tok::Value(_) | Tok::Symbol(_)) {
            loop {
                match self.peek() {
                    Tok::Value(_) => parts.operands.push(self.used()?),
                    Tok::Symbol(_) => parts.weights.push(self.used_weight()?),
                    _ => return self.expected("a value or a weight"),
                }
                if !self.eat(',') {
                    break;
                }
            }
        }
        if self.eat('{') {
            self.items('}', |p| {
                let at = p.here();
                let key = p.any_word("an attribute's name")?;
                let Some(&name) = allowed.iter().find(|a| **a == key) else {
                    let known = if allowed.is_empty() { "none".into() } else { allowed.join(", ") };
                    let message = format!("llm.{op} has no attribute '{}'; it has {known}", clip(key));
                    return p.fail_at(&at, message);
                };
                if parts.attrs.iter().any(|(n, _)| *n == name) {
                    return p.fail_at(&at, format!("the attribute '{name}' is given twice"));
                }
                p.punct('=')?;
                let value = p.attr()?;
                parts.attrs.push((name, value));
                Ok(())
            })?;
        }
        Ok(parts)
    }

    fn attr(&mut self) -> Result<Attr, Failed> {
        match self.peek() {
            Tok::Symbol(_) => Ok(Attr::Weight(self.used_weight()?)),
            Tok::Word(_) => {
                let word = self.any_word("a value")?;
                let (sign, digits) = word.strip_prefix('-').map_or(("", word), |rest| ("-", rest));
                if let Some(n) = integer(digits).and_then(|n| format!("{sign}{n}").parse().ok()) {
                    return Ok(Attr::Int(n));
                }
                // The words `nan` and `inf` in any case are numbers to Rust, and no attribute's words.
                Ok(word.parse().map_or_else(|_| Attr::Word(word.to_owned()), Attr::F32))
            }
            _ => self.expected("an attribute's value"),
        }
    }

    /// `("1..16" = @k1, "17..64" decode with %q = @k2, ...)`
    fn kernels(&mut self) -> Result<Vec<KernelChoice>, Failed> {
        let mut out = Vec::new();
        self.punct('(')?;
        self.items(')', |p| {
            let at = p.here();
            let range = p.string("token counts such as \"1..16\"")?;
            let Some((from, to)) = range.split_once("..").and_then(|(a, b)| Some((integer(a)?, integer(b)?)))
            else {
                return p.fail_at(&at, format!("{:?} is not a range such as \"1..16\"", clip(&range)));
            };
            let steps = match *p.peek() {
                Tok::Word(word) if word != "with" => {
                    let Some(steps) = Steps::parse(word) else {
                        let message =
                            format!("'{}' is no kind of steps: any, decode, prefill or single", clip(word));
                        return p.fail(message);
                    };
                    p.bump();
                    steps
                }
                _ => Steps::Any,
            };
            let mut with = None;
            if *p.peek() == Tok::Word("with") {
                p.bump();
                with = Some(p.used()?);
            }
            p.punct('=')?;
            let kernel = p.symbol("the kernel's @name")?;
            out.push(KernelChoice { from, to, steps, with, kernel });
            Ok(())
        })?;
        Ok(out)
    }

    /// `(0x100, _)`
    pub(super) fn offsets(&mut self) -> Result<Vec<Option<u64>>, Failed> {
        let mut out = Vec::new();
        self.punct('(')?;
        self.items(')', |p| {
            if *p.peek() == Tok::Word("_") {
                p.bump();
                out.push(None);
            } else {
                out.push(Some(p.u64("an offset")?));
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// `("name")`, `("path":1:2)`, `(fused["a", "b"])`, `(unknown)`
    fn loc(&mut self) -> Result<Loc, Failed> {
        self.punct('(')?;
        let loc = match *self.peek() {
            Tok::Word("unknown") => {
                self.bump();
                Loc::Unknown
            }
            Tok::Word("fused") => {
                self.bump();
                self.punct('[')?;
                let mut parts = Vec::new();
                self.items(']', |p| {
                    parts.push(p.single_loc()?);
                    Ok(())
                })?;
                Loc::Fused(parts)
            }
            _ => self.single_loc()?,
        };
        self.punct(')')?;
        Ok(loc)
    }

    fn single_loc(&mut self) -> Result<Loc, Failed> {
        let text = self.string("a location: \"name\", \"path\":1:2, fused[...] or unknown")?;
        if !self.eat(':') {
            return Ok(Loc::Name(text));
        }
        let line = self.u32("the line")?;
        self.punct(':')?;
        Ok(Loc::File { path: text, line, col: self.u32("the column")? })
    }
}
