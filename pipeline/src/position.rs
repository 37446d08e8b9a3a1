//! Epochs, and how far each source has been read.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// One step of the engine as clients see it: what becomes visible at once. Counted from 1;
/// 0 is "nothing yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A byte position in the Postgres log. Prints as Postgres prints it, and parses the same:
///
/// ```
/// use pipeline::Lsn;
/// assert_eq!(Lsn(0x1_016B_3748).to_string(), "1/16B3748");
/// assert_eq!("1/16B3748".parse(), Ok(Lsn(0x1_016B_3748)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is not two hexadecimal numbers with a slash between them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an LSN such as 0/16B3748")]
pub struct BadLsn(pub String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Lsn, BadLsn> {
        let half = |part: &str| u32::from_str_radix(part, 16).ok().map(u64::from);
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| BadLsn(text.to_owned()))
    }
}

/// How far topics have been read: the offset of the next message, by topic and partition. A
/// partition that has not been looked at is not in it. Topics have no `/`, `:`, `,` or `;` in
/// their names.
///
/// ```
/// use pipeline::position::Offsets;
/// let offsets = Offsets::from_iter([("orders", 0, 42), ("orders", 1, 7), ("payments", 0, 3)]);
/// assert_eq!(offsets.to_string(), "orders/0:42,1:7;payments/0:3");
/// assert_eq!("orders/0:42,1:7;payments/0:3".parse(), Ok(offsets));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets(pub BTreeMap<Arc<str>, BTreeMap<i32, i64>>);

impl<'a> FromIterator<(&'a str, i32, i64)> for Offsets {
    fn from_iter<I: IntoIterator<Item = (&'a str, i32, i64)>>(offsets: I) -> Offsets {
        let mut all = Offsets::default();
        for (topic, partition, offset) in offsets {
            all.0.entry(Arc::from(topic)).or_default().insert(partition, offset);
        }
        all
    }
}

impl fmt::Display for Offsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (topic, partitions)) in self.0.iter().enumerate() {
            write!(f, "{}{topic}/", if i == 0 { "" } else { ";" })?;
            for (i, (partition, offset)) in partitions.iter().enumerate() {
                write!(f, "{}{partition}:{offset}", if i == 0 { "" } else { "," })?;
            }
        }
        Ok(())
    }
}

/// A text that is not a list of topics with the offsets of their partitions.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no list of offsets such as orders/0:42,1:7")]
pub struct BadOffsets(pub String);

impl FromStr for Offsets {
    type Err = BadOffsets;

    fn from_str(text: &str) -> Result<Offsets, BadOffsets> {
        let one = |part: &str| {
            let (partition, offset) = part.split_once(':')?;
            Some((partition.parse().ok()?, offset.parse().ok()?))
        };
        let of_topic = |part: &str| {
            let (topic, partitions) = part.split_once('/')?;
            let partitions = partitions.split(',').filter(|part| !part.is_empty());
            Some((Arc::from(topic), partitions.map(one).collect::<Option<_>>()?))
        };
        let topics = text.split(';').filter(|part| !part.is_empty());
        topics.map(of_topic).collect::<Option<_>>().map(Offsets).ok_or_else(|| BadOffsets(text.to_owned()))
    }
}

/// How far one source has been read, in the source's own terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// End of the last transaction applied from a Postgres log.
    Lsn(Lsn),
    /// The next message of each partition of the topics of a log.
    Offsets(Offsets),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Lsn(lsn) => lsn.fmt(f),
            Mark::Offsets(offsets) => offsets.fmt(f),
        }
    }
}

/// How far every source has been read: what an epoch stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// By the source's name.
    pub marks: BTreeMap<Arc<str>, Mark>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_as_they_are_written() {
        assert_eq!((Epoch(3).next(), Epoch(3).to_string()), (Epoch(4), "3".to_owned()));
        assert_eq!(
            (Lsn(0x1_016B_3748).to_string(), "1/16B3748".parse()),
            ("1/16B3748".to_owned(), Ok(Lsn(0x1_016B_3748)))
        );
        let offsets = Offsets::from_iter([("a.b", 0, 42), ("a.b", 1, 7), ("c", 3, 0)]);
        assert_eq!(
            (offsets.to_string(), "a.b/0:42,1:7;c/3:0".parse()),
            ("a.b/0:42,1:7;c/3:0".to_owned(), Ok(offsets.clone()))
        );
        assert_eq!(Mark::Lsn(Lsn(0x16B_3748)).to_string(), "0/16B3748");
        assert_eq!(Mark::Offsets(offsets).to_string(), "a.b/0:42,1:7;c/3:0");
    }

    #[test]
    fn an_lsn_that_is_none_is_refused() {
        for text in ["", "16B3748", "0/xyz", "0/1FFFFFFFF", "-1/0"] {
            assert_eq!(text.parse::<Lsn>(), Err(BadLsn(text.to_owned())));
        }
    }

    #[test]
    fn offsets_that_are_none_are_refused() {
        assert_eq!("".parse(), Ok(Offsets::default()));
        for text in ["0:1", "a/0", "a/0:", "a/:1", "a/0:1;1:2", "a/b:1", "a/0:1,1"] {
            assert_eq!(text.parse::<Offsets>(), Err(BadOffsets(text.to_owned())));
        }
    }
}
