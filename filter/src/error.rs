//! What is wrong with a filter, and where.

use std::fmt;

/// A filter that can't be taken. Prints as `where._or[1].total._gt: numeric(10,2) looks like "123.45"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    /// The part that is wrong, such as `where._or[1].total._gt`; empty for a part of a [`crate::Template`], whose
    /// place in a file the caller knows.
    pub path: String,
    /// What is wrong with it, and what to write instead. A few hundred bytes at most, whatever the filter holds.
    pub message: String,
}

impl FilterError {
    pub(crate) fn new(path: &str, message: impl Into<String>) -> FilterError {
        FilterError { path: shortened(path, PATH_SHOWN_CHARS_MAX), message: message.into() }
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

impl std::error::Error for FilterError {}

/// What a client wrote, for showing it: its beginning when it is long.
pub(crate) fn shown(text: &str) -> String {
    shortened(text, SHOWN_CHARS_MAX)
}

fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The candidate most like `name`, where one is near enough to have been meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A longer name is nobody's slip, and would make the distance costly.
    if name.len() > SHOWN_CHARS_MAX {
        return None;
    }
    let name = name.to_lowercase();
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= SHOWN_CHARS_MAX)
        .map(|candidate| (edit_distance(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and changes of a character that lead from `a` to `b` (Wagner and Fischer, one row).
fn edit_distance(a: &str, b: &str) -> usize {
    let mut distances: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut distances[0], i + 1);
        for (j, to) in b.chars().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = distances[j + 1];
            distances[j + 1] = changed.min(diagonal + 1).min(distances[j] + 1);
        }
    }
    distances[b.chars().count()]
}

const SHOWN_CHARS_MAX: usize = 64;
const PATH_SHOWN_CHARS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_where_one_is_near() {
        let columns = ["id", "total", "status", "created_at"];
        for (name, expected) in [
            ("totl", Some("total")),
            ("Total", Some("total")),
            ("created", Some("created_at")),
            ("createdat", Some("created_at")),
            ("x", None),
            ("statsu", Some("status")),
        ] {
            assert_eq!(nearest(name, columns), expected, "{name}");
        }
        assert_eq!(nearest(&"total".repeat(1_000_000), columns), None);
    }

    #[test]
    fn names_are_as_far_apart_as_it_takes_to_mend_them() {
        for (one, other, distance) in
            [("", "", 0), ("", "abc", 3), ("total", "total", 0), ("kitten", "sitting", 3), ("at", "created_at", 8)]
        {
            assert_eq!((edit_distance(one, other), edit_distance(other, one)), (distance, distance), "{one} {other}");
        }
    }

    #[test]
    fn long_things_are_shown_by_their_beginning() {
        assert_eq!(shown(&"é".repeat(1_000)), format!("{}…", "é".repeat(64)));
        assert_eq!(shown("short"), "short");
        assert_eq!(FilterError::new(&"x".repeat(10_000), "no").to_string().len(), 256 + "…: no".len());
    }
}
