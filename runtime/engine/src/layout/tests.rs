//! Packing and unpacking agree, and the bytes are where the table says.

use super::pack::to_bf16;
use super::*;
use crate::manifest::Dtype;
use crate::testing::weight;
use proptest::prelude::*;

/// Packs a matrix panel by panel.
fn pack(
    n: usize,
    k: usize,
    (encoding, layout): (Encoding, Layout),
    q: &[i8],
    f: &[f32],
) -> (Weight, Packed, Vec<f32>) {
    let meta = weight("w", &[n as u64, k as u64], encoding, layout);
    let mut out = Packed::default();
    let mut want = vec![0.0; n * k];
    let group = if let Encoding::I4Group { group } = encoding { group as usize } else { k };
    let groups = k.div_ceil(group);
    let scales: Vec<bf16> = (0..n * groups).map(|i| bf16::from_f32(0.5 + i as f32)).collect();
    let zeros: Vec<i8> = (0..n * groups).map(|i| (i % 16) as i8 - 8).collect();
    for first in (0..n).step_by(PANEL) {
        let rows: Vec<usize> = (first..n.min(first + PANEL)).collect();
        let slices: Vec<&[f32]> = rows.iter().map(|r| &f[r * k..r * k + k]).collect();
        match encoding {
            Encoding::F32 => pack_panel_f32(&slices, &mut out.payload).unwrap(),
            Encoding::Bf16 => pack_panel_bf16(&slices, &mut out.payload).unwrap(),
            Encoding::I8Channel => {
                let rows: Vec<I8Row> =
                    rows.iter().map(|r| I8Row { q: &q[r * k..r * k + k], scale: *r as f32 + 0.25 }).collect();
                pack_panel_i8(&rows, layout, &mut out).unwrap();
            }
            Encoding::F8Channel => {
                let codes: Vec<u8> = q.iter().map(|&q| q as u8).collect();
                let rows: Vec<F8Row> = rows
                    .iter()
                    .map(|r| F8Row { q: &codes[r * k..r * k + k], scale: *r as f32 + 0.25 })
                    .collect();
                match layout {
                    Layout::Rows => pack_rows_f8(&rows, &mut out).unwrap(),
                    _ => pack_panel_f8(&rows, &mut out).unwrap(),
                }
            }
            Encoding::I4Group { group } => {
                let rows: Vec<I4Row> = rows
                    .iter()
                    .map(|r| I4Row {
                        q: &q[r * k..r * k + k],
                        scale: &scales[r * groups..][..groups],
                        zero: &zeros[r * groups..][..groups],
                    })
                    .collect();
                pack_panel_i4(&rows, group, layout, &mut out).unwrap();
            }
        }
    }
    for r in 0..n {
        for i in 0..k {
            let at = r * k + i;
            let g = r * groups + i / group;
            want[at] = match encoding {
                Encoding::F32 => f[at],
                Encoding::Bf16 => bf16::from_f32(f[at]).to_f32(),
                Encoding::I8Channel => f32::from(q[at]) * (r as f32 + 0.25),
                Encoding::F8Channel => e4m3(q[at] as u8) * (r as f32 + 0.25),
                Encoding::I4Group { .. } => f32::from(q[at] - zeros[g]) * scales[g].to_f32(),
            };
        }
    }
    (meta, out, want)
}

fn form() -> impl Strategy<Value = (Encoding, Layout)> {
    prop_oneof![
        Just((Encoding::F32, Layout::Panel16)),
        Just((Encoding::Bf16, Layout::Panel16)),
        Just((Encoding::I8Channel, Layout::Panel16)),
        Just((Encoding::F8Channel, Layout::Panel16)),
        Just((Encoding::F8Channel, Layout::Rows)),
        (1u32..5).prop_map(|g| (Encoding::I4Group { group: 8 * g }, Layout::Panel16)),
        Just((Encoding::I8Channel, Layout::Fragment16)),
        (5u32..8).prop_map(|g| (Encoding::I4Group { group: 1 << g }, Layout::Fragment16)),
    ]
}

proptest! {
    #[test]
    fn unpacking_gives_back_what_was_packed(n in 1usize..40, k in (1usize..70, 1usize..2100).prop_map(|(a, b)| if b % 5 == 0 { b } else { a }), form in form(), salt in any::<u32>()) {
        let noise = |i: usize| (i as u32).wrapping_mul(2654435761).wrapping_add(salt) >> 8;
        let (e, layout) = form;
        let four = matches!(e, Encoding::I4Group { .. });
        let byte = |i: usize| if e == Encoding::F8Channel && noise(i) & 0x7f == 0x7f { 0 } else { noise(i) as i8 };
        let q: Vec<i8> = (0..n * k).map(|i| if four { (noise(i) % 16) as i8 - 8 } else { byte(i) }).collect();
        let f: Vec<f32> = (0..n * k).map(|i| noise(i) as f32 / 1000.0 - 8000.0).collect();
        let (meta, packed, want) = pack(n, k, form, &q, &f);
        let size = sizes(&meta.shape, e, layout).unwrap();
        for part in Part::ALL {
            prop_assert_eq!(packed.part(part).len() as u64, size.of(part));
        }
        let mut row = vec![0.0; k];
        for r in 0..n {
            unpack_row(&meta, &packed.payload, &packed.scale, &packed.zero, r as u64, &mut row).unwrap();
            prop_assert_eq!(&row[..], &want[r * k..r * k + k]);
        }
        prop_assert!(unpack_row(&meta, &packed.payload, &packed.scale, &packed.zero, n as u64, &mut row).is_err());

        // Read as a matrix of the padded extents, padding dequantises to zero. Rows have none.
        if layout == Layout::Rows {
            return Ok(());
        }
        let p = panels(&meta.shape, e, layout).unwrap();
        let padded = Weight { shape: vec![p.count * 16, p.inputs], ..meta };
        let mut row = vec![1.0; p.inputs as usize];
        for r in 0..p.count * 16 {
            unpack_row(&padded, &packed.payload, &packed.scale, &packed.zero, r, &mut row).unwrap();
            let used = if r < n as u64 { k } else { 0 };
            prop_assert!(row[used..].iter().all(|&x| x == 0.0), "row {}: {:?}", r, row);
        }
    }

    #[test]
    fn rows_come_back(n in 1usize..9, k in 1usize..9, wide in any::<bool>()) {
        let (dtype, encoding) = if wide { (Dtype::F32, Encoding::F32) } else { (Dtype::Bf16, Encoding::Bf16) };
        let values: Vec<f32> = (0..n * k).map(|i| i as f32 * 0.5).collect();
        let mut bytes = Vec::new();
        pack_rows(&values, dtype, &mut bytes).unwrap();
        let meta = weight("w", &[n as u64, k as u64], encoding, Layout::Rows);
        prop_assert_eq!(bytes.len() as u64, sizes(&meta.shape, encoding, Layout::Rows).unwrap().payload);
        let mut row = vec![0.0; k];
        for r in 0..n {
            unpack_row(&meta, &bytes, &[], &[], r as u64, &mut row).unwrap();
            prop_assert_eq!(&row[..], &values[r * k..r * k + k]);
        }
    }
}

#[test]
fn bytes_are_where_the_table_says() {
    // One row, inputs 0..8 with q = -8..0: word 0 has inputs 0 2 4 6 from the low nibble, word 1 has 1 3 5 7.
    let q: Vec<i8> = (0..8).map(|i| i - 8).collect();
    let mut out = Packed::default();
    let row = I4Row { q: &q, scale: &[bf16::ONE], zero: &[-1] };
    pack_panel_i4(&[row, row], 8, Layout::Panel16, &mut out).unwrap();
    assert_eq!(out.payload[..8], [0x20, 0x64, 0x31, 0x75, 0x20, 0x64, 0x31, 0x75]);
    assert!(out.payload[8..].iter().all(|&b| b == 0x88) && out.payload.len() == 64);
    assert_eq!(out.scale[..6], [0x80, 0x3f, 0x80, 0x3f, 0, 0]);
    assert_eq!(out.zero[..3], [255, 255, 0]);

    let mut out = Packed::default();
    let rows = [I8Row { q: &[1, 2, 3], scale: 1.0 }, I8Row { q: &[4, 5, 6], scale: 2.0 }];
    pack_panel_i8(&rows, Layout::Panel16, &mut out).unwrap();
    assert_eq!(out.payload[..5], [1, 2, 4, 5, 0]);
    assert_eq!(out.payload[32..37], [3, 0, 6, 0, 0]);
    assert_eq!(out.scale[..8], [0, 0, 128, 63, 0, 0, 0, 64]);

    let (mut rows, mut panel) = (Packed::default(), Packed::default());
    let eight = [F8Row { q: &[0x38, 0xb8, 1], scale: 1.0 }, F8Row { q: &[4, 5, 6], scale: 2.0 }];
    pack_rows_f8(&eight, &mut rows).unwrap();
    assert_eq!(
        (&rows.payload[..], &rows.scale[..]),
        (&[0x38, 0xb8, 1, 4, 5, 6][..], &[0, 0, 128, 63, 0, 0, 0, 64][..])
    );
    pack_panel_f8(&eight, &mut panel).unwrap();
    assert_eq!(panel.payload[..5], [0x38, 0xb8, 4, 5, 0]);
    assert_eq!((panel.payload[32..37].to_vec(), &panel.scale[..8]), (vec![1, 0, 6, 0, 0], &rows.scale[..]));

    let mut out = Vec::new();
    pack_panel_bf16(&[&[1.0, 2.0], &[-1.0, 0.0]], &mut out).unwrap();
    assert_eq!(out[..8], [0x80, 0x3f, 0, 0x40, 0x80, 0xbf, 0, 0]);

    let mut out = Vec::new();
    pack_panel_f32(&[&[1.0, 2.0], &[3.0, 4.0]], &mut out).unwrap();
    assert_eq!((f32_at(&out, 0), f32_at(&out, 1), f32_at(&out, 16), f32_at(&out, 17)), (1.0, 3.0, 2.0, 4.0));
}

/// What a lane loads is what `mma.m16n8k16` wants of it: for step `s` of 32 inputs register `r` of operand A is row
/// `g + 8 (r % 2)`, and its pairs of inputs `8 q + 4 s + 2 (r / 2)` go with those that the lane loads of x.
#[test]
fn fragments_are_operands_of_a_warp() {
    let (k, group) = (256usize, 64u32);
    let at = |row: usize, i: usize| ((row * 37 + i * 11 + i / 16) % 16) as i8 - 8;
    let rows: Vec<Vec<i8>> = (0..PANEL).map(|row| (0..k).map(|i| at(row, i)).collect()).collect();
    let (mut wide, mut narrow) = (Packed::default(), Packed::default());
    let eight: Vec<I8Row> = rows.iter().map(|q| I8Row { q, scale: 1.0 }).collect();
    pack_panel_i8(&eight, Layout::Fragment16, &mut wide).unwrap();
    let zeros: Vec<[i8; 4]> = (0..PANEL as i8).map(|r| [r - 8; 4]).collect();
    let four: Vec<I4Row> =
        rows.iter().zip(&zeros).map(|(q, zero)| I4Row { q, scale: &[bf16::ONE; 4], zero }).collect();
    pack_panel_i4(&four, group, Layout::Fragment16, &mut narrow).unwrap();
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    for (block, lane, s, r) in (0..k / 32)
        .flat_map(|b| (0..32).flat_map(move |l| (0..2).flat_map(move |s| (0..4).map(move |r| (b, l, s, r)))))
    {
        let (g, q) = (lane / 4, lane % 4);
        let (row, i) = (g + 8 * (r % 2), 32 * block + 8 * q + 4 * s + 2 * (r / 2));
        // 16 bytes a lane for 32 inputs of i8: word 2 s + r / 2, its bytes r % 2 and r % 2 + 2.
        let w = word(&wide.payload, block * 512 + lane * 16 + 4 * (2 * s + r / 2)) >> (8 * (r % 2));
        assert_eq!([w as u8 as i8, (w >> 16) as u8 as i8], [at(row, i), at(row, i + 1)]);
        // 16 bytes a lane for 64 inputs of i4: word 2 (block % 2) + s, its nibbles r and r + 4.
        let w = word(&narrow.payload, block / 2 * 512 + lane * 16 + 4 * (block % 2 * 2 + s)) >> (4 * r);
        assert_eq!([(w & 15) as i8 - 8, (w >> 16 & 15) as i8 - 8], [at(row, i), at(row, i + 1)]);
        // Zero points of rows g and g + 8 lie side by side.
        assert_eq!(narrow.zero[block / 2 * 16 + 2 * g + r % 2] as i8, row as i8 - 8);
    }
}

#[test]
fn codes_of_e4m3_have_their_values() {
    // Sign, exponent with bias 7, mantissa: 1.5 * 2^-1, the greatest, the least, the least normal.
    for (code, value) in
        [(0x34, 0.75), (0x7e, 448.0), (0x01, 2f32.powi(-9)), (0x08, 2f32.powi(-6)), (0xb8, -1.0)]
    {
        assert_eq!(e4m3(code), value, "{code:02x}");
    }
    assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
    assert!((0..0x7e).all(|code| e4m3(code) < e4m3(code + 1) && e4m3(code | 0x80) == -e4m3(code)));
}

#[test]
fn rounding_is_that_of_bf16() {
    let edges =
        [0u32, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0xff80_0000, 0xffff_ffff, 0x3f80_8000, 0x3f81_8000];
    for bits in edges.into_iter().chain((0..100_000).map(|i: u32| i.wrapping_mul(2654435761))) {
        let x = f32::from_bits(bits);
        assert_eq!(to_bf16(x), bf16::from_f32(x).to_bits(), "{bits:08x}");
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let panel = |shape: &[u64], e| sizes(shape, e, Layout::Panel16);
    assert!(panel(&[4], Encoding::F32).is_err());
    assert!(panel(&[0, 4], Encoding::F32).is_err());
    assert!(panel(&[], Encoding::F32).is_err());
    assert!(panel(&[u64::MAX, 2], Encoding::I8Channel).is_err());
    assert!(panel(&[2, u64::MAX], Encoding::I4Group { group: 8 }).is_err());
    assert!(panel(&[2, 8], Encoding::I4Group { group: 0 }).is_err());
    assert!(panel(&[2, 8], Encoding::I4Group { group: 12 }).is_err());
    assert!(sizes(&[2, 8], Encoding::I8Channel, Layout::Rows).is_err());
    assert!(sizes(&[8], Encoding::F8Channel, Layout::Rows).is_err());
    assert!(sizes(&[16, 64], Encoding::F8Channel, Layout::Fragment16).is_err());
    for q in [[0, 0x7f], [0xff, 0]] {
        let (row, mut out) = (F8Row { q: &q, scale: 1.0 }, Packed::default());
        assert!(pack_rows_f8(&[row], &mut out).is_err() && pack_panel_f8(&[row], &mut out).is_err());
    }
    assert!(pack_rows(&[1.0], Dtype::F8E4M3, &mut Vec::new()).is_err());
    assert!(sizes(&[1 << 62, 4], Encoding::F32, Layout::Rows).is_err());
    assert!(sizes(&[16, 64], Encoding::Bf16, Layout::Fragment16).is_err());
    assert!(sizes(&[16, 64], Encoding::I4Group { group: 16 }, Layout::Fragment16).is_err());
    assert!(pack_panel_f32(&[], &mut Vec::new()).is_err());
    assert!(pack_panel_f32(&[&[1.0], &[1.0, 2.0]], &mut Vec::new()).is_err());
    assert!(pack_panel_f32(&[&[1.0f32][..]; 17], &mut Vec::new()).is_err());
    let mut out = Packed::default();
    let row = |q, zero| I4Row { q, scale: &[bf16::ONE], zero };
    assert!(pack_panel_i4(&[row(&[8], &[0])], 8, Layout::Panel16, &mut out).is_err());
    assert!(pack_panel_i4(&[row(&[7], &[-9])], 8, Layout::Panel16, &mut out).is_err());
    assert!(pack_panel_i4(&[row(&[7; 9], &[0])], 8, Layout::Panel16, &mut out).is_err());
}
