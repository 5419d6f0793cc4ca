//! Tokens that a step takes from the one before and chooses itself, against the definition written out.

use super::*;
use trtc_engine::manifest::DRAW;

#[test]
fn tokens_below_zero_are_those_of_the_step_before() {
    let mut rig = Rig::new(Isa::detect(), 1);
    rig.dims.tokens = 4;
    rig.ints(rig.bind.tokens, &[7, -1, -3, 0]);
    let ints = |list: [i32; 4]| list.map(|v| f32::from_bits(v as u32));
    let previous = rig.input(&ints([50, 51, 52, 53]), Dtype::F32);
    let out = rig.output(4, Dtype::F32);
    rig.run(HostKernel::Feed { last: 4 }, &[Arg::Tokens, previous, out]);
    assert_eq!(rig.read(out, 4, Dtype::F32).map_bits(), [7, 50, 52, 0]);

    rig.ints(rig.bind.tokens, &[7, -5, 0, 0]);
    let error = rig.try_run(HostKernel::Feed { last: 4 }, &[Arg::Tokens, previous, out]).unwrap_err();
    assert!(error.message.contains("token -5 stands for no row"), "{}", error.message);
}

trait Bits {
    fn map_bits(&self) -> Vec<i32>;
}

impl Bits for Vec<f32> {
    fn map_bits(&self) -> Vec<i32> {
        self.iter().map(|v| v.to_bits() as i32).collect()
    }
}

/// What a draw keeps of a row, with weights, by id; the best first of all.
fn kept(x: &[f32], d: &[f32]) -> Vec<(usize, f64)> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
    let best = x[order[0]];
    if d[0] == 0.0 || d[1] == 1.0 {
        return vec![(order[0], 1.0)];
    }
    let w = |i: usize| (f64::from(x[i] - best) / f64::from(d[0])).exp();
    if d[1] > 0.0 {
        order.truncate(d[1] as usize);
    }
    if d[2] < 1.0 {
        let mass = f64::from(d[2]) * order.iter().map(|&i| w(i)).sum::<f64>();
        let mut sum = 0.0;
        let n = order.iter().position(|&i| {
            sum += w(i);
            sum >= mass
        });
        order.truncate(n.map_or(order.len(), |n| n + 1));
    }
    order.retain(|&i| w(i) >= f64::from(d[3]));
    order.sort_unstable();
    order.into_iter().map(|i| (i, w(i))).collect()
}

#[test]
fn a_row_is_sampled_as_its_draw_says() {
    let (rows, vocab) = (64, 700);
    let mut rng = Rng::new(31);
    let mut rig = Rig::new(Isa::detect(), 1);
    (rig.dims.tokens, rig.dims.rows) = (rows as u32, rows as u32);
    let logits: Vec<f32> = rng.units(rows * vocab).iter().map(|x| x * 6.0).collect();
    let mut draws = Vec::new();
    for row in 0..rows {
        let of = |list: &[f32]| list[row % list.len()];
        let temperature = of(&[0.0, 0.7, 1.0, 1.6, 1.0]);
        let (top_k, top_p, min_p) = (of(&[0.0, 20.0, 1.0]), of(&[1.0, 0.9]), of(&[0.0, 0.0, 0.0, 0.1]));
        let (high, low) = (rng.below(1 << 16) as f32, rng.below(1 << 16) as f32);
        // Every third row has a mask, which leaves about a half of it; the last one nothing.
        let mask = if row % 3 == 2 { (row / 3 + 1) as f32 } else { 0.0 };
        draws.extend([temperature, top_k, top_p, min_p, high, low, mask, 0.0]);
    }
    let words = vocab.div_ceil(32);
    let mut masks: Vec<u32> =
        (0..21 * words).map(|_| (rng.below(1 << 16) << 16 | rng.below(1 << 16)) as u32).collect();
    masks[20 * words..].fill(0);
    let bytes: Vec<u8> = masks.iter().flat_map(|v| v.to_le_bytes()).collect();
    rig.device.upload(rig.bind.masks, 0, &bytes).unwrap();
    let bytes: Vec<u8> = draws.iter().flat_map(|v| v.to_le_bytes()).collect();
    rig.device.upload(rig.bind.draws, 0, &bytes).unwrap();
    let args = [rig.input(&logits, Dtype::F32), Arg::Draws, Arg::Masks];
    let (token, logprob) = (rig.output(rows, Dtype::F32), rig.output(rows, Dtype::F32));
    rig.run(HostKernel::Sample { vocab: vocab as u32 }, &[args[0], args[1], args[2], token, logprob]);
    let (tokens, logprobs) =
        (rig.read(token, rows, Dtype::F32).map_bits(), rig.read(logprob, rows, Dtype::F32));
    for row in 0..rows {
        let (x, d) = (&logits[row * vocab..][..vocab], &draws[row * DRAW as usize..][..DRAW as usize]);
        let token = tokens[row] as usize;
        let named = (d[6] as usize).checked_sub(1);
        let may = |t: usize| named.is_none_or(|i| masks[i * words + t / 32] >> (t % 32) & 1 == 1);
        let left: Vec<f32> =
            x.iter().enumerate().map(|(t, &x)| if may(t) { x } else { f32::NEG_INFINITY }).collect();
        if named == Some(20) {
            assert_eq!(token, 0, "no token may be chosen");
            continue;
        }
        let all = kept(&left, d);
        assert!(may(token), "row {row}");
        let total: f64 = all.iter().map(|(_, w)| w).sum();
        let before: f64 = all.iter().take_while(|(i, _)| *i != token).map(|(_, w)| w).sum();
        let own =
            all.iter().find(|(i, _)| *i == token).unwrap_or_else(|| panic!("row {row}: {token} {d:?}")).1;
        let u = f64::from(d[4]) / 65536.0 + f64::from(d[5]) / 4_294_967_296.0;
        let near = 1e-5;
        assert!(
            before / total <= u + near && u <= (before + own) / total + near || all.len() == 1,
            "row {row}"
        );
        // That of the row as it is.
        let sum: f64 = x.iter().map(|&v| f64::from(v - x[token]).exp()).sum();
        assert!((f64::from(logprobs[row]) + sum.ln()).abs() < 1e-5, "row {row}");
    }
}

#[test]
fn a_draw_names_a_mask_that_is_there() {
    let mut rig = Rig::new(Isa::detect(), 1);
    (rig.dims.tokens, rig.dims.rows) = (1, 1);
    let draw: Vec<u8> =
        [0.0f32, 0.0, 1.0, 0.0, 0.0, 0.0, 9999.0, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    rig.device.upload(rig.bind.draws, 0, &draw).unwrap();
    let (logits, token, logprob) =
        (rig.input(&[1.0; 40], Dtype::F32), rig.output(1, Dtype::F32), rig.output(1, Dtype::F32));
    let args = [logits, Arg::Draws, Arg::Masks, token, logprob];
    let error = rig.try_run(HostKernel::Sample { vocab: 40 }, &args).unwrap_err();
    assert!(error.message.contains("a draw names mask 9999, there are 512"), "{}", error.message);
}
