//! What changes about a topic while it is read.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;

use super::client::{ANSWER_TIMEOUT, Context};
use super::describe::{Topic, describe};

/// How often the topic is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// Partitions whose ends are asked for, for the lag: each is a question of its own.
const ENDS_MAX: usize = 256;

/// Looks at a topic from a thread of its own, until it is dropped.
pub struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Seen>,
    wake: Condvar,
}

/// What was seen last.
#[derive(Default)]
struct Seen {
    /// Not taken yet by whoever reads.
    news: Option<Result<Topic, KafkaError>>,
    ends: BTreeMap<i32, i64>,
    look_now: bool,
    is_over: bool,
}

impl Watch {
    /// Looks at a topic through this client.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(consumer: Arc<BaseConsumer<Context>>, topic: String) -> std::io::Result<Watch> {
        let shared = Arc::new(Shared { seen: Mutex::default(), wake: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().name(format!("watch {topic}")).spawn(move || of_thread.run(&consumer, &topic))?;
        Ok(Watch { shared })
    }

    /// What was seen since this was last asked.
    #[must_use]
    pub fn news(&self) -> Option<Result<Topic, KafkaError>> {
        self.lock().news.take()
    }

    /// Where partitions were last seen to end.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<i32, i64> {
        self.lock().ends.clone()
    }

    /// Looks at once, since something is not as it was.
    pub fn look_now(&self) {
        self.lock().look_now = true;
        self.shared.wake.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.lock().is_over = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn run(&self, consumer: &BaseConsumer<Context>, topic: &str) {
        loop {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut seen, _) = self
                .wake
                .wait_timeout_while(seen, INTERVAL, |seen| !seen.look_now && !seen.is_over)
                .unwrap_or_else(PoisonError::into_inner);
            if seen.is_over {
                return;
            }
            seen.look_now = false;
            drop(seen);
            let described = describe(consumer, topic, ANSWER_TIMEOUT);
            let mut ends = BTreeMap::new();
            if let Ok(found) = &described {
                for &partition in found.partitions.iter().take(ENDS_MAX) {
                    if let Ok((_, end)) = consumer.fetch_watermarks(topic, partition, ANSWER_TIMEOUT) {
                        ends.insert(partition, end);
                    }
                }
            }
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.news = Some(described);
            seen.ends = ends;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::client::Cluster;
    use std::sync::mpsc;

    fn watch() -> Watch {
        Watch { shared: Arc::new(Shared { seen: Mutex::default(), wake: Condvar::new() }) }
    }

    #[test]
    fn news_is_told_once_and_ends_stay() {
        let watch = watch();
        assert!(watch.news().is_none());
        assert!(watch.ends().is_empty());
        watch.lock().news = Some(Ok(Topic { id: None, partitions: vec![0, 1] }));
        watch.lock().ends = [(1, 7)].into();
        assert_eq!(watch.news().and_then(Result::ok).map(|topic| topic.partitions), Some(vec![0, 1]));
        assert!(watch.news().is_none(), "it was told");
        assert_eq!((watch.ends(), watch.ends()), ([(1, 7)].into(), [(1, 7)].into()));
    }

    #[test]
    fn who_watches_waits_until_it_is_to_look_or_to_end() {
        let consumer =
            Cluster { brokers: "127.0.0.1:1".to_owned(), properties: [("group.id".into(), "g".into())].into() }
                .consumer()
                .expect("librdkafka takes it");
        let watch = watch();
        let (of_thread, (ended, has_ended)) = (Arc::clone(&watch.shared), mpsc::channel());
        thread::spawn(move || {
            of_thread.run(&consumer, "t");
            ended.send(())
        });
        assert!(has_ended.recv_timeout(INTERVAL / 10).is_err(), "it ends when it is told to");
        drop(watch);
        assert_eq!(has_ended.recv_timeout(INTERVAL / 2), Ok(()), "and at once");
    }

    #[test]
    fn it_is_to_look_when_it_is_told_to() {
        let watch = watch();
        watch.look_now();
        assert!(watch.lock().look_now);
    }
}
