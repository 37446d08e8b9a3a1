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
#[derive(Clone, Debug)]
pub struct WindowState {
    limit: i64,
    codec: Arc<OrderCodec>,
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
        let codec = Arc::new(OrderCodec::new(&info.schema, &order)?);
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
        self.move_rows(record, hits, info, false)?;
        self.epoch = stamp.epoch;
        if self.is_short() {
            return Ok(None);
        }
        Record::of_pairs(stamp, &pairs_between(&before, &self.shown()), info).map(Some)
    }

    /// Undoes what an epoch changed of the view. Answers whether all rows of the window of before are
    /// known.
    ///
    /// # Errors
    /// When the record is not of the projection.
    pub fn undo(
        &mut self,
        record: &Record,
        hits: impl Iterator<Item = Hit>,
        info: &Projection,
    ) -> Result<bool, ArrowError> {
        self.move_rows(record, hits, info, true)?;
        Ok(!self.is_short())
    }

    /// Takes out the rows that go and puts in those that come, or the other way round.
    fn move_rows(
        &mut self,
        record: &Record,
        hits: impl Iterator<Item = Hit>,
        info: &Projection,
        is_undone: bool,
    ) -> Result<(), ArrowError> {
        let orders = record.parts.iter().map(|part| self.places(&part.batch)).collect::<Result<Vec<_>, _>>()?;
        let encoded = record.parts.iter().map(|part| info.form.encode(&part.batch)).collect::<Result<Vec<_>, _>>()?;
        let (mut going, mut coming) = (Vec::new(), Vec::new());
        for hit in hits {
            let (part, number) = (hit.part as usize, hit.change as usize);
            let change = record.parts[part].changes[number];
            let count = if change.by == 0 { 1 } else { change.by.abs() };
            let held = |row: u32| {
                let (order, row) = (orders[part].row(row as usize), encoded[part].row(row as usize));
                let key = record.parts[part].keys.row(number);
                (Self::place(order.data(), key), RowRef { key, row, count })
            };
            let (old, new) = (change.old.filter(|_| hit.was).map(held), change.new.filter(|_| hit.is).map(held));
            let (goes, comes) = if is_undone { (new, old) } else { (old, new) };
            going.extend(goes);
            coming.extend(comes);
        }
        // All that goes first: a row that comes may lie where one was.
        going.into_iter().for_each(|(place, row)| self.take(&place, row.count));
        coming.into_iter().for_each(|(place, row)| self.put(place, row, row.count));
        Ok(())
    }
}
