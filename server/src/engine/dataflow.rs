//! The program: what goes in, what comes out. All calls of it are here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use connectors::source::Room;
use pipeline::expr::Withheld;
use pipeline::program::StepError;
use pipeline::state::Size;
use pipeline::table::TableCopy;
use pipeline::{Changes, DiffPart, Program, ProjectionId, Published as ProjectionDiff, TableId};
use push::WithheldNow;
use push::hub::Publication;

use super::readiness::Readiness;

/// Withheld rows of a projection that people are shown.
const LISTED_ROWS_MAX: usize = 100;

/// What an epoch changes.
pub struct Published {
    /// In what is served.
    pub shown: Vec<(push::ProjectionId, Publication)>,
    /// In what is written elsewhere, by its place; or why it is not known.
    pub written: Vec<(usize, Result<Vec<DiffPart>, String>)>,
}

/// The program, and what waits to go through it.
pub struct Dataflow {
    program: Program,
    /// The program's tables, by source and place in the source.
    tables: Vec<Vec<TableId>>,
    /// Tables being copied, by source; empty for a source that copies nothing now.
    copies: Vec<Vec<TableCopy>>,
    projections: Vec<ProjectionId>,
    /// Where a projection of the program stands among those served; those that are written elsewhere
    /// stand behind them.
    places: HashMap<ProjectionId, usize>,
    readiness: Readiness,
    /// Taken in, and not yet sent through the program, with the room that it takes up.
    waiting: Vec<(TableId, Changes)>,
    waiting_rows: usize,
    rooms: Vec<Room>,
}

impl Dataflow {
    /// A program whose tables are those of the sources, whose projections are served in this order,
    /// and of which `sinks` are written elsewhere.
    pub fn new(
        program: Program,
        tables: Vec<Vec<TableId>>,
        projections: Vec<ProjectionId>,
        sinks: &[ProjectionId],
    ) -> Dataflow {
        let all = || projections.iter().chain(sinks);
        let read: Vec<BTreeSet<TableId>> = all().map(|id| program.tables_of(*id)).collect();
        Dataflow {
            program,
            copies: tables.iter().map(|_| Vec::new()).collect(),
            tables,
            places: all().enumerate().map(|(place, id)| (*id, place)).collect(),
            projections,
            readiness: Readiness::new(read),
            waiting: Vec::new(),
            waiting_rows: 0,
            rooms: Vec::new(),
        }
    }

    /// Changed rows that have been taken in and not sent through the program.
    pub fn waiting_rows(&self) -> usize {
        self.waiting_rows
    }

    /// A source begins to copy all of its tables, beside what is held.
    pub fn begin_copy(&mut self, source: usize) -> Result<(), StepError> {
        self.flush()?;
        self.copies[source] = self.tables[source].iter().map(|id| self.program.begin_copy(*id)).collect();
        Ok(())
    }

    /// Rows of a table being copied.
    pub fn copy(&mut self, source: usize, table: usize, rows: RecordBatch) -> Result<(), StepError> {
        self.program.copy(self.tables[source][table], &mut self.copies[source][table], rows)
    }

    /// A source has told all that there was. Where it copied, the copies are the tables' rows now.
    pub fn finish_copy(&mut self, source: usize) -> Result<(), StepError> {
        for (id, copy) in self.tables[source].iter().zip(std::mem::take(&mut self.copies[source])) {
            self.program.finish_copy(*id, copy)?;
        }
        self.readiness.load(&self.tables[source]);
        Ok(())
    }

    /// Changes of a transaction.
    pub fn take(&mut self, source: usize, changes: Vec<(usize, Changes)>, room: Room) {
        for (table, changes) in changes {
            let id = self.tables[source][table];
            self.waiting_rows += changes.ops.len();
            self.waiting.push((id, changes));
        }
        self.rooms.push(room);
    }

    /// Sends what was taken in through the program.
    pub fn flush(&mut self) -> Result<(), StepError> {
        if !self.waiting.is_empty() {
            self.program.apply(&std::mem::take(&mut self.waiting))?;
            self.waiting_rows = 0;
        }
        self.rooms.clear();
        Ok(())
    }

    /// Whether there is a projection that may be shown.
    pub fn shows_any(&self) -> bool {
        self.readiness.any()
    }

    /// Whether every projection has been shown.
    pub fn shows_all(&self) -> bool {
        self.readiness.all()
    }

    /// Ends an epoch: what changed in the projections that may be shown, by their place, and in what is
    /// written elsewhere. One that may be from now on is there even when it is empty.
    pub fn publish(&mut self) -> Result<Published, StepError> {
        let mut new: BTreeSet<usize> = self.readiness.take_new().into_iter().collect();
        let published = self.program.publish_where(|table| self.readiness.is_loaded(table))?;
        let mut out = Published { shown: Vec::with_capacity(published.len() + new.len()), written: Vec::new() };
        for (id, published) in published {
            let Some(&place) = self.places.get(&id) else { continue };
            new.remove(&place);
            let change = match published {
                ProjectionDiff::Diff(parts) => Ok(parts),
                ProjectionDiff::KeyConflict { key } => Err(format!("two rows have the declared key {key}")),
            };
            self.put(&mut out, place, change);
        }
        for place in new {
            self.put(&mut out, place, Ok(Vec::new()));
        }
        // In the order of their places, as the log wants them.
        out.shown.sort_by_key(|(place, _)| *place);
        Ok(out)
    }

    fn put(&self, out: &mut Published, place: usize, change: Result<Vec<DiffPart>, String>) {
        match place.checked_sub(self.projections.len()) {
            Some(sink) => out.written.push((sink, change)),
            None => {
                let publication = change.map_or_else(Publication::Failed, Publication::Diff);
                out.shown.push((push::ProjectionId(place), publication));
            }
        }
    }

    /// What is withheld in the projections where that changed, by their place.
    ///
    /// # Errors
    /// For mistakes of ours only.
    pub fn withheld_changed(&mut self) -> Result<Vec<(usize, WithheldNow)>, StepError> {
        let changed = self.program.withheld_changed();
        let is_shown = |place: &usize| *place < self.projections.len();
        let known = changed.into_iter().filter_map(|id| Some((*self.places.get(&id).filter(|&it| is_shown(it))?, id)));
        known
            .map(|(place, id)| {
                let Withheld { rows, reason } = self.program.withheld(id);
                let listed = self.program.withheld_rows(id, LISTED_ROWS_MAX)?.into();
                Ok((place, WithheldNow { rows, reason: reason.map(|reason| reason.0), listed }))
            })
            .collect()
    }

    /// Rows and bytes of every store, by what it is of, and each projection's operators with theirs.
    pub fn sizes(&self) -> (Vec<(String, Size)>, Vec<Arc<str>>) {
        (self.program.sizes(), self.projections.iter().map(|id| self.program.explain(*id).into()).collect())
    }
}
