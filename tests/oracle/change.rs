//! A program whose queries change while it runs.
//!
//! It is given one subset of the queries after another, and must at each epoch serve of those that
//! it has what a program serves that had them from the beginning.

use std::collections::BTreeMap;

use fastrand::Rng;
use pipeline::{Changes, Program, ProjectionId, TableId};
use sql::Diagnostics;

use crate::batch::{Counts, show};
use crate::check::{Live, parts_of, project_of};
use crate::generate::{Query, TABLES};

pub struct Changing<'a> {
    queries: &'a [Query],
    seed: u64,
    program: Program,
    /// The queries that it has now: each one's place in the program, and what it served.
    served: BTreeMap<usize, (ProjectionId, Counts)>,
}

impl<'a> Changing<'a> {
    /// A program of the first query alone.
    pub fn new(queries: &'a [Query], seed: u64) -> Changing<'a> {
        let mut program = Changing { queries, seed, program: Program::default(), served: BTreeMap::new() };
        program.become_of(&[0]);
        program
    }

    /// Takes on some of the queries, by chance, and lets go of the others.
    pub fn change(&mut self, rng: &mut Rng) {
        let wanted: Vec<usize> = (0..self.queries.len()).filter(|_| rng.bool()).collect();
        self.become_of(if wanted.is_empty() { &[0] } else { &wanted });
    }

    fn become_of(&mut self, wanted: &[usize]) {
        let of: Vec<(usize, &Query)> = wanted.iter().map(|&i| (i, &self.queries[i])).collect();
        let (project, shapes) = project_of(&of, self.seed);
        let mut wrong = Diagnostics::default();
        let description = sql::describe(&project, &shapes, &mut wrong);
        assert!(wrong.is_empty(), "seed {}: {wrong}", self.seed);
        self.program.reconcile(description.dataflow).expect("another dataflow");
        let mut before = std::mem::take(&mut self.served);
        for &i in wanted {
            let id = self.program.projection_id(&format!("v{i}")).expect("a projection that was asked for");
            // One that stays goes on; one that comes back begins anew.
            let rows = before.remove(&i).filter(|(was, _)| *was == id).map_or_else(Counts::new, |(_, rows)| rows);
            self.served.insert(i, (id, rows));
        }
    }

    pub fn apply(&mut self, steps: &[Vec<(usize, Changes)>]) {
        for step in steps {
            let table = |table: usize| self.program.table_id(TABLES[table].0).expect("all tables stay");
            let step: Vec<(TableId, Changes)> =
                step.iter().map(|(at, changes)| (table(*at), changes.clone())).collect();
            self.program.apply(&step).expect("data never fails a step");
        }
    }

    /// Ends an epoch, and compares with a program that had all queries from the beginning.
    pub fn publish(&mut self, other: &Live, story: &str) {
        for (id, published) in self.program.publish().expect("an epoch") {
            let (_, rows) = self.served.values_mut().find(|(known, _)| *known == id).expect("a projection that it has");
            for part in parts_of(published).into_iter().flatten() {
                for (row, weight) in show(&part.batch).into_iter().zip(&part.weights) {
                    *rows.entry(row).or_default() += weight;
                }
            }
            rows.retain(|_, count| *count != 0);
        }
        for (i, (id, rows)) in self.served.iter().filter(|(i, _)| !other.in_conflict[**i]) {
            assert_eq!(*rows, other.rows[*i], "{story}\n{}\n{}", self.queries[*i].live(), self.program.explain(*id));
        }
    }
}
