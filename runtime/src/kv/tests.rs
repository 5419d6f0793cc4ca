//! Tests of the pool: sharing, eviction order, and a state machine against a plain model.

use super::*;
use proptest::prelude::*;

#[test]
fn full_pages_are_found_again_and_partial_ones_are_not() {
    let mut pool = KvPool::new(3, 2, true);
    let key = PageKey::ROOT.then(&[7, 8]);
    let a = pool.take().unwrap();
    let b = pool.take().unwrap();
    pool.publish(a, key, &[7, 8]);
    pool.release(b);
    pool.release(a);
    assert_eq!((pool.held(), pool.idle(), pool.available()), (0, 1, 3));
    assert_eq!(pool.find(key, &[7, 8]), Some(a));
    assert_eq!(pool.find(key, &[7, 9]), None, "the same key with other tokens is another page");
    assert_eq!(pool.find(key.then(&[1, 2]), &[1, 2]), None);
    pool.retain(a);
    pool.retain(a);
    assert_eq!((pool.refs(a), pool.idle()), (2, 0));
    pool.assert_consistent();
}

#[test]
fn idle_pages_go_least_recently_used_first_and_after_free_ones() {
    let mut pool = KvPool::new(3, 1, true);
    let pages: Vec<u32> = (0..3).map(|_| pool.take().unwrap()).collect();
    let keys: Vec<PageKey> = (0..3u32).map(|t| PageKey::ROOT.then(&[t])).collect();
    for t in [0usize, 1] {
        pool.publish(pages[t], keys[t], &[t as u32]);
    }
    for t in [1, 0, 2] {
        pool.release(pages[t]);
    }
    assert_eq!(pool.take(), Some(pages[2]), "free before idle");
    assert_eq!(pool.take(), Some(pages[1]), "released first");
    assert_eq!(pool.find(keys[1], &[1]), None);
    assert_eq!(pool.find(keys[0], &[0]), Some(pages[0]));
    assert_eq!(pool.take(), Some(pages[0]));
    assert_eq!(pool.take(), None);
    pool.assert_consistent();
}

#[test]
fn of_two_pages_with_the_same_content_the_first_stays() {
    let mut pool = KvPool::new(2, 1, true);
    let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
    let key = PageKey::ROOT.then(&[5]);
    pool.publish(a, key, &[5]);
    pool.publish(b, key, &[5]);
    pool.release(a);
    pool.release(b);
    assert_eq!(pool.idle(), 1);
    assert_eq!(pool.find(key, &[5]), Some(a));
    pool.assert_consistent();
}

#[test]
fn without_the_prefix_cache_nothing_stays() {
    let mut pool = KvPool::new(1, 1, false);
    let a = pool.take().unwrap();
    pool.publish(a, PageKey::ROOT.then(&[5]), &[5]);
    pool.release(a);
    assert_eq!((pool.idle(), pool.available()), (0, 1));
    assert_eq!(pool.find(PageKey::ROOT.then(&[5]), &[5]), None);
}

#[test]
fn keys_depend_on_everything_before() {
    let (a, b) = (PageKey::ROOT.then(&[1, 2]), PageKey::ROOT.then(&[2, 1]));
    assert_ne!(a, b);
    assert_ne!(a.then(&[3, 4]), b.then(&[3, 4]));
    assert_eq!(a.then(&[3, 4]), PageKey::ROOT.then(&[1, 2]).then(&[3, 4]));
}

/// One thing that a caller does; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Act {
    Take,
    Publish(usize, u32),
    Find(u32),
    Release(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        Just(Act::Take),
        (any::<usize>(), 0u32..6).prop_map(|(i, t)| Act::Publish(i, t)),
        (0u32..6).prop_map(Act::Find),
        any::<usize>().prop_map(Act::Release),
    ]
}

proptest! {
    /// Whatever is done: counts agree with the holds, content found is content published, all is free at the end.
    #[test]
    fn holds_are_counted(pages in 1u32..6, acts in prop::collection::vec(act(), 0..200)) {
        let mut pool = KvPool::new(pages, 1, true);
        let mut holds: Vec<u32> = Vec::new();
        let mut content = vec![None; pages as usize];
        for act in acts {
            match act {
                Act::Take => match pool.take() {
                    Some(page) => {
                        prop_assert!(!holds.contains(&page));
                        content[page as usize] = None;
                        holds.push(page);
                    }
                    None => prop_assert!((0..pages).all(|p| holds.contains(&p))),
                },
                Act::Publish(i, t) if !holds.is_empty() => {
                    let page = holds[i % holds.len()];
                    let key = PageKey::ROOT.then(&[t]);
                    if content[page as usize].is_none() && pool.find(key, &[t]).is_none() {
                        content[page as usize] = Some(t);
                    }
                    pool.publish(page, key, &[t]);
                }
                Act::Find(t) => if let Some(page) = pool.find(PageKey::ROOT.then(&[t]), &[t]) {
                    prop_assert_eq!(content[page as usize], Some(t));
                    pool.retain(page);
                    holds.push(page);
                },
                Act::Release(i) if !holds.is_empty() => {
                    let i = i % holds.len();
                    pool.release(holds.swap_remove(i));
                }
                _ => {}
            }
            pool.assert_consistent();
            for page in 0..pages {
                prop_assert_eq!(pool.refs(page) as usize, holds.iter().filter(|&&p| p == page).count());
            }
        }
        for page in holds {
            pool.release(page);
        }
        prop_assert_eq!((pool.held(), pool.available()), (0, pages));
    }
}
