//! Weights for tests: small random values that depend on nothing but a seed and the checkpoint tensors' names.
//!
//! The generator is fixed here, so a test's values are the same on every machine and with every version of a library.

use crate::dtype::DType;
use crate::entity::WeightId;
use crate::interp::{Tensor, Weights};
use crate::module::{Module, Source, TensorRef, Weight};
use crate::numerics::round;
use crate::quant::{dequantize, quantize};
use crate::types::Elem;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A small random generator (SplitMix64) with a defined sequence.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The sequence of a seed and a name.
    pub fn named(seed: u64, name: &str) -> Random {
        // FNV-1a, then one step to spread it.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Random(Random(seed ^ hash).next())
    }

    /// The next 64 random bits.
    #[expect(clippy::should_implement_trait, reason = "an endless sequence needs no Option")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in -1..1, a multiple of 2^-23.
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Random weights. Each checkpoint tensor has values of its own that follow from its name, so a weight that a pass
/// stacked from several tensors holds the rows of those it was made from, if [`RandomWeights::learn`] saw them.
///
/// Matrix elements are uniform with variance `1 / columns`, vector elements uniform in -1..1; rotary tables are
/// computed. Values are rounded to the weight's type; those of quantised types are quantised and dequantised.
pub struct RandomWeights {
    seed: u64,
    /// Rows of each checkpoint tensor that a weight of its own was made of.
    rows: BTreeMap<String, u64>,
    cache: RefCell<BTreeMap<String, (Weight, Rc<Tensor>)>>,
}

impl RandomWeights {
    /// The weights of a seed. Rows of stacked weights are shared equally among their tensors.
    pub fn new(seed: u64) -> RandomWeights {
        RandomWeights { seed, rows: BTreeMap::new(), cache: RefCell::default() }
    }

    /// Remembers how many rows each checkpoint tensor has, from the weights that consist of one tensor.
    pub fn learn(mut self, module: &Module) -> RandomWeights {
        for (_, w) in module.weights.iter() {
            if let (Source::Tensors(parts), Some([rows, ..])) = (&w.source, w.ty.shape().as_deref())
                && let [one] = parts.as_slice()
            {
                self.rows.insert(one.name.clone(), *rows);
            }
        }
        self
    }

    fn values(&self, weight: &Weight) -> Result<Tensor, String> {
        let shape = weight.ty.shape().ok_or("its type has a symbolic dimension")?;
        let dims: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
        let width: usize = dims.get(1..).unwrap_or_default().iter().product();
        let total = shape.first().copied().unwrap_or(1);
        let mut data = match &weight.source {
            Source::Rope(freqs) => freqs.values(),
            Source::Tensors(parts) => {
                let mut data = Vec::new();
                for (part, rows) in parts.iter().zip(self.split(parts, total)?) {
                    self.fill(part, rows, width, dims.len() > 1, &mut data)?;
                }
                data
            }
        };
        match weight.ty.elem {
            Elem::Plain(DType::F32) => {}
            Elem::Plain(dtype) => data.iter_mut().for_each(|x| *x = round(*x, dtype)),
            Elem::Quant(scheme) => {
                let (n, k) = if dims.len() > 1 { (dims[0], width) } else { (1, data.len()) };
                let stored = quantize(&data, n, k, scheme).map_err(|e| e.to_string())?;
                data = dequantize(&stored, n, k, scheme).map_err(|e| e.to_string())?;
            }
        }
        Ok(Tensor { dims, data })
    }

    /// How `total` rows are shared: tensors that are known have their own number, the others equal parts of the rest.
    fn split(&self, parts: &[TensorRef], total: u64) -> Result<Vec<u64>, String> {
        let known: Vec<Option<u64>> = match parts {
            [_] => vec![Some(total)],
            _ => parts.iter().map(|p| self.rows.get(&p.name).copied()).collect(),
        };
        let unknown = known.iter().filter(|r| r.is_none()).count() as u64;
        let rest = total.checked_sub(known.iter().flatten().sum());
        match rest {
            Some(0) if unknown == 0 => Ok(known.into_iter().flatten().collect()),
            Some(rest) if unknown > 0 && rest.is_multiple_of(unknown) => {
                Ok(known.into_iter().map(|r| r.unwrap_or(rest / unknown)).collect())
            }
            _ => Err(format!("{total} rows cannot be shared among its {} tensors", parts.len())),
        }
    }

    fn fill(
        &self,
        part: &TensorRef,
        rows: u64,
        width: usize,
        matrix: bool,
        out: &mut Vec<f32>,
    ) -> Result<(), String> {
        let bound = if matrix { (3.0 / width.max(1) as f32).sqrt() } else { 1.0 };
        for row in 0..rows {
            let stored = part
                .stored_row(row, rows)
                .ok_or_else(|| format!("the {rows} rows of {:?} do not split into heads", part.name))?;
            // Each row is a sequence of its own: a part of a tensor has the rows of the whole.
            let mut random = Random(Random::named(self.seed, &part.name).next().wrapping_add(stored));
            let mut random = Random(random.next());
            out.extend((0..width).map(|_| random.signed() * bound));
        }
        Ok(())
    }
}

impl Weights for RandomWeights {
    fn load(&self, module: &Module, weight: WeightId) -> Result<Rc<Tensor>, String> {
        let weight = module.weights.get(weight).ok_or("there is no such weight")?;
        if let Some((made_for, tensor)) = self.cache.borrow().get(&weight.name)
            && made_for.ty == weight.ty
            && made_for.source == weight.source
        {
            return Ok(tensor.clone());
        }
        let tensor = Rc::new(self.values(weight)?);
        self.cache.borrow_mut().insert(weight.name.clone(), (weight.clone(), tensor.clone()));
        Ok(tensor)
    }
}
