//! Ops as launches: an op is one, or two where the kernel of a chain serves some steps, for that takes other arguments.

use super::{Cx, ptx};
use crate::gpu::GpuCode;
use std::collections::BTreeMap;
use trtc_codegen::emit;
use trtc_engine::manifest::{self as eng, Arg, Choice, Code, Launch};
use trtc_ir::text::{PrintOptions, print};
use trtc_ir::{Diag, KernelChoice, Loc, OpData, OpId, Steps, Target, extract};

/// The kernels so far.
#[derive(Default)]
struct Kernels<'a> {
    all: Vec<eng::Kernel>,
    by_name: BTreeMap<&'a str, u32>,
}

impl Cx<'_> {
    /// Every kernel once, and the launches of a step in order.
    pub(super) fn launches(
        &self,
        target: &Target,
        compiled: &GpuCode,
    ) -> Result<(Vec<eng::Kernel>, Vec<Launch>), Diag> {
        let func = &self.module.func;
        let number = |id: OpId| func.order.iter().position(|&o| o == id).unwrap_or(func.order.len());
        let mut kernels = Kernels::default();
        let mut launches = Vec::new();
        for &id in &func.order {
            let data = &func.ops[id];
            let before = launches.len();
            // The op by itself, or the chain that it ends.
            let mut starts: Vec<Option<OpId>> = Vec::new();
            for start in data.kernels.iter().map(|k| func.chained(k)) {
                if !starts.contains(&start) {
                    starts.push(start);
                }
            }
            for start in starts {
                let ids: Vec<OpId> = start.into_iter().chain([id]).collect();
                let ops: Vec<&OpData> = ids.iter().map(|&id| &func.ops[id]).collect();
                let (args, first) = self.args(&ops)?;
                let mut choices = Vec::new();
                for choice in data.kernels.iter().filter(|k| func.chained(k) == start) {
                    let code = match target.gpu {
                        None => Code::Host(self.host_kernel(data)?),
                        Some(_) => Code::Ptx(ptx::ptx_kernel(compiled, &choice.kernel, &first, &data.loc)?),
                    };
                    let kernel = self.kernel(&mut kernels, choice, code, &ids)?;
                    choices.push(self.choice(choice, kernel)?);
                }
                let ops = ids.iter().map(|&id| self.count(number(id) as u64)).collect::<Result<_, _>>()?;
                let loc = Loc::fuse(ids.iter().map(|&id| &func.ops[id].loc)).to_string();
                launches.push(Launch { ops, choices, args, loc });
            }
            if launches.len() == before && func.chains().all(|(op, _)| op != id) {
                let message = format!("no kernel was selected for llm.{}", data.op.name());
                return Err(Diag::bug(&data.loc, message));
            }
        }
        Ok((kernels.all, launches))
    }

    /// The number of a choice's kernel, which computes the ops `ids`.
    fn kernel<'a>(
        &self,
        kernels: &mut Kernels<'a>,
        choice: &'a KernelChoice,
        code: Code,
        ids: &[OpId],
    ) -> Result<u32, Diag> {
        if let Some(&index) = kernels.by_name.get(choice.kernel.as_str()) {
            if kernels.all[index as usize].code != code {
                return Err(self.bug(format!("two different kernels are called '{}'", choice.kernel)));
            }
            return Ok(index);
        }
        let contract = print(&extract::extract(self.module, ids), PrintOptions::default());
        let index = kernels.all.len() as u32;
        kernels.all.push(eng::Kernel { name: choice.kernel.clone(), code, contract });
        kernels.by_name.insert(&choice.kernel, index);
        Ok(index)
    }

    fn choice(&self, choice: &KernelChoice, kernel: u32) -> Result<Choice, Diag> {
        let steps = match choice.steps {
            Steps::Any => eng::Steps::Any,
            Steps::Decode => eng::Steps::Decode,
            Steps::Prefill => eng::Steps::Prefill,
            Steps::Single => eng::Steps::Single,
        };
        Ok(Choice { from: self.count(choice.from)?, to: self.count(choice.to)?, steps, kernel })
    }

    /// The arguments of the kernel of an op or a chain, in codegen's order, and where each of codegen's begins.
    fn args(&self, ops: &[&OpData]) -> Result<(Vec<Arg>, Vec<u32>), Diag> {
        let (mut args, mut first) = (Vec::new(), Vec::new());
        for arg in emit::arguments(ops) {
            first.push(args.len() as u32);
            match arg {
                emit::Arg::Weight(w) => args.push(Arg::Weight(w.0)),
                emit::Arg::Value(v) => {
                    args.push(self.arg(v)?);
                    let ty = self.module.func.values[v].ty.tensor();
                    if ty.is_some_and(|t| t.elem.plain().is_none()) {
                        args.push(Arg::Arena(self.scales(v)?));
                    }
                }
            }
        }
        Ok((args, first))
    }
}
