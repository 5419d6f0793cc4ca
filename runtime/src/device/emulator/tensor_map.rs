//! Parameters of a launch as the emulator takes them: words, and tensor maps in its own encoding.

use crate::device::launch::{MapParam, Param};
use crate::error::Error;
use trtc_emulator::layout::tensor_map::{DataType, Interleave, MAX_RANK, Mode, OobFill, TensorMapParameters};
use trtc_emulator::layout::{Swizzle, TensorMap};
use trtc_engine::manifest::MapElem;

/// The bytes of each parameter.
pub(super) fn bytes(params: &[Param]) -> Result<Vec<Vec<u8>>, Error> {
    let bytes = |param: &Param| match param {
        Param::Word(word) => Ok(word.to_le_bytes().to_vec()),
        Param::Map(map) => encode(map),
    };
    params.iter().map(bytes).collect()
}

fn encode(param: &MapParam) -> Result<Vec<u8>, Error> {
    let map = &param.map;
    let dtype = match map.elem {
        MapElem::U8 => DataType::U8,
        MapElem::Bf16 => DataType::Bf16,
        MapElem::F32 => DataType::F32,
    };
    let swizzle = match map.swizzle {
        32 => Swizzle::B32,
        64 => Swizzle::B64,
        128 => Swizzle::B128,
        _ => Swizzle::None,
    };
    // Innermost first.
    let mut parameters = TensorMapParameters {
        dtype,
        rank: 2,
        address: param.address,
        dims: [1; MAX_RANK],
        strides: [0; MAX_RANK - 1],
        box_dims: [1; MAX_RANK],
        element_strides: [1; MAX_RANK],
        interleave: Interleave::None,
        swizzle,
        fill: OobFill::Zero,
        mode: Mode::Tiled,
    };
    parameters.dims[..2].copy_from_slice(&[u64::from(map.width), param.rows]);
    parameters.strides[0] = map.row_bytes();
    parameters.box_dims[..2].copy_from_slice(&[map.tile[1], map.tile[0]]);
    let made = TensorMap::new(parameters);
    made.map(|m| m.to_bytes().to_vec())
        .map_err(|e| Error::bug(format!("a tensor map that no GPU takes: {e}")))
}
