//! What is not known of a row, because an expression failed.
//!
//! A value that fails (`1/0`, a bad cast, an overflow) is not NULL: it is some value that nobody
//! can tell. So a row may carry a *fault*: which of its columns failed, and whether the row is
//! there at all, which is in *doubt* when its filter or its join key failed. Operators carry faults
//! on by the rules of three-valued reasoning: what they emit without a fault is right whatever the
//! failed values were. Faulty rows are withheld from clients, and listed; they come and go with
//! weights like any other, so that they heal when their cause goes.
//!
//! Where nothing failed, which is nearly always, no delta has a fault column and no row in state
//! is a byte wider.

use std::fmt;
use std::sync::Arc;

/// Causes that one fault repeats; the rest would tell nobody more.
pub(crate) const CAUSES_MAX: usize = 4;

/// Why something failed, and at which row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cause {
    /// Such as `Divide by zero error`.
    pub reason: Arc<str>,
    /// The row at which it failed, such as `id = 7`; empty where no single row is at fault.
    pub at: Arc<str>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_empty() { f.write_str(&self.reason) } else { write!(f, "{} ({})", self.reason, self.at) }
    }
}

/// What is not known of a row.
///
/// ```
/// use pipeline::fault::{Cause, Fault};
///
/// let cause = Cause { reason: "Divide by zero error".into(), at: "id = 7".into() };
/// let fault = Fault::of_columns(vec![2], cause);
/// assert_eq!(fault.to_string(), "Divide by zero error (id = 7)");
/// assert!(fault.has_failed(2) && !fault.doubt);
/// // Who shows only the first two columns knows all of the row.
/// assert_eq!(fault.of_view([0, 1].into_iter()), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fault {
    /// Whether the row itself may not be there.
    pub doubt: bool,
    /// Columns whose value is not known, ascending. Their place in the batch holds NULL.
    pub failed: Vec<usize>,
    /// Why, ascending, at most four.
    pub causes: Vec<Cause>,
}

/// A fault per row of a delta, where any row has one.
pub type Faults = Vec<Option<Arc<Fault>>>;

impl Fault {
    /// These columns failed.
    #[must_use]
    pub fn of_columns(failed: Vec<usize>, cause: Cause) -> Fault {
        Fault { doubt: false, failed, causes: vec![cause] }
    }

    /// The row may not be there, for this reason.
    #[must_use]
    pub fn doubt(cause: Cause) -> Fault {
        Fault { doubt: true, failed: Vec::new(), causes: vec![cause] }
    }

    /// A row that stands for all rows that may be there: nothing of it is known.
    #[must_use]
    pub fn anything(columns: usize, causes: Vec<Cause>) -> Fault {
        let mut fault = Fault { doubt: true, failed: (0..columns).collect(), causes };
        fault.settle();
        fault
    }

    /// Whether the value of `column` is not known.
    #[must_use]
    pub fn has_failed(&self, column: usize) -> bool {
        self.failed.binary_search(&column).is_ok()
    }

    /// Takes the other's doubt, failed columns and causes too.
    pub fn add(&mut self, other: &Fault) {
        self.doubt |= other.doubt;
        self.failed.extend_from_slice(&other.failed);
        self.causes.extend_from_slice(&other.causes);
        self.settle();
    }

    /// The same fault of a row with other columns: `places` tells for each new column the old one.
    /// `None` when nothing unknown is left.
    #[must_use]
    pub fn of_view(&self, places: impl Iterator<Item = usize>) -> Option<Fault> {
        let failed: Vec<usize> =
            places.enumerate().filter(|&(_, old)| self.has_failed(old)).map(|(new, _)| new).collect();
        (self.doubt || !failed.is_empty()).then(|| Fault { doubt: self.doubt, failed, causes: self.causes.clone() })
    }

    /// One form for equal faults, whatever order they were put together in: faults are compared
    /// by their bytes.
    fn settle(&mut self) {
        self.failed.sort_unstable();
        self.failed.dedup();
        self.causes.sort_unstable();
        self.causes.dedup();
        self.causes.truncate(CAUSES_MAX);
    }

    /// Appends the fault's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let number =
            |out: &mut Vec<u8>, n: usize| out.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
        out.push(u8::from(self.doubt));
        number(out, self.failed.len());
        self.failed.iter().for_each(|&column| number(out, column));
        number(out, self.causes.len());
        for cause in &self.causes {
            for text in [&cause.reason, &cause.at] {
                number(out, text.len());
                out.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// Reads what [`Fault::write`] wrote; `None` when it did not.
    pub(crate) fn read(bytes: &[u8]) -> Option<Fault> {
        fn number(rest: &mut &[u8]) -> Option<usize> {
            let (number, after) = rest.split_first_chunk::<4>()?;
            *rest = after;
            usize::try_from(u32::from_le_bytes(*number)).ok()
        }
        fn text(rest: &mut &[u8]) -> Option<Arc<str>> {
            let length = number(rest)?;
            let (text, after) = rest.split_at_checked(length)?;
            *rest = after;
            std::str::from_utf8(text).ok().map(Arc::from)
        }
        let (&doubt, mut rest) = bytes.split_first()?;
        let failed = (0..number(&mut rest)?).map(|_| number(&mut rest)).collect::<Option<_>>()?;
        let causes = (0..number(&mut rest)?)
            .map(|_| Some(Cause { reason: text(&mut rest)?, at: text(&mut rest)? }))
            .collect::<Option<_>>()?;
        Some(Fault { doubt: doubt != 0, failed, causes })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let causes: Vec<String> = self.causes.iter().map(ToString::to_string).collect();
        f.write_str(&causes.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(reason: &str) -> Cause {
        Cause { reason: reason.into(), at: "id = 1".into() }
    }

    #[test]
    fn equal_faults_have_equal_bytes_however_they_came_about() {
        let bytes = |fault: &Fault| {
            let mut out = Vec::new();
            fault.write(&mut out);
            assert_eq!(Fault::read(&out).as_ref(), Some(fault));
            out
        };
        let (a, b) = (Fault::of_columns(vec![2], cause("a")), Fault::doubt(cause("b")));
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.add(&b);
        ba.add(&a);
        assert_eq!(bytes(&ab), bytes(&ba));
        assert!(ab.doubt && ab.has_failed(2) && !ab.has_failed(1));
        assert_ne!(bytes(&a), bytes(&ab));
    }

    #[test]
    fn only_the_least_causes_are_kept() {
        let mut fault = Fault::doubt(cause("9"));
        ["3", "1", "2", "1", "7", "5"].iter().for_each(|reason| fault.add(&Fault::doubt(cause(reason))));
        assert_eq!(fault.to_string(), "1 (id = 1); 2 (id = 1); 3 (id = 1); 5 (id = 1)");
    }

    #[test]
    fn a_fault_goes_with_the_column_that_failed() {
        let fault = Fault::of_columns(vec![1], cause("a"));
        assert_eq!(fault.of_view([0, 2].into_iter()), None);
        assert_eq!(fault.of_view([2, 1, 1].into_iter()).map(|fault| fault.failed), Some(vec![1, 2]));
        assert!(Fault::doubt(cause("a")).of_view([0].into_iter()).is_some());
    }

    #[test]
    fn cut_bytes_are_refused() {
        let mut out = Vec::new();
        Fault::of_columns(vec![1], cause("a")).write(&mut out);
        assert!((0..out.len()).all(|end| Fault::read(&out[..end]).is_none()));
    }
}
