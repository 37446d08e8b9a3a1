//! Messages of several partitions in the order in which they were written, while what there was is read.
//!
//! A key's messages are in one partition, in order, until an admin adds partitions: from then on they come to another
//! one. Read side by side, what the old partition has of a key may come after what the new one has, and the key has its
//! old value for good, or one that was deleted is back. So as long as there is a backlog, the message that was written
//! first is read first, of all partitions, as Kafka Streams does it. Afterwards they come as they are written.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::TopicPartition;
use super::hold::{Held, Hold, NoBoundary, Whole};

/// Bytes of a partition that are held before it is read no further.
const HELD_MAX: u64 = 16 << 20;

/// Messages that wait for older ones.
pub struct InTime<M> {
    queues: BTreeMap<TopicPartition, Queue<M>>,
    has_backlog: bool,
}

struct Queue<M> {
    /// With the time at which each was written, in milliseconds since 1970.
    messages: VecDeque<(i64, M)>,
    bytes: u64,
    is_at_end: bool,
}

impl<M> Default for InTime<M> {
    fn default() -> InTime<M> {
        InTime { queues: BTreeMap::new(), has_backlog: true }
    }
}

impl<M: Held + Send> Hold<M> for InTime<M> {
    fn begin(&mut self, partition: TopicPartition) {
        let queue = || Queue { messages: VecDeque::new(), bytes: 0, is_at_end: false };
        self.queues.entry(partition).or_insert_with(queue);
    }

    fn at_end(&mut self, partition: TopicPartition) {
        self.begin(partition);
        self.queues.entry(partition).and_modify(|queue| queue.is_at_end = true);
    }

    fn empty_at_end(&self) -> Vec<TopicPartition> {
        let is_done = |queue: &Queue<M>| queue.is_at_end && queue.messages.is_empty();
        self.queues.iter().filter(|(_, queue)| is_done(queue)).map(|(partition, _)| *partition).collect()
    }

    fn is_full(&self, partition: TopicPartition) -> bool {
        self.queues.get(&partition).is_some_and(|queue| queue.bytes > HELD_MAX)
    }

    fn backlog_is_read(&mut self) {
        self.has_backlog = false;
    }

    fn take(&mut self, message: M) -> Result<(), NoBoundary> {
        let view = message.view();
        let (partition, bytes, written) = (view.partition, view.bytes(), view.timestamp.unwrap_or(i64::MIN));
        self.begin(partition);
        if let Some(queue) = self.queues.get_mut(&partition) {
            queue.is_at_end = false;
            queue.bytes += bytes;
            queue.messages.push_back((written, message));
        }
        Ok(())
    }

    fn next(&mut self, at_most: usize, _: Instant) -> Whole<M> {
        let mut gone_on = Vec::new();
        while gone_on.len() < at_most
            && (!self.has_backlog || self.queues.values().all(|queue| queue.is_at_end || !queue.messages.is_empty()))
        {
            let first = self.queues.values_mut().filter(|queue| !queue.messages.is_empty());
            let Some(queue) = first.min_by_key(|queue| queue.messages[0].0) else { break };
            // Where partitions were written in turns runs are long.
            if let Some((_, message)) = queue.messages.pop_front() {
                queue.bytes -= message.view().bytes();
                gone_on.push(message);
            }
        }
        Whole { messages: gone_on, ..Whole::default() }
    }

    fn clear(&mut self) {
        self.queues.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Payload;
    use crate::topic::Message;

    #[derive(Clone, Debug, PartialEq)]
    struct Scripted(i32, i64, &'static [u8]);

    impl Held for Scripted {
        fn view(&self) -> Message<'_> {
            Message {
                partition: TopicPartition::of_only_topic(self.0),
                offset: self.1,
                timestamp: Some(self.1),
                payload: Payload { key: None, value: Some(self.2) },
                headers: &(),
            }
        }
    }

    fn take(held: &mut InTime<Scripted>, message: Scripted) {
        held.take(message).expect("it takes all");
    }

    fn went_on(held: &mut InTime<Scripted>, at_most: usize) -> Vec<i64> {
        held.next(at_most, Instant::now()).messages.into_iter().map(|message| message.1).collect()
    }

    #[test]
    fn the_oldest_goes_on_when_no_older_one_can_come() {
        let mut held = InTime::default();
        let of = TopicPartition::of_only_topic;
        [0, 1, 2].into_iter().for_each(|partition| held.begin(of(partition)));
        [1, 4, 9].into_iter().for_each(|time| take(&mut held, Scripted(0, time, b"x")));
        [3, 5].into_iter().for_each(|time| take(&mut held, Scripted(1, time, b"x")));
        assert_eq!(went_on(&mut held, 10), [0; 0], "of the third nothing is known");
        held.at_end(of(2));
        assert_eq!(went_on(&mut held, 2), [1, 3]);
        assert_eq!(went_on(&mut held, 10), [4, 5], "the second may have older ones than 9");
        assert_eq!(held.empty_at_end(), [of(2)]);
        take(&mut held, Scripted(2, 7, b"x"));
        take(&mut held, Scripted(1, 8, b"x"));
        assert_eq!(went_on(&mut held, 10), [7]);
        held.at_end(of(2));
        assert_eq!(went_on(&mut held, 10), [8]);
        held.at_end(of(1));
        assert_eq!(went_on(&mut held, 10), [9]);
    }

    #[test]
    fn afterwards_nothing_waits() {
        let mut held = InTime::default();
        let of = TopicPartition::of_only_topic;
        [0, 1].into_iter().for_each(|partition| held.begin(of(partition)));
        take(&mut held, Scripted(0, 2, b"x"));
        take(&mut held, Scripted(0, 1, b"x"));
        assert_eq!(went_on(&mut held, 10), [0; 0]);
        held.backlog_is_read();
        assert_eq!(went_on(&mut held, 10), [2, 1], "of a partition in its order, whatever the clocks say");
    }

    #[test]
    fn what_is_far_ahead_is_not_read_further() {
        static LARGE: [u8; 1 << 20] = [0; 1 << 20];
        let mut held = InTime::default();
        let of = TopicPartition::of_only_topic;
        held.begin(of(1));
        for time in 0..17 {
            assert!(!held.is_full(of(0)));
            take(&mut held, Scripted(0, time, &LARGE));
        }
        assert!(held.is_full(of(0)));
        held.at_end(of(1));
        went_on(&mut held, 1);
        assert!(!held.is_full(of(0)));
    }
}
