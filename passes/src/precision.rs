//! Precisions as rows of data: what `--precision` takes, and the element type that each kind of tensor gets.
//!
//! A row names a weight scheme (one file each in `quantize/`) for linears and one for tables. Not here: how a
//! scheme chooses its parameters, and how values are rounded. Norm weights, biases and logits are f32 in every row.

use crate::quantize::{BF16, FP8, FP32, INT4, INT8, WeightScheme};
use trtc_ir::DType;

/// A precision: one row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Precision {
    /// What `--precision` takes.
    pub name: &'static str,
    /// One phrase for help texts.
    pub title: &'static str,
    /// Element type of what products read (activations before linears, rotated queries), on a GPU. FP8 weights have theirs
    /// quantised, from this type or as it is made.
    pub activation: DType,
    /// Likewise on the host. With bf16 weights it is f32: widening them is exact, and decoding waits for memory
    /// anyway; quantised weights are multiplied in bf16, which holds their integers exactly.
    pub host_activation: DType,
    /// Element type of the other activations on a GPU: the residual stream, results of linears. The host has them in
    /// f32 always, where that costs nothing.
    pub residual: DType,
    /// Element type of the cache on a GPU, unless `--kv-precision` says otherwise.
    pub kv: DType,
    /// Likewise on the host.
    pub host_kv: DType,
    /// Scheme of the weights of linears.
    pub linear: &'static WeightScheme,
    /// Scheme of tables: what `embedding` reads, and the linear that makes logits.
    pub table: &'static WeightScheme,
}

use DType::{Bf16, F32};

/// The table: one row a precision.
pub const PRECISIONS: &[Precision] = &[
    Precision {
        name: "fp32",
        title: "f32 weights and activations: the reference",
        activation: F32,
        host_activation: F32,
        residual: F32,
        kv: F32,
        host_kv: F32,
        linear: &FP32,
        table: &FP32,
    },
    Precision {
        name: "bf16",
        title: "bf16 weights and activations",
        activation: Bf16,
        host_activation: F32,
        residual: Bf16,
        kv: Bf16,
        host_kv: F32,
        linear: &BF16,
        table: &BF16,
    },
    Precision {
        name: "fp8",
        title: "e4m3 weights, a scale for each output channel, times e4m3 activations; bf16 tables and residual",
        activation: Bf16,
        host_activation: F32,
        residual: Bf16,
        kv: Bf16,
        host_kv: F32,
        linear: &FP8,
        table: &BF16,
    },
    Precision {
        name: "int8",
        title: "8-bit weights, a scale for each output channel; bf16 activations",
        activation: Bf16,
        host_activation: Bf16,
        residual: Bf16,
        kv: Bf16,
        host_kv: Bf16,
        linear: &INT8,
        table: &INT8,
    },
    Precision {
        name: "int4",
        title: "4-bit weights, a scale and a zero for each group of inputs; 8-bit tables; bf16 activations",
        activation: Bf16,
        host_activation: Bf16,
        residual: Bf16,
        kv: Bf16,
        host_kv: Bf16,
        linear: &INT4,
        table: &INT8,
    },
];

impl Precision {
    /// The row called `name`.
    pub fn named(name: &str) -> Option<&'static Precision> {
        PRECISIONS.iter().find(|p| p.name == name)
    }

    /// What a weight that it would quantise is otherwise: the plain type that the importer gives matrices.
    pub fn unquantised(&self) -> &'static WeightScheme {
        if self.activation == F32 { &FP32 } else { &BF16 }
    }

    /// All names, for error messages: `fp32, bf16, fp8, int8, int4`.
    pub fn names() -> String {
        PRECISIONS.iter().map(|p| p.name).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name() {
        for p in PRECISIONS {
            assert_eq!(Precision::named(p.name).map(|q| q.title), Some(p.title));
        }
        assert!(Precision::named("fp3").is_none());
        assert_eq!(Precision::names(), "fp32, bf16, fp8, int8, int4");
    }
}
