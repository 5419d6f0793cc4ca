//! The sizes of steps that are recorded: numbers of requests, and bounds on the longest context. Pure functions.

/// Numbers of requests that decode steps are recorded for: each power of two up to 8, then in steps of at most an eighth of the
/// power of two before, up to `most`. Kernels serve up to a power of two: a step of so many is not padded beyond it.
pub fn buckets(most: u32) -> Vec<u32> {
    let next = |&n: &u32| Some(if n < 8 { 2 * n } else { n + ((1 << n.ilog2()) / 8).clamp(8, 32) });
    let mut list: Vec<u32> = std::iter::successors(Some(1), next).take_while(|&n| n < most).collect();
    list.push(most);
    list
}

/// Decode steps whose longest contexts have the same bound share a recording: powers of two from 512 on, above the last one
/// none, which is 0. No kernel shares out longer ones to more blocks.
pub fn bound(context: u32) -> u32 {
    if context > LAST_BOUND { 0 } else { context.next_power_of_two().max(FIRST_BOUND) }
}

const FIRST_BOUND: u32 = 512;
const LAST_BOUND: u32 = 4096;

/// The bounds of all contexts of up to `most` positions.
pub fn bounds(most: u32) -> impl Iterator<Item = u32> {
    let longest = std::iter::successors(Some(FIRST_BOUND), |&n| (n <= LAST_BOUND).then_some(2 * n));
    longest.take_while(move |&n| n == FIRST_BOUND || n < 2 * most).map(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_have_few_bounds() {
        assert_eq!([1, 512, 513, 4096, 4097, 1 << 20].map(bound), [512, 512, 1024, 4096, 0, 0]);
        let all = |most| bounds(most).collect::<Vec<_>>();
        assert_eq!([all(1), all(512), all(2304)], [vec![512], vec![512], vec![512, 1024, 2048, 4096]]);
        assert_eq!(all(1 << 17), [512, 1024, 2048, 4096, 0]);
        for most in [1, 600, 1024, 5000] {
            assert!((1..=most).all(|n| all(most).contains(&bound(n))), "{most}");
        }
    }

    #[test]
    fn buckets_rise_to_the_limit() {
        assert_eq!(buckets(1), [1]);
        assert_eq!(buckets(6), [1, 2, 4, 6]);
        assert_eq!(buckets(64), [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]);
        let all = buckets(256);
        assert!(all.is_sorted() && all.last() == Some(&256) && all.len() < 32, "{all:?}");
        let all = buckets(500);
        assert!([64, 128, 256, 288, 480, 500].iter().all(|n| all.contains(n)), "{all:?}");
    }
}
