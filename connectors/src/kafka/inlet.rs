//! Messages by one client and a queue a partition: where those of one wait for those of another.
//!
//! A client with one queue for all says of the end of a partition only its number, not of which topic.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, OwnedMessage};

use crate::format::Payload;
use crate::topic::hold::{Held, Hold, NoBoundary};
use crate::topic::{Headers, Message, TopicPartition};

use super::client::Context;

/// A client, and the partitions that it reads.
pub struct Inlet {
    consumer: Arc<BaseConsumer<Context>>,
    partitions: Vec<Partition>,
    bell: Arc<Bell>,
    /// Which of them is asked first.
    first: usize,
}

struct Partition {
    topic: String,
    of: TopicPartition,
    queue: PartitionQueue<Context>,
    is_paused: bool,
}

/// Rings when there is something in a queue that was empty.
#[derive(Default)]
struct Bell {
    has_rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.has_rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.rings.notify_one();
    }

    fn wait(&self, patience: Duration) {
        let has_rung = self.has_rung.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut has_rung, _) = self
            .rings
            .wait_timeout_while(has_rung, patience, |has_rung| !*has_rung)
            .unwrap_or_else(PoisonError::into_inner);
        *has_rung = false;
    }
}

impl Inlet {
    /// Of a client that reads nothing yet.
    #[must_use]
    pub fn new(consumer: Arc<BaseConsumer<Context>>) -> Inlet {
        Inlet { consumer, partitions: Vec::new(), bell: Arc::default(), first: 0 }
    }

    /// The client.
    #[must_use]
    pub fn consumer(&self) -> &BaseConsumer<Context> {
        &self.consumer
    }

    /// Gives a partition a queue of its own; to be called before it is assigned.
    pub fn add(&mut self, topic: &str, of: TopicPartition) {
        if let Some(mut queue) = self.consumer.split_partition_queue(topic, of.number) {
            let bell = Arc::clone(&self.bell);
            queue.set_nonempty_callback(move || bell.ring());
            self.partitions.push(Partition { topic: topic.to_owned(), of, queue, is_paused: false });
        }
    }

    /// Takes what has come to where it waits, up to so many messages and bytes; waits a little if nothing has. What
    /// the client complains of is returned.
    ///
    /// # Errors
    /// When the topic of transactions has something else.
    pub fn take(
        &mut self,
        to: &mut dyn Hold<Kept>,
        (messages_max, bytes_max): (usize, usize),
        patience: Duration,
    ) -> Result<Option<KafkaError>, NoBoundary> {
        if let Some(Err(error)) = self.consumer.poll(Duration::ZERO) {
            return Ok(Some(error));
        }
        let count = self.partitions.len().max(1);
        let (mut messages, mut bytes, mut has_any) = (0, 0, false);
        for place in 0..self.partitions.len() {
            let partition = &self.partitions[(self.first + place) % count];
            // Each has its share, so that none waits for another that has much.
            let share = messages + (messages_max / count).max(16);
            while messages < share && bytes < bytes_max {
                match partition.queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        messages += 1;
                        bytes += message.payload_len() + message.key_len();
                        to.take(Kept { partition: partition.of, message: message.detach() })?;
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => to.at_end(partition.of),
                    Some(Err(error)) => return Ok(Some(error)),
                    None => break,
                }
                has_any = true;
            }
        }
        self.first = (self.first + 1) % count;
        let error = self.pause(to);
        if !has_any {
            self.bell.wait(patience);
        }
        Ok(error)
    }

    /// Reads partitions no further of which enough is held, and those again of which it is not.
    fn pause(&mut self, held: &dyn Hold<Kept>) -> Option<KafkaError> {
        let mut error = None;
        for partition in &mut self.partitions {
            let is_full = held.is_full(partition.of);
            if is_full == partition.is_paused {
                continue;
            }
            let mut list = TopicPartitionList::new();
            list.add_partition(&partition.topic, partition.of.number);
            let done = if is_full { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
            match done {
                Ok(()) => partition.is_paused = is_full,
                Err(failed) => error = Some(failed),
            }
        }
        error
    }
}

/// A message that is kept.
pub struct Kept {
    partition: TopicPartition,
    message: OwnedMessage,
}

impl Held for Kept {
    fn view(&self) -> Message<'_> {
        view(&self.message, self.partition)
    }
}

/// A message of librdkafka's, whoever's memory it is in.
pub fn view<M: rdkafka::Message + Headers>(message: &M, partition: TopicPartition) -> Message<'_> {
    Message {
        partition,
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        payload: Payload { key: message.key(), value: message.payload() },
        headers: message,
    }
}

fn each_header(message: &impl rdkafka::Message, take: &mut dyn FnMut(&str, Option<&[u8]>)) {
    for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
        take(header.key, header.value);
    }
}

impl Headers for OwnedMessage {
    fn each(&self, take: &mut dyn FnMut(&str, Option<&[u8]>)) {
        each_header(self, take);
    }
}

impl Headers for BorrowedMessage<'_> {
    fn each(&self, take: &mut dyn FnMut(&str, Option<&[u8]>)) {
        each_header(self, take);
    }
}
