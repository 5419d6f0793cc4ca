//! Events of steps in memory that is used again: one list, and one text that all of them point into.

use crate::request::{AnswerId, Event};
use std::ops::Range;

/// What steps bring, in order. [`crate::Engine::step_into`] appends, [`Events::drain`] takes; a loop that uses the same
/// list for all steps allocates nothing for it.
#[derive(Clone, Debug, Default)]
pub struct Events {
    list: Vec<Event<Range<usize>>>,
    /// The text of all events in the list, and of some that are gone.
    text: String,
}

impl Events {
    /// No events.
    pub fn new() -> Events {
        Events::default()
    }

    /// Events that are there.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes all events, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Event<&str>> {
        let Events { list, text } = self;
        list.drain(..).map(|event| event.map_text(|range| &text[range]))
    }

    /// Makes an event of the text that `write` appends; gives what `write` gives.
    #[inline]
    pub(super) fn write<T>(
        &mut self,
        write: impl FnOnce(&mut String) -> T,
        event: impl FnOnce(Range<usize>) -> Event<Range<usize>>,
    ) -> T {
        if self.list.is_empty() {
            self.text.clear();
        }
        let begin = self.text.len();
        let done = write(&mut self.text);
        self.list.push(event(begin..self.text.len()));
        done
    }

    /// Appends an event that has a text of its own.
    pub(super) fn push<Text: AsRef<str>>(&mut self, event: Event<Text>) {
        if self.list.is_empty() {
            self.text.clear();
        }
        let begin = self.text.len();
        let text = &mut self.text;
        let event = event.map_text(|own| {
            text.push_str(own.as_ref());
            begin..text.len()
        });
        self.list.push(event);
    }

    /// Keeps the events of the answers that `keep` says.
    pub(super) fn retain(&mut self, keep: impl Fn(AnswerId) -> bool) {
        self.list.retain(|event| keep(event.id()));
    }
}
