//! Which projections may be shown: those all of whose tables have been copied once.
//!
//! A table that has been copied stays so: while its source is lost, what was read before is served.

use std::collections::BTreeSet;

use pipeline::TableId;

/// What projections wait for.
pub struct Readiness {
    loaded: BTreeSet<TableId>,
    /// Projections that can't be shown yet, by their place, each with the tables that are missing.
    waiting: Vec<(usize, BTreeSet<TableId>)>,
    projections: usize,
}

impl Readiness {
    /// Projections in their order, with the tables that each reads, none of them copied.
    pub fn new(projections: Vec<BTreeSet<TableId>>) -> Readiness {
        let count = projections.len();
        Readiness {
            loaded: BTreeSet::new(),
            waiting: projections.into_iter().enumerate().collect(),
            projections: count,
        }
    }

    /// These tables have been copied.
    pub fn load(&mut self, tables: &[TableId]) {
        for table in tables {
            if self.loaded.insert(*table) {
                for (_, missing) in &mut self.waiting {
                    missing.remove(table);
                }
            }
        }
    }

    /// Whether a table has been copied.
    pub fn is_loaded(&self, table: TableId) -> bool {
        self.loaded.contains(&table)
    }

    /// Whether any projection has been shown or may be.
    pub fn any(&self) -> bool {
        self.waiting.len() < self.projections || self.waiting.iter().any(|(_, missing)| missing.is_empty())
    }

    /// Whether no projection waits.
    pub fn all(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Projections that may be shown from here on, and could not before.
    pub fn take_new(&mut self) -> Vec<usize> {
        self.waiting.extract_if(.., |(_, missing)| missing.is_empty()).map(|(place, _)| place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projection_waits_for_its_own_tables_only() {
        let of = |tables: &[usize]| tables.iter().copied().map(TableId).collect::<BTreeSet<TableId>>();
        let mut readiness = Readiness::new(vec![of(&[0, 1]), of(&[1]), of(&[2])]);
        assert!(!readiness.any() && readiness.take_new().is_empty());
        readiness.load(&[TableId(1)]);
        assert!(readiness.any() && readiness.is_loaded(TableId(1)) && !readiness.is_loaded(TableId(0)));
        assert_eq!(readiness.take_new(), [1]);
        assert!(readiness.any() && !readiness.all() && readiness.take_new().is_empty());
        readiness.load(&[TableId(0), TableId(1), TableId(2)]);
        assert_eq!(readiness.take_new(), [0, 2]);
        assert!(readiness.all());
    }
}
