//! Ops as functions of the host device, with their constants.

use super::Cx;
use trtc_engine::manifest::{self as eng, Count, HostKernel};
use trtc_ir::entity::{ValueId, WeightId};
use trtc_ir::ops::Act;
use trtc_ir::{DType, Diag, Op, OpData};

impl Cx<'_> {
    /// The host function of an op, with its constants.
    pub(super) fn host_kernel(&self, data: &OpData) -> Result<HostKernel, Diag> {
        let result = |i: usize| {
            data.results
                .get(i)
                .copied()
                .ok_or_else(|| self.bug(format!("llm.{} has no result {i}", data.op.name())))
        };
        let out = result(0)?;
        let counts_rows = match &data.op {
            Op::Add(_) | Op::AddRmsNorm(_) | Op::GatedAct(_) | Op::GatedActPacked(_) | Op::GatherRows(_) => {
                true
            }
            Op::Linear(_) | Op::Quantize(_) | Op::RmsNorm(_) | Op::Sample(_) => true,
            Op::Attention(_) | Op::Embedding(_) | Op::Feed(_) | Op::GatedLinear(_) | Op::KvAppend(_) => false,
            Op::Rope(_) | Op::RopeKvAppend(_) | Op::Slice(_) => false,
        };
        if !counts_rows
            && self.module.func.values[out].ty.tensor().is_some()
            && self.rows(out)? != Count::Tokens
        {
            let message = format!("the host device has no llm.{} over rows of logits", data.op.name());
            return Err(Diag::unsupported(&data.loc, message));
        }
        Ok(match &data.op {
            Op::Embedding(op) => {
                HostKernel::Embedding { width: self.width(out)?, scale: op.scale, out: self.dtype(out)? }
            }
            Op::RmsNorm(op) => {
                let width = self.last_dim(out)?;
                HostKernel::RmsNorm {
                    width,
                    per_token: self.width(out)? / width.max(1),
                    eps: op.norm.eps,
                    offset: op.norm.offset,
                    rows: self.rows(out)?,
                    x: self.dtype(op.x)?,
                    out: self.dtype(out)?,
                }
            }
            Op::AddRmsNorm(op) => HostKernel::AddRmsNorm {
                width: self.last_dim(out)?,
                eps: op.norm.eps,
                offset: op.norm.offset,
                rows: self.rows(out)?,
                x: self.dtype(op.x)?,
                residual: self.dtype(op.residual)?,
                h: self.dtype(out)?,
                out: self.dtype(result(1)?)?,
            },
            Op::Linear(op) => HostKernel::Linear {
                n: self.width(out)?,
                k: self.width(op.x)?,
                rows: self.rows(out)?,
                bias: op.bias.is_some(),
                residual: op.residual.map(|r| self.dtype(r)).transpose()?,
                x: self.dtype(op.x)?,
                out: self.dtype(out)?,
            },
            Op::Slice(op) => HostKernel::Slice {
                of: self.width(op.x)?,
                start: self.count(op.start)?,
                width: self.width(out)?,
                x: self.dtype(out)?,
            },
            Op::Add(op) => HostKernel::Add {
                width: self.width(out)?,
                rows: self.rows(out)?,
                lhs: self.dtype(op.lhs)?,
                rhs: self.dtype(op.rhs)?,
                out: self.dtype(out)?,
            },
            Op::Rope(op) => {
                let head_dim = self.last_dim(op.x)?;
                HostKernel::Rope {
                    heads: self.width(op.x)? / head_dim.max(1),
                    head_dim,
                    dim: self.rope_dim(op.freqs)?,
                    x: self.dtype(op.x)?,
                    out: self.dtype(out)?,
                }
            }
            Op::KvAppend(op) => HostKernel::KvAppend { x: self.dtype(op.k)? },
            Op::RopeKvAppend(op) => HostKernel::RopeKvAppend {
                heads: op.heads,
                dim: self.rope_dim(op.freqs)?,
                q_norm: op.q_norm.as_ref().map(|n| (n.eps, n.offset)),
                k_norm: op.k_norm.as_ref().map(|n| (n.eps, n.offset)),
                x: self.dtype(op.qkv)?,
                out: self.dtype(out)?,
            },
            Op::Attention(op) => {
                let rounded = |dtype: DType| match dtype {
                    DType::F8E4M3 => Ok(eng::Dtype::F8E4M3),
                    other => {
                        let what = format!("the host device's attention multiplies no {other}");
                        Err(Diag::unsupported(&data.loc, what))
                    }
                };
                let kv = self.module.func.values[op.kv].ty.kv();
                let head_dim = kv.ok_or_else(|| self.bug("attention without a cache"))?.head_dim;
                HostKernel::Attention {
                    heads: self.width(op.q)? / head_dim.max(1),
                    scale: op.scale,
                    softcap: op.softcap,
                    products: op.products.map(rounded).transpose()?,
                    x: self.dtype(op.q)?,
                    out: self.dtype(out)?,
                }
            }
            Op::GatedAct(op) => self.gated_act(op.act, false, op.gate, out)?,
            Op::GatedActPacked(op) => self.gated_act(op.act, true, op.x, out)?,
            Op::GatedLinear(_) => {
                let what = "the host device has no llm.gated_linear";
                return Err(Diag::unsupported(&data.loc, what).help("leave out the pass fuse-gated-linear"));
            }
            Op::Feed(op) => HostKernel::Feed { last: self.last_dim(op.last)? },
            Op::Sample(op) => HostKernel::Sample { vocab: self.width(op.logits)? },
            Op::Quantize(op) => {
                HostKernel::Quantize { width: self.width(out)?, rows: self.rows(out)?, x: self.dtype(op.x)? }
            }
            Op::GatherRows(_) => HostKernel::GatherRows { width: self.width(out)?, x: self.dtype(out)? },
        })
    }

    fn gated_act(&self, function: Act, packed: bool, x: ValueId, out: ValueId) -> Result<HostKernel, Diag> {
        let act = match function {
            Act::Silu => eng::Act::Silu,
            Act::GeluTanh => eng::Act::GeluTanh,
        };
        Ok(HostKernel::GatedAct {
            width: self.width(out)?,
            act,
            packed,
            rows: self.rows(out)?,
            x: self.dtype(x)?,
            out: self.dtype(out)?,
        })
    }

    /// Rotated elements of a head: twice the table's length.
    fn rope_dim(&self, freqs: WeightId) -> Result<u32, Diag> {
        match self.module.weights[freqs].ty.shape().as_deref() {
            Some([half]) => self.count(2 * half),
            _ => Err(self.bug("a table of rotary frequencies must have one dimension")),
        }
    }
}
