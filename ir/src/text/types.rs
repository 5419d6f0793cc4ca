//! Parses types: `tensor<...>`, `!llm.kv<...>`, `!llm.batch`, `!quant<...>`.

use super::lexer::{Tok, clip};
use super::parser::{Failed, Parser};
use crate::dtype::DType;
use crate::quant::{Grain, Scheme};
use crate::types::{Dim, Elem, KvType, Sym, TensorType, Type};

/// Most dimensions of a tensor.
const MAX_DIMS: usize = 16;

impl Parser<'_> {
    /// Any type.
    pub(super) fn ty(&mut self) -> Result<Type, Failed> {
        match self.peek() {
            Tok::Word("tensor") => Ok(Type::Tensor(self.tensor()?)),
            Tok::Word("!llm.kv") => Ok(Type::Kv(self.kv()?)),
            Tok::Word("!llm.batch") => {
                self.bump();
                Ok(Type::Batch)
            }
            _ => self.expected("a type: tensor<...>, !llm.kv<...> or !llm.batch"),
        }
    }

    /// `tensor<Tx4096xbf16>`.
    pub(super) fn tensor(&mut self) -> Result<TensorType, Failed> {
        self.word("tensor")?;
        self.punct('<')?;
        let mut dims = Vec::new();
        let mut elem = None;
        if !matches!(self.peek(), Tok::Word("!quant")) {
            let shape = self.any_word("dimensions and an element type")?;
            let mut parts = shape.split('x').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_some() {
                    if dims.len() == MAX_DIMS {
                        return self.fail_taken(format!("a tensor has at most {MAX_DIMS} dimensions"));
                    }
                    dims.push(self.dim(part)?);
                } else if !part.is_empty() {
                    elem = Some(Elem::Plain(self.dtype(part)?));
                }
            }
        }
        let elem = match elem {
            Some(e) => e,
            None => Elem::Quant(self.scheme()?),
        };
        self.punct('>')?;
        Ok(TensorType { dims, elem })
    }

    fn dim(&mut self, text: &str) -> Result<Dim, Failed> {
        match text.as_bytes() {
            [c] if c.is_ascii_uppercase() => Ok(Dim::Sym(Sym(*c))),
            digits if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => match text.parse() {
                Ok(n) => Ok(Dim::Const(n)),
                Err(_) => self.fail_taken(format!("the dimension {} is too large", clip(text))),
            },
            _ => self
                .fail_taken(format!("'{}' is not a dimension: a number, or one capital letter", clip(text))),
        }
    }

    fn dtype(&mut self, text: &str) -> Result<DType, Failed> {
        match DType::parse(text) {
            Some(d) => Ok(d),
            None => {
                let known: Vec<_> = DType::all().map(DType::name).collect();
                self.fail_taken(format!(
                    "there is no element type '{}'; there are {}",
                    clip(text),
                    known.join(", ")
                ))
            }
        }
    }

    /// `!quant<i4:bf16, group 128, zero>`.
    fn scheme(&mut self) -> Result<Scheme, Failed> {
        self.word("!quant")?;
        self.punct('<')?;
        let payload = self.any_word("the payload's element type")?;
        let payload = self.dtype(payload)?;
        self.punct(':')?;
        let scale = self.any_word("the scales' element type")?;
        let scale = self.dtype(scale)?;
        self.punct(',')?;
        let grain = match self.any_word("tensor, channel, token, group or block")? {
            "tensor" => Grain::Tensor,
            "channel" => Grain::Channel,
            "token" => Grain::Token,
            "group" => Grain::Group(self.u32("the group's size")?),
            "block" => Grain::Block(self.u32("the block's rows")?, self.u32("the block's columns")?),
            other => {
                return self.fail_taken(format!(
                    "'{}' is not one of tensor, channel, token, group, block",
                    clip(other)
                ));
            }
        };
        let zero = self.eat(',');
        if zero {
            self.word("zero")?;
        }
        self.punct('>')?;
        Ok(Scheme { payload, scale, grain, zero })
    }

    /// `!llm.kv<layer 0, 8 heads, 128, bf16, window 512, page 32>`.
    fn kv(&mut self) -> Result<KvType, Failed> {
        self.word("!llm.kv")?;
        self.punct('<')?;
        self.word("layer")?;
        let layer = self.u32("the layer")?;
        self.punct(',')?;
        let heads = self.u32("the number of heads")?;
        self.word("heads")?;
        self.punct(',')?;
        let head_dim = self.u32("the elements of a head")?;
        self.punct(',')?;
        let dtype = self.any_word("the element type")?;
        let dtype = self.dtype(dtype)?;
        let (mut window, mut page) = (None, None);
        while self.eat(',') {
            match self.any_word("window or page")? {
                "window" if window.is_none() => window = Some(self.u32("the window")?),
                "page" if page.is_none() => page = Some(self.u32("the page")?),
                other => {
                    return self.fail_taken(format!(
                        "'{}' is not one of window, page, each at most once",
                        clip(other)
                    ));
                }
            }
        }
        self.punct('>')?;
        Ok(KvType { layer, heads, head_dim, dtype, window, page })
    }
}
