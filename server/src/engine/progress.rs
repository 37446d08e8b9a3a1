//! How far each source has been read, in the engine's books.

use std::sync::Arc;

use pipeline::Mark;
use push::hub::Stamp;

/// The positions of all sources, and the epoch that they belong to.
pub struct Progress {
    sources: Vec<SourceProgress>,
    stamp: Stamp,
    has_moved: bool,
}

struct SourceProgress {
    name: Arc<str>,
    /// What went through the program. `None` until its first copy is done.
    applied: Option<Mark>,
    /// The source has been told that this is durable.
    confirmed: Option<Mark>,
}

impl SourceProgress {
    /// What is there after a restart, whatever happens. Nothing survives one yet: tables are copied
    /// anew then, and no source is asked for what it told before. So what is applied is as good as
    /// durable. With checkpoints this is the position of the newest one, and nothing else changes.
    fn durable(&self) -> Option<&Mark> {
        self.applied.as_ref()
    }
}

impl Progress {
    /// Sources of these names, nothing of which has been read.
    pub fn new(names: Vec<Arc<str>>) -> Progress {
        let sources = names.into_iter().map(|name| SourceProgress { name, applied: None, confirmed: None }).collect();
        Progress { sources, stamp: Stamp::default(), has_moved: false }
    }

    /// A source has been read up to here. The time is in microseconds since 1970 UTC.
    pub fn moved(&mut self, source: usize, position: Mark, commit_time: i64) {
        let source = &mut self.sources[source];
        self.stamp.position.marks.insert(Arc::clone(&source.name), position.clone());
        source.applied = Some(position);
        self.stamp.commit_time = self.stamp.commit_time.max(commit_time);
        self.has_moved = true;
    }

    /// Sources that may forget more than they have been told, with how far.
    pub fn newly_durable(&mut self) -> Vec<(usize, Mark)> {
        let mut newly = Vec::new();
        for (i, source) in self.sources.iter_mut().enumerate() {
            if source.confirmed.as_ref() != source.durable()
                && let Some(mark) = source.durable().cloned()
            {
                source.confirmed = Some(mark.clone());
                newly.push((i, mark));
            }
        }
        newly
    }

    /// Whether there is something that the last epoch did not have.
    pub fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// Begins the next epoch and returns where the one that ends stands.
    pub fn end_epoch(&mut self) -> Stamp {
        self.has_moved = false;
        self.stamp.epoch = self.stamp.epoch.next();
        self.stamp.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipeline::{Epoch, Lsn};

    #[test]
    fn what_is_durable_is_told_once_and_an_epoch_has_all_positions() {
        let mut progress = Progress::new(vec!["shop".into(), "stock".into()]);
        assert!(!progress.has_moved() && progress.newly_durable().is_empty());
        progress.moved(1, Mark::Lsn(Lsn(7)), 30);
        progress.moved(1, Mark::Lsn(Lsn(8)), 20);
        assert_eq!(progress.newly_durable(), [(1, Mark::Lsn(Lsn(8)))]);
        assert!(progress.newly_durable().is_empty());
        let stamp = progress.end_epoch();
        assert_eq!((stamp.epoch, stamp.commit_time), (Epoch(1), 30));
        assert!(!progress.has_moved());
        progress.moved(0, Mark::Lsn(Lsn(1)), 40);
        let stamp = progress.end_epoch();
        let marks: Vec<(&str, String)> =
            stamp.position.marks.iter().map(|(name, mark)| (&**name, mark.to_string())).collect();
        assert_eq!((stamp.epoch, marks), (Epoch(2), vec![("shop", "0/1".to_owned()), ("stock", "0/8".to_owned())]));
    }
}
