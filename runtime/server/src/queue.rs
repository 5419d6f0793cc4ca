//! The order in which waiting requests are taken in: by priority, then clients by turns, then arrival.
//!
//! A pure data structure: no clock, no lock, no engine. What may wait at all is for `desk.rs` to say.

use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Something that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<T> {
    /// Who asks.
    pub client: Arc<str>,
    /// Higher goes first.
    pub priority: i32,
    /// Tokens of its prompt.
    pub tokens: u64,
    /// Places that it will take in the engine: answers that are asked for.
    pub places: u32,
    /// What it is.
    pub item: T,
}

/// Those of one priority.
#[derive(Debug)]
struct Level<T> {
    /// By arrival, never empty.
    clients: FxHashMap<Arc<str>, VecDeque<(u64, Entry<T>)>>,
    /// Each client that waits, once; the first has the next turn.
    turns: VecDeque<Arc<str>>,
}

impl<T> Level<T> {
    fn new() -> Level<T> {
        Level { clients: FxHashMap::default(), turns: VecDeque::new() }
    }
}

/// Entries that wait, each with a number of its own.
#[derive(Debug)]
pub struct Queue<T> {
    levels: BTreeMap<Reverse<i32>, Level<T>>,
    /// Priority and client of each entry.
    index: FxHashMap<u64, (i32, Arc<str>)>,
    tokens: u64,
    places: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { levels: BTreeMap::new(), index: FxHashMap::default(), tokens: 0, places: 0 }
    }
}

impl<T> Queue<T> {
    /// Entries.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Tokens of all prompts.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Places that all of them will take.
    pub fn places(&self) -> u64 {
        self.places
    }

    /// Entries that go before one of this client that comes now: those of higher priority, its own, and as many of each
    /// other client as it has turns.
    pub fn ahead(&self, client: &str, priority: i32) -> usize {
        let of_level = |(Reverse(level), l): (&Reverse<i32>, &Level<T>)| {
            if *level > priority {
                return l.clients.values().map(VecDeque::len).sum();
            }
            let own = l.clients.get(client).map_or(0, VecDeque::len);
            let others = l.clients.iter().filter(|(name, _)| &***name != client);
            own + others.map(|(_, waiting)| waiting.len().min(own + 1)).sum::<usize>()
        };
        self.levels.range(..=Reverse(priority)).map(of_level).sum()
    }

    /// Appends an entry under a number that no other has.
    pub fn push(&mut self, number: u64, entry: Entry<T>) {
        debug_assert!(!self.index.contains_key(&number), "number {number} waits already");
        self.tokens += entry.tokens;
        self.places += u64::from(entry.places);
        self.index.insert(number, (entry.priority, Arc::clone(&entry.client)));
        let level = self.levels.entry(Reverse(entry.priority)).or_insert_with(Level::new);
        if let Some(waiting) = level.clients.get_mut(&entry.client) {
            waiting.push_back((number, entry));
            return;
        }
        level.turns.push_back(Arc::clone(&entry.client));
        level.clients.insert(Arc::clone(&entry.client), VecDeque::from([(number, entry)]));
    }

    /// The entry whose turn it is.
    pub fn front(&self) -> Option<&Entry<T>> {
        let (_, level) = self.levels.first_key_value()?;
        level.clients.get(level.turns.front()?)?.front().map(|(_, entry)| entry)
    }

    /// Takes the entry whose turn it is; its client has the last turn from now on.
    pub fn pop(&mut self) -> Option<(u64, Entry<T>)> {
        let mut first = self.levels.first_entry()?;
        let level = first.get_mut();
        let client = level.turns.pop_front()?;
        let waiting = level.clients.get_mut(&client)?;
        let (number, entry) = waiting.pop_front()?;
        if waiting.is_empty() {
            level.clients.remove(&client);
        } else {
            level.turns.push_back(client);
        }
        if level.turns.is_empty() {
            first.remove();
        }
        self.forget(number, &entry);
        Some((number, entry))
    }

    /// Takes an entry out of turn; none if it does not wait.
    pub fn remove(&mut self, number: u64) -> Option<Entry<T>> {
        let (priority, client) = self.index.get(&number)?.clone();
        let level = self.levels.get_mut(&Reverse(priority))?;
        let waiting = level.clients.get_mut(&client)?;
        let at = waiting.iter().position(|(n, _)| *n == number)?;
        let (_, entry) = waiting.remove(at)?;
        if waiting.is_empty() {
            level.clients.remove(&client);
            level.turns.retain(|c| *c != client);
        }
        if level.turns.is_empty() {
            self.levels.remove(&Reverse(priority));
        }
        self.forget(number, &entry);
        Some(entry)
    }

    fn forget(&mut self, number: u64, entry: &Entry<T>) {
        self.index.remove(&number);
        self.tokens -= entry.tokens;
        self.places -= u64::from(entry.places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(client: &str, priority: i32) -> Entry<()> {
        Entry { client: client.into(), priority, tokens: 3, places: 2, item: () }
    }

    #[test]
    fn clients_have_turns_and_priority_goes_first() {
        let mut queue = Queue::default();
        for (number, (client, priority)) in
            (0..).zip([("a", 0), ("a", 0), ("a", 0), ("b", 0), ("c", 1), ("b", 0), ("a", -1)])
        {
            queue.push(number, entry(client, priority));
        }
        assert_eq!((queue.len(), queue.tokens(), queue.places()), (7, 21, 14));
        let order: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|(number, _)| number).collect();
        assert_eq!(order, [4, 0, 3, 1, 5, 2, 6]);
        assert_eq!((queue.len(), queue.tokens(), queue.places()), (0, 0, 0));
    }

    #[test]
    fn who_goes_before_is_known() {
        for (client, priority, want) in
            [("a", 0, 6), ("b", 0, 6), ("d", 0, 3), ("d", 1, 1), ("d", 2, 0), ("d", -1, 7)]
        {
            let mut queue = Queue::default();
            for (number, (client, priority)) in
                (0..).zip([("a", 0), ("a", 0), ("a", 0), ("b", 0), ("c", 1), ("b", 0), ("a", -1)])
            {
                queue.push(number, entry(client, priority));
            }
            let ahead = queue.ahead(client, priority);
            queue.push(99, entry(client, priority));
            let before = std::iter::from_fn(|| queue.pop()).take_while(|(number, _)| *number != 99).count();
            assert_eq!((ahead, before), (want, want), "{client} {priority}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push { client: u8, priority: i32, tokens: u64 },
        Pop,
        Remove(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4u8, -1..2i32, 1..50u64).prop_map(|(client, priority, tokens)| Step::Push {
                client,
                priority,
                tokens
            }),
            Just(Step::Pop),
            any::<usize>().prop_map(Step::Remove),
        ]
    }

    proptest! {
        #[test]
        fn the_queue_is_fair_and_loses_nothing(steps in proptest::collection::vec(step(), 1..200)) {
            let mut queue = Queue::default();
            let mut model: Vec<(u64, u8, i32, u64)> = Vec::new();
            // Turns of each client since another, at the same priority, began to wait: at most one.
            let mut passed: FxHashMap<(u8, u8, i32), u32> = FxHashMap::default();
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Push { client, priority, tokens } => {
                        if !model.iter().any(|m| (m.1, m.2) == (client, priority)) {
                            (0..4).for_each(|other| { passed.remove(&(client, other, priority)); });
                        }
                        model.push((number, client, priority, tokens));
                        let entry = Entry {
                            client: client.to_string().into(), priority, tokens, places: 1, item: number,
                        };
                        queue.push(number, entry);
                    }
                    Step::Pop => {
                        let front = queue.front().map(|e| e.item);
                        let Some((number, entry)) = queue.pop() else {
                            prop_assert!(model.is_empty());
                            continue;
                        };
                        prop_assert_eq!(front, Some(number));
                        let at = model.iter().position(|m| m.0 == number).expect("it waited");
                        let (_, client, priority, _) = model.remove(at);
                        prop_assert_eq!(entry.priority, priority);
                        prop_assert!(model.iter().all(|m| m.2 <= priority), "a higher priority waits");
                        prop_assert!(
                            !model.iter().any(|m| (m.1, m.2) == (client, priority) && m.0 < number),
                            "an older one of the same client waits"
                        );
                        for other in (0..4).filter(|&o| o != client) {
                            if model.iter().any(|m| (m.1, m.2) == (other, priority)) {
                                let turns = passed.entry((other, client, priority)).or_default();
                                *turns += 1;
                                prop_assert!(*turns <= 1, "client {} had two turns while {} waited", client, other);
                            }
                        }
                        (0..4).for_each(|other| { passed.remove(&(client, other, priority)); });
                    }
                    Step::Remove(which) => {
                        if model.is_empty() {
                            prop_assert!(queue.remove(which as u64 + 1_000_000).is_none());
                            continue;
                        }
                        let (number, ..) = model.remove(which % model.len());
                        prop_assert_eq!(queue.remove(number).map(|e| e.item), Some(number));
                        prop_assert!(queue.remove(number).is_none());
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.tokens(), model.iter().map(|m| m.3).sum::<u64>());
                prop_assert_eq!(queue.is_empty(), queue.front().is_none());
                prop_assert_eq!(queue.places(), model.len() as u64);
            }
        }
    }
}
