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
        text.split_once('/').and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?))).ok_or_else(|| BadLsn(text.to_owned()))
    }
}

/// How far one source has been read, in the source's own terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// End of the last transaction applied from a Postgres log.
    Lsn(Lsn),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Lsn(lsn) => lsn.fmt(f),
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
    fn an_lsn_that_is_none_is_refused() {
        for text in ["", "16B3748", "0/xyz", "0/1FFFFFFFF", "-1/0"] {
            assert_eq!(text.parse::<Lsn>(), Err(BadLsn(text.to_owned())));
        }
    }
}
