//! The first rows of a view in an order, kept live.
//!
//! Held are the rows of the window and some behind it, so that a row that leaves is replaced by the
//! next without a look at the projection. When those behind it are used up, and there are more, the
//! window is made anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::error::ArrowError;
use pipeline::Epoch;
use pipeline::row::OrderCodec;

use crate::hub::{Moment, Projection};
use crate::record::{Record, pairs_between};
use crate::rows::{HeldRow, RowRef};
use crate::view::Hit;

/// Only the first rows in an order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Columns, and whether the largest come first. NULL sorts as the largest, as in Postgres; ties
    /// are broken by the key.
    pub order: Vec<(usize, bool)>,
    /// How many rows.
    pub limit: usize,
}

/// The rows of a window, and some behind it.
#[derive(Debug)]
pub struct WindowState {
    limit: i64,
    codec: OrderCodec,
    /// By their place in the order: the row, and how often it stands there.
    rows: BTreeMap<Box<[u8]>, (HeldRow, i64)>,
    /// Whether these are all rows of the view.
    is_all: bool,
    /// What they are the rows of.
    pub epoch: Epoch,
}

/// Rows held behind a window, beside a quarter as many as it has.
const SPARE_ROWS: usize = 32;

impl WindowState {
    /// A window of no rows.
    ///
    /// # Errors
    /// When a column can't be sorted by.
    pub fn new(window: &Window, info: &Projection, epoch: Epoch) -> Result<WindowState, ArrowError> {
        let options = |descending| SortOptions { descending, nulls_first: descending };
        let order: Vec<(usize, SortOptions)> =
            window.order.iter().map(|&(column, descending)| (column, options(descending))).collect();
        let codec = OrderCodec::new(&info.schema, &order)?;
        let limit = i64::try_from(window.limit).unwrap_or(i64::MAX);
        Ok(WindowState { limit, codec, rows: BTreeMap::new(), is_all: true, epoch })
    }

    fn places(&self, batch: &RecordBatch) -> Result<arrow::row::Rows, ArrowError> {
        self.codec.encode(batch)
    }

    fn place(order: &[u8], key: &[u8]) -> Box<[u8]> {
        [order, key].concat().into()
    }

    /// Takes in those rows that are wanted, which the batch has in the same order.
    ///
    /// # Errors
    /// When the batch is not of the projection.
    pub fn add(
        &mut self,
        batch: &RecordBatch,
        rows: &[RowRef<'_>],
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<(), ArrowError> {
        let orders = self.places(batch)?;
        for (i, row) in rows.iter().enumerate().filter(|(i, _)| is_wanted(*i)) {
            self.put(Self::place(orders.row(i).data(), row.key), *row, row.count);
        }
        Ok(())
    }

    fn put(&mut self, place: Box<[u8]>, row: RowRef<'_>, by: i64) {
        if !self.is_all && self.rows.last_key_value().is_none_or(|(last, _)| *last < place) {
            return;
        }
        let (_, count) = self.rows.entry(place).or_insert_with(|| (HeldRow::new(row.key, row.row), 0));
        *count += by;
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let held_max = limit.saturating_add(limit / 4).saturating_add(SPARE_ROWS);
        if self.rows.len() > held_max {
            self.rows.pop_last();
            self.is_all = false;
        }
    }

    fn take(&mut self, place: &[u8], by: i64) {
        if let Some((_, count)) = self.rows.get_mut(place) {
            *count -= by;
            if *count <= 0 {
                self.rows.remove(place);
            }
        }
    }

    /// The rows of the window, with how often each stands there.
    pub fn shown(&self) -> Vec<(HeldRow, i64)> {
        let mut room = self.limit;
        let mut shown = Vec::new();
        for (row, count) in self.rows.values() {
            if room <= 0 {
                break;
            }
            shown.push((row.clone(), (*count).min(room)));
            room -= count;
        }
        shown
    }

    /// Whether rows of the window may be missing, since too many have gone.
    pub fn is_short(&self) -> bool {
        !self.is_all && self.rows.values().map(|(_, count)| count).sum::<i64>() < self.limit
    }

    /// Takes in what an epoch changes of the view. Answers what it changes of the window; `None`
    /// says that the window must be made anew.
    ///
    /// # Errors
    /// When the record is not of the projection.
    pub fn apply(
        &mut self,
        stamp: &Arc<Moment>,
        record: &Record,
        hits: impl Iterator<Item = Hit>,
        info: &Projection,
    ) -> Result<Option<Record>, ArrowError> {
        let before = self.shown();
        let orders = record.parts.iter().map(|part| self.places(&part.batch)).collect::<Result<Vec<_>, _>>()?;
        let encoded = record.parts.iter().map(|part| info.form.encode(&part.batch)).collect::<Result<Vec<_>, _>>()?;
        // All that goes first: a row that comes may lie where one was.
        let hits: Vec<Hit> = hits.collect();
        let held = |hit: &Hit, row: u32| {
            let (part, row) = (hit.part as usize, row as usize);
            let key = record.parts[part].keys.row(hit.change as usize);
            (Self::place(orders[part].row(row).data(), key), RowRef { key, row: encoded[part].row(row), count: 1 })
        };
        for hit in &hits {
            let change = record.parts[hit.part as usize].changes[hit.change as usize];
            if let Some(row) = change.old.filter(|_| hit.was) {
                self.take(&held(hit, row).0, if change.by == 0 { 1 } else { -change.by });
            }
        }
        for hit in &hits {
            let change = record.parts[hit.part as usize].changes[hit.change as usize];
            if let Some(row) = change.new.filter(|_| hit.is) {
                let (place, row) = held(hit, row);
                self.put(place, row, if change.by == 0 { 1 } else { change.by });
            }
        }
        self.epoch = stamp.epoch;
        if self.is_short() {
            return Ok(None);
        }
        Record::of_pairs(stamp, &pairs_between(&before, &self.shown()), info).map(Some)
    }
}
