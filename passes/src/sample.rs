//! `sample`: on targets that sample on the device, tokens are chosen at the end of the step and read at its start.
//!
//! ```text
//! logits = forward(tokens)   ->   logits = forward(feed(tokens, previous)); token, logprob = sample(logits, draws, masks)
//! ```
//! The step returns the logits as before, and the tokens and their log-probabilities besides. `%previous` is what the step
//! before returned as tokens: with it a step can be started before the host has seen them. Not here: how a row is
//! sampled (the runtime fills `%draws` and `%masks`), and the host target, where logits are at hand anyway.

use crate::{Changed, Pass, PassCx};
use trtc_ir::ops::sample::{DRAW, WORD};
use trtc_ir::ops::{Feed, Sample};
use trtc_ir::types::Sym;
use trtc_ir::{DType, Diag, Loc, Module, TensorType};

/// The pass.
pub const PASS: Pass = Pass {
    name: "sample",
    summary: "chooses tokens at the end of the step, where the target does that on the device",
    requires: &[],
    ensures: &[],
    run,
};

/// Parameter that holds the tokens which the step before has returned.
pub const LAST: &str = "previous";

fn run(module: &mut Module, cx: &PassCx<'_>) -> Result<Changed, Diag> {
    let &[logits] = module.func.results.as_slice() else {
        return Ok(false.into());
    };
    let tokens = module.func.params.iter().copied().find(|&p| module.func.values[p].name == "tokens");
    let (Some(_), Some(tokens)) = (&cx.target.gpu, tokens) else {
        return Ok(false.into());
    };
    let rows = module.max_dim(Sym::L).ok_or_else(|| {
        Diag::bug(&Loc::name(&module.name), "the module has no bound on the rows of logits, L")
    })?;
    let vocab = module.func.values[logits].ty.tensor().and_then(TensorType::width);
    let vocab = vocab.ok_or_else(|| Diag::bug(&Loc::name(&module.name), "the logits have no known width"))?;
    let func = &mut module.func;
    let last = func.add_param(LAST, TensorType::fixed(&[rows], DType::I32));
    let draws = func.add_param("draws", TensorType::rows(Sym::L, &[DRAW], DType::F32));
    let masks = func.add_param("masks", TensorType::rows(Sym::L, &[vocab.div_ceil(WORD)], DType::I32));
    let ids = TensorType::rows(Sym::T, &[], DType::I32);
    let feed = func.new_op(Feed { tokens, last }.into(), &[("ids", ids.into())], Loc::name("feed"));
    func.replace_uses(tokens, func.ops[feed].results[0]);
    func.order.insert(0, feed);
    let token = TensorType::rows(Sym::L, &[], DType::I32);
    let logprob = TensorType::rows(Sym::L, &[], DType::F32);
    let results = [("token", token.into()), ("logprob", logprob.into())];
    let made = func.append(Sample { logits, draws, masks }.into(), &results, Loc::name("sample"));
    func.results.extend(made);
    Ok(true.into())
}
