//! Names of subplans that outlive the process.
//!
//! A fingerprint is a digest of what a node does and of the fingerprints of what it reads: equal
//! subplans have equal ones on every machine and in every run, so that a changed program knows what
//! it has, and state is found again after a restart.

use std::fmt;

/// The first 128 bits of a BLAKE3 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Puts a fingerprint together. Every part is preceded by its length, so that no two lists of parts
/// are the same bytes.
///
/// ```
/// use pipeline::Fingerprinter;
/// let of = |parts: &[&str]| parts.iter().fold(Fingerprinter::new("filter"), |to, part| to.text(part)).finish();
/// assert_eq!(of(&["a > 1"]), of(&["a > 1"]));
/// assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
/// ```
pub struct Fingerprinter(blake3::Hasher);

impl Fingerprinter {
    /// Begins with what kind of node it is.
    #[must_use]
    pub fn new(kind: &str) -> Fingerprinter {
        Fingerprinter(blake3::Hasher::new()).text(kind)
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Fingerprinter {
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, number: usize) -> Fingerprinter {
        self.0.update(&(number as u64).to_le_bytes());
        self
    }

    /// Adds a list of numbers.
    #[must_use]
    pub fn numbers(self, numbers: &[usize]) -> Fingerprinter {
        numbers.iter().fold(self.number(numbers.len()), |to, &number| to.number(number))
    }

    /// Adds another node's fingerprint.
    #[must_use]
    pub fn node(mut self, of: Fingerprint) -> Fingerprinter {
        self.0.update(&of.0.to_le_bytes());
        self
    }

    /// The fingerprint of all that.
    #[must_use]
    pub fn finish(&self) -> Fingerprint {
        let digest = self.0.finalize();
        let (first, _) = digest.as_bytes().split_first_chunk::<16>().expect("a digest has 32 bytes");
        Fingerprint(u128::from_le_bytes(*first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same on every machine and in every run: a change of this value makes all written state
    /// unreadable, and must raise the format's version.
    #[test]
    fn a_fingerprint_is_for_ever() {
        let of = Fingerprinter::new("filter").text("a > 1").numbers(&[1, 2]).node(Fingerprint(3)).finish();
        assert_eq!(of.to_string(), "34c1090a6f289aded18cd9439f603e04");
    }
}
