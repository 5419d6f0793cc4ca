//! Takes [`Parts`] apart in the order of the text form; what is missing or left over becomes one sentence.

use super::{Attr, Parts, RmsNormWeight};
use crate::dtype::DType;
use crate::entity::{ValueId, WeightId};

/// What is still to be read of an op's parts.
pub(super) struct Reader {
    name: &'static str,
    operands: std::vec::IntoIter<ValueId>,
    weights: std::vec::IntoIter<WeightId>,
    attrs: Vec<(&'static str, Attr)>,
}

impl Reader {
    pub(super) fn new(name: &'static str, parts: Parts) -> Reader {
        Reader {
            name,
            operands: parts.operands.into_iter(),
            weights: parts.weights.into_iter(),
            attrs: parts.attrs,
        }
    }

    /// The next value; `what` names it for the error.
    pub(super) fn operand(&mut self, what: &str) -> Result<ValueId, String> {
        self.operands.next().ok_or_else(|| format!("llm.{} needs a value for {what}", self.name))
    }

    /// The next value, if there is one.
    pub(super) fn optional_operand(&mut self) -> Option<ValueId> {
        self.operands.next()
    }

    /// The next weight; `what` names it for the error.
    pub(super) fn weight(&mut self, what: &str) -> Result<WeightId, String> {
        self.weights.next().ok_or_else(|| format!("llm.{} needs a weight for {what}", self.name))
    }

    fn take(&mut self, attr: &str) -> Option<Attr> {
        let at = self.attrs.iter().position(|(n, _)| *n == attr)?;
        Some(self.attrs.remove(at).1)
    }

    fn missing(&self, attr: &str) -> String {
        format!("llm.{} needs the attribute '{attr}'", self.name)
    }

    fn wrong(&self, attr: &str, wanted: &str, found: &Attr) -> String {
        let found = match found {
            Attr::Int(n) => format!("the integer {n}"),
            Attr::F32(x) => format!("the number {x}"),
            Attr::Word(w) => format!("the word '{w}'"),
            Attr::Weight(_) => "a weight".to_owned(),
        };
        format!("attribute '{attr}' of llm.{} must be {wanted}, found {found}", self.name)
    }

    pub(super) fn optional_f32(&mut self, attr: &str) -> Result<Option<f32>, String> {
        match self.take(attr) {
            None => Ok(None),
            Some(Attr::F32(x)) => Ok(Some(x)),
            Some(Attr::Int(n)) => Ok(Some(n as f32)),
            Some(other) => Err(self.wrong(attr, "a number", &other)),
        }
    }

    pub(super) fn f32(&mut self, attr: &str) -> Result<f32, String> {
        self.optional_f32(attr)?.ok_or_else(|| self.missing(attr))
    }

    /// An integer that `T` can hold.
    pub(super) fn int<T: TryFrom<i64>>(&mut self, attr: &str) -> Result<T, String> {
        match self.take(attr) {
            None => Err(self.missing(attr)),
            Some(found) => match found {
                Attr::Int(n) => T::try_from(n).map_err(|_| self.wrong(attr, "in range", &found)),
                _ => Err(self.wrong(attr, "an integer", &found)),
            },
        }
    }

    pub(super) fn word(&mut self, attr: &str) -> Result<String, String> {
        match self.take(attr) {
            None => Err(self.missing(attr)),
            Some(Attr::Word(w)) => Ok(w),
            Some(other) => Err(self.wrong(attr, "a word", &other)),
        }
    }

    /// An element type by its name in the text form.
    pub(super) fn optional_dtype(&mut self, attr: &str) -> Result<Option<DType>, String> {
        let wanted = "an element type";
        match self.take(attr) {
            None => Ok(None),
            Some(Attr::Word(name)) => match DType::parse(&name) {
                Some(dtype) => Ok(Some(dtype)),
                None => Err(self.wrong(attr, wanted, &Attr::Word(name))),
            },
            Some(other) => Err(self.wrong(attr, wanted, &other)),
        }
    }

    pub(super) fn optional_weight_attr(&mut self, attr: &str) -> Result<Option<WeightId>, String> {
        match self.take(attr) {
            None => Ok(None),
            Some(Attr::Weight(w)) => Ok(Some(w)),
            Some(other) => Err(self.wrong(attr, "a weight", &other)),
        }
    }

    /// A norm whose weight is the next one, with attributes `eps` and `offset`.
    pub(super) fn norm(&mut self) -> Result<RmsNormWeight, String> {
        let weight = self.weight("the norm")?;
        Ok(RmsNormWeight {
            weight,
            eps: self.f32("eps")?,
            offset: self.optional_f32("offset")?.unwrap_or(0.0),
        })
    }

    /// A norm that is all attributes: the names of its weight, epsilon and offset.
    pub(super) fn optional_norm(
        &mut self,
        [w, eps, offset]: [&str; 3],
    ) -> Result<Option<RmsNormWeight>, String> {
        let Some(weight) = self.optional_weight_attr(w)? else {
            return Ok(None);
        };
        Ok(Some(RmsNormWeight {
            weight,
            eps: self.f32(eps)?,
            offset: self.optional_f32(offset)?.unwrap_or(0.0),
        }))
    }

    /// An error if anything was not read.
    pub(super) fn finish(self) -> Result<(), String> {
        let name = self.name;
        if self.operands.len() > 0 {
            return Err(format!("llm.{name} has {} value(s) too many", self.operands.len()));
        }
        if self.weights.len() > 0 {
            return Err(format!("llm.{name} has {} weight(s) too many", self.weights.len()));
        }
        match self.attrs.first() {
            Some((attr, _)) => Err(format!("attribute '{attr}' of llm.{name} has no meaning here")),
            None => Ok(()),
        }
    }
}

/// `offset` is left out where it is 0, as most models have it.
pub(super) fn push_offset(attrs: &mut Vec<(&'static str, Attr)>, name: &'static str, offset: f32) {
    if offset.to_bits() != 0 {
        attrs.push((name, Attr::F32(offset)));
    }
}
