//! Which views a changed row concerns.
//!
//! Views of one shape (`customer_id = ?`) are found by value, in an index: a row costs what it
//! matches, not what is connected. What is left of a predicate after that (`AND status = 'open'`)
//! is worked out once for all views that have it left, and so is a predicate that no index serves.

use std::sync::{Arc, Weak};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use filter::{IndexTerms, Predicate};
use hashbrown::HashMap;
use pipeline::row::RowCodec;

use crate::record::Record;
use crate::view::{Hit, Hits, View, hits_of};

/// The views of one projection, by what concerns them.
#[derive(Debug, Default)]
pub struct Router {
    /// Those that every change concerns.
    whole: HashMap<u64, Weak<View>>,
    shapes: Vec<Shape>,
    /// Those whose predicate no index serves, by their predicate.
    others: HashMap<Predicate, HashMap<u64, Weak<View>>>,
}

/// Views that compare the same columns with values of their own.
#[derive(Debug)]
struct Shape {
    columns: Vec<usize>,
    codec: RowCodec,
    by_value: HashMap<Box<[u8]>, Vec<Indexed>>,
}

#[derive(Debug)]
struct Indexed {
    id: u64,
    view: Weak<View>,
    /// What the row must be besides.
    residual: Option<Arc<Predicate>>,
}

impl Shape {
    /// The values that a predicate compares with, as keys of the index.
    fn keys(&self, schema: &SchemaRef, terms: &IndexTerms) -> Result<Vec<Box<[u8]>>, ArrowError> {
        let columns: Vec<usize> = (0..self.columns.len()).collect();
        let fields: Vec<_> =
            self.columns.iter().map(|&column| schema.field(column).clone().with_nullable(true)).collect();
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        let batch = RecordBatch::try_new(Arc::clone(&schema), terms.alternatives.clone())?;
        let keys = RowCodec::new(&schema, &columns)?.encode(&batch)?;
        Ok(keys.iter().map(Into::into).collect())
    }
}

impl Router {
    /// Adds a view.
    ///
    /// # Errors
    /// When its predicate is not of the projection's columns, which would be a mistake of ours.
    pub fn add(&mut self, view: &Arc<View>) -> Result<(), ArrowError> {
        let predicate = &view.spec.predicate;
        if predicate.is_all() {
            self.whole.insert(view.id, Arc::downgrade(view));
            return Ok(());
        }
        let Some(terms) = predicate.index_terms() else {
            self.others.entry(predicate.clone()).or_default().insert(view.id, Arc::downgrade(view));
            return Ok(());
        };
        let schema = &view.info.schema;
        let at = match self.shapes.iter().position(|shape| shape.columns == terms.columns) {
            Some(at) => at,
            None => {
                let codec = RowCodec::new(schema, &terms.columns)?;
                self.shapes.push(Shape { columns: terms.columns.clone(), codec, by_value: HashMap::new() });
                self.shapes.len() - 1
            }
        };
        let shape = &mut self.shapes[at];
        let keys = shape.keys(schema, &terms)?;
        let residual = (!terms.residual.is_all()).then(|| Arc::new(terms.residual));
        for key in keys {
            let indexed = Indexed { id: view.id, view: Arc::downgrade(view), residual: residual.clone() };
            shape.by_value.entry(key).or_default().push(indexed);
        }
        Ok(())
    }

    /// Takes out a view that is gone.
    pub fn remove(&mut self, id: u64, schema: &SchemaRef, predicate: &Predicate) {
        if predicate.is_all() {
            self.whole.remove(&id);
            return;
        }
        let Some(terms) = predicate.index_terms() else {
            if let Some(views) = self.others.get_mut(predicate) {
                views.remove(&id);
                if views.is_empty() {
                    self.others.remove(predicate);
                }
            }
            return;
        };
        let Some(at) = self.shapes.iter().position(|shape| shape.columns == terms.columns) else { return };
        let shape = &mut self.shapes[at];
        // They went in, so they have keys.
        for key in shape.keys(schema, &terms).unwrap_or_default() {
            if let Some(views) = shape.by_value.get_mut(&key) {
                views.retain(|indexed| indexed.id != id);
                if views.is_empty() {
                    shape.by_value.remove(&key);
                }
            }
        }
        if shape.by_value.is_empty() {
            self.shapes.swap_remove(at);
        }
    }

    /// The views that an epoch concerns, and which of its changes.
    ///
    /// # Errors
    /// When a predicate is not of the projection's columns, which would be a mistake of ours.
    pub fn route(&self, record: &Record) -> Result<Vec<(Arc<View>, Hits)>, ArrowError> {
        let mut found = Vec::new();
        if record.changes() == 0 {
            return Ok(found);
        }
        found.extend(self.whole.values().filter_map(|view| Some((view.upgrade()?, Hits::All))));
        for (predicate, views) in &self.others {
            let mut hits = Vec::new();
            for (part, held) in (0..).zip(&record.parts) {
                hits.extend(hits_of(part, &held.changes, &predicate.matches(&held.batch)?));
            }
            if hits.is_empty() {
                continue;
            }
            let hits: Arc<[Hit]> = hits.into();
            found.extend(views.values().filter_map(|view| Some((view.upgrade()?, Hits::Some(Arc::clone(&hits))))));
        }
        for shape in &self.shapes {
            shape.route(record, &mut found)?;
        }
        Ok(found)
    }

    /// How many views, and how many shapes serve them.
    #[cfg(test)]
    pub fn len(&self) -> (usize, usize) {
        let others: usize = self.others.values().map(HashMap::len).sum();
        (self.whole.len() + others, self.shapes.len())
    }
}

/// What one view has of an epoch so far.
struct Found {
    view: Arc<View>,
    hits: Vec<Hit>,
}

impl Shape {
    fn route(&self, record: &Record, found: &mut Vec<(Arc<View>, Hits)>) -> Result<(), ArrowError> {
        let mut by_view: HashMap<u64, Found> = HashMap::new();
        for (part, held) in (0..).zip(&record.parts) {
            let keys = self.codec.encode(&held.batch)?;
            let mut residuals = Residuals::new(&held.batch);
            let mut candidates = Vec::new();
            for (change, of) in (0..).zip(&held.changes) {
                for (row, is_new) in [(of.old, false), (of.new, true)] {
                    let Some(row) = row else { continue };
                    for indexed in self.by_value.get(keys.row(row as usize)).into_iter().flatten() {
                        let residual = indexed.residual.as_ref().map(|residual| residuals.ask(residual, row));
                        candidates.push((change, is_new, indexed, residual));
                    }
                }
            }
            let answers = residuals.answers()?;
            for (change, is_new, indexed, residual) in candidates {
                if residual.is_some_and(|asked| !answers.hold(asked)) {
                    continue;
                }
                let of_view = match by_view.entry(indexed.id) {
                    hashbrown::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                    hashbrown::hash_map::Entry::Vacant(entry) => {
                        let Some(view) = indexed.view.upgrade() else { continue };
                        entry.insert(Found { view, hits: Vec::new() })
                    }
                };
                match of_view.hits.last_mut() {
                    Some(last) if last.part == part && last.change == change => last.is |= is_new,
                    _ => of_view.hits.push(Hit { part, change, was: !is_new, is: is_new }),
                }
            }
        }
        found.extend(by_view.into_values().map(|Found { view, hits }| (view, Hits::Some(hits.into()))));
        Ok(())
    }
}

/// What is left of predicates, and the rows of a batch that it is asked of: of others only where that costs
/// less than picking these, since a batch may be large and concern somebody by one row.
struct Residuals<'a> {
    batch: &'a RecordBatch,
    places: HashMap<Arc<Predicate>, usize>,
    rows: Vec<Vec<u32>>,
}

impl<'a> Residuals<'a> {
    fn new(batch: &'a RecordBatch) -> Residuals<'a> {
        Residuals { batch, places: HashMap::new(), rows: Vec::new() }
    }

    fn ask(&mut self, residual: &Arc<Predicate>, row: u32) -> Asked {
        let place = *self.places.entry_ref(residual).or_insert_with(|| {
            self.rows.push(Vec::new());
            self.rows.len() - 1
        });
        let rows = &mut self.rows[place];
        if rows.last() != Some(&row) {
            rows.push(row);
        }
        Asked { place, at: rows.len() - 1, row: row as usize }
    }

    fn answers(mut self) -> Result<Answers, ArrowError> {
        let mut answers = vec![(BooleanBuffer::new_unset(0), false); self.rows.len()];
        for (residual, place) in self.places {
            let rows = std::mem::take(&mut self.rows[place]);
            let is_whole = self.batch.num_rows() <= PICKED_FROM_MIN.max(rows.len() * 4);
            let answer = if is_whole {
                residual.matches(self.batch)?
            } else {
                residual.matches(&take_record_batch(self.batch, &UInt32Array::from(rows))?)?
            };
            answers[place] = (answer, is_whole);
        }
        Ok(Answers(answers))
    }
}

/// Batches of fewer rows are looked at whole.
const PICKED_FROM_MIN: usize = 64;

/// What was asked of a row.
#[derive(Clone, Copy)]
struct Asked {
    place: usize,
    at: usize,
    row: usize,
}

/// For each predicate whether it holds: of all rows of the batch, or of those that were asked about.
struct Answers(Vec<(BooleanBuffer, bool)>);

impl Answers {
    fn hold(&self, asked: Asked) -> bool {
        let (answer, is_whole) = &self.0[asked.place];
        answer.value(if *is_whole { asked.row } else { asked.at })
    }
}
