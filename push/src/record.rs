//! What an epoch changed in a projection, typed, and as JSON once somebody is sent it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use pipeline::DiffPart;
use pipeline::delta::pieces;
use pipeline::row::EncodedRows;

use crate::hub::{Moment, Projection};
use crate::json::write_row;
use crate::rows::{HeldRow, RowRef, Rows};

/// What one epoch changed in one projection.
#[derive(Debug)]
pub struct Record {
    /// Where the epoch stands.
    pub stamp: Arc<Moment>,
    /// The changes, in parts of bounded size.
    pub parts: Vec<Part>,
    /// What it weighs in the log, about.
    pub bytes: usize,
}

/// Some of the changes of an epoch.
#[derive(Debug)]
pub struct Part {
    /// Rows that come and rows that go.
    pub batch: RecordBatch,
    /// What becomes of each key, or of each row where there is no key.
    pub changes: Vec<Change>,
    /// Of each change, the bytes by which rows are merged.
    pub keys: EncodedRows,
    json: Mutex<Vec<Arc<PartJson>>>,
}

/// What becomes of one key, or of one whole row, by rows of a part's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The row that goes.
    pub old: Option<u32>,
    /// The row that comes.
    pub new: Option<u32>,
    /// Without a key: how many times more the row stands there, or fewer. Never zero.
    pub by: i64,
}

impl Record {
    /// An epoch's changes, and the rows that they make of `rows`.
    ///
    /// # Errors
    /// When a part is not of the projection, or takes away what is not there, which would be
    /// mistakes of ours.
    pub fn new(
        stamp: &Arc<Moment>,
        diff: Vec<DiffPart>,
        info: &Projection,
        rows: &mut Rows,
    ) -> Result<Record, ArrowError> {
        let (form, has_key) = (&info.form, info.key.is_some());
        let mut bytes = size_of::<Record>();
        let mut parts = Vec::with_capacity(diff.len());
        for DiffPart { batch, weights, pairs } in diff {
            let encoded = form.encode(&batch)?;
            let row_keys = form.keys(&batch, &encoded)?;
            let changes: Vec<Change> = if has_key {
                pairs.iter().map(|pair| Change { old: pair.old, new: pair.new, by: 0 }).collect()
            } else {
                let change = |(row, &by): (u32, &i64)| {
                    if by > 0 {
                        Change { old: None, new: Some(row), by }
                    } else {
                        Change { old: Some(row), new: None, by }
                    }
                };
                (0..).zip(&weights).map(change).collect()
            };
            let mut keys = EncodedRows::default();
            for change in &changes {
                let Some(row) = change.new.or(change.old).map(|row| row as usize) else { continue };
                let key = row_keys.row(row);
                keys.push(key);
                match change.new {
                    _ if !has_key => {
                        if !rows.add(key, change.by) {
                            return Err(ArrowError::ComputeError("a row went that was not there".to_owned()));
                        }
                    }
                    Some(_) => rows.put(key, encoded.row(row)),
                    None => rows.remove(key),
                }
            }
            bytes += (0..encoded.len()).map(|row| encoded.row(row).len()).sum::<usize>() * ROW_COPIES;
            bytes += changes.len() * size_of::<Change>() + keys.iter().map(<[u8]>::len).sum::<usize>();
            parts.push(Part { batch, changes, keys, json: Mutex::default() });
        }
        Ok(Record { stamp: Arc::clone(stamp), parts, bytes })
    }

    /// The changes between these rows and those: of each key the row that goes and the row that
    /// comes.
    ///
    /// # Errors
    /// When the rows are not of the projection, which would be a mistake of ours.
    pub fn of_pairs<'a>(stamp: &Arc<Moment>, pairs: &[Pair<'a>], info: &Projection) -> Result<Record, ArrowError> {
        let sizes = pairs.iter().map(|pair| pair.iter().flatten().map(|row| row.row.len()).sum());
        let mut record = Record { stamp: Arc::clone(stamp), parts: Vec::new(), bytes: size_of::<Record>() };
        for piece in pieces(sizes) {
            let mut rows: Vec<RowRef<'a>> = Vec::new();
            let (mut changes, mut keys) = (Vec::new(), EncodedRows::default());
            for &[old, new] in &pairs[piece] {
                let by = if info.key.is_some() { 0 } else { count(new) - count(old) };
                // Without a key the row is the same, and only one of them is told.
                let (goes, comes) = match info.key {
                    Some(_) => (old, new),
                    None if by < 0 => (old, None),
                    None => (None, new),
                };
                let mut place = |row: Option<RowRef<'a>>| {
                    row.map(|row| {
                        rows.push(row);
                        u32::try_from(rows.len() - 1).unwrap_or(u32::MAX)
                    })
                };
                let change = Change { old: place(goes), new: place(comes), by };
                if let Some(row) = new.or(old) {
                    keys.push(row.key);
                }
                changes.push(change);
            }
            record.bytes += rows.iter().map(|row| row.row.len()).sum::<usize>() * ROW_COPIES;
            let batch = info.form.decode(rows.into_iter())?;
            record.parts.push(Part { batch, changes, keys, json: Mutex::default() });
        }
        Ok(record)
    }

    /// How many changes.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.parts.iter().map(|part| part.changes.len()).sum()
    }
}

/// The row of a key that goes and the row that comes.
pub type Pair<'a> = [Option<RowRef<'a>>; 2];

fn count(row: Option<RowRef<'_>>) -> i64 {
    row.map_or(0, |row| row.count)
}

/// What is different between two lists of rows, by key.
#[must_use]
pub fn pairs_between<'a>(before: &'a [(HeldRow, i64)], after: &'a [(HeldRow, i64)]) -> Vec<Pair<'a>> {
    let mut by_key: BTreeMap<&[u8], Pair<'_>> = BTreeMap::new();
    for (at, rows) in [before, after].into_iter().enumerate() {
        let rows = rows.iter().map(|(row, count)| row.times(*count));
        rows.for_each(|row| by_key.entry(row.key).or_default()[at] = Some(row));
    }
    by_key.into_values().filter(|[old, new]| old != new).collect()
}

/// How often a logged row is held, about: typed, and as the JSON of one choice of columns.
const ROW_COPIES: usize = 3;

/// Choices of columns whose JSON a part keeps: clients of one page choose the same.
const JSON_KEPT_MAX: usize = 4;

/// The changes of a part as JSON, for those who see these columns.
#[derive(Debug)]
pub struct PartJson {
    columns: Arc<[usize]>,
    text: Vec<u8>,
    /// Of each change where its key begins, where its row begins and where that ends.
    spans: Vec<[usize; 3]>,
}

impl PartJson {
    /// `[value, …]` of the key columns of a change.
    #[must_use]
    pub fn key(&self, change: usize) -> &[u8] {
        let [start, end, _] = self.spans[change];
        &self.text[start..end]
    }

    /// `[value, …]` of the row of a change: that which comes, or without a key that which comes or
    /// goes. Empty where only a key goes.
    #[must_use]
    pub fn row(&self, change: usize) -> &[u8] {
        let [_, start, end] = self.spans[change];
        &self.text[start..end]
    }
}

impl Part {
    /// The changes as JSON, made once for all who see these columns.
    pub fn json(&self, columns: &Arc<[usize]>, key: Option<&[usize]>) -> Arc<PartJson> {
        let mut kept = self.json.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = kept.iter().find(|made| made.columns == *columns) {
            return Arc::clone(made);
        }
        let made = Arc::new(self.make_json(columns, key));
        if kept.len() < JSON_KEPT_MAX {
            kept.push(Arc::clone(&made));
        }
        made
    }

    fn make_json(&self, columns: &Arc<[usize]>, key: Option<&[usize]>) -> PartJson {
        let mut text = Vec::with_capacity(self.changes.len() * 64);
        let mut spans = Vec::with_capacity(self.changes.len());
        for change in &self.changes {
            let start = text.len();
            let shown = match key {
                Some(key) => {
                    if let Some(row) = change.new.or(change.old) {
                        self.write(&mut text, key, row);
                    }
                    change.new
                }
                None => change.new.or(change.old),
            };
            let middle = text.len();
            if let Some(row) = shown {
                self.write(&mut text, columns, row);
            }
            spans.push([start, middle, text.len()]);
        }
        PartJson { columns: Arc::clone(columns), text, spans }
    }

    /// Appends some columns of a row of the part.
    pub fn write(&self, out: &mut Vec<u8>, columns: &[usize], row: u32) {
        write_row(out, columns.iter().map(|&column| self.batch.column(column)), row as usize);
    }
}
