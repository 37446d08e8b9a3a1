//! `ORDER BY … LIMIT … OFFSET …`, kept live.
//!
//! All rows are held in order; the output is a window of it. A step costs what it touches, plus
//! the window when a row inside it changes. Ties in the sort key are broken by the bytes of the
//! whole row, so the window is a function of the rows and of nothing else.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use crate::delta::Delta;
use crate::operator::{Context, Operator};
use crate::row::{RowBytes, RowCodec};

/// The rows from `skip` on, at most `fetch` of them, in an order.
pub struct Top {
    schema: SchemaRef,
    order: RowCodec,
    codec: RowCodec,
    skip: usize,
    fetch: Option<usize>,
    /// By (sort key, row); the map sorts by the key's bytes, then the row's.
    rows: BTreeMap<(RowBytes, RowBytes), i64>,
    /// The window's content, in order, with counts.
    window: Vec<((RowBytes, RowBytes), i64)>,
}

impl Top {
    /// A window over rows of `schema` sorted by `order`.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn new(schema: SchemaRef, order: &[(usize, SortOptions)], skip: usize, fetch: Option<usize>) -> Result<Top, ArrowError> {
        Ok(Top {
            order: RowCodec::ordered(&schema, order)?,
            codec: RowCodec::whole(&schema)?,
            schema,
            skip,
            fetch,
            rows: BTreeMap::new(),
            window: Vec::new(),
        })
    }

    fn current_window(&self) -> Vec<((RowBytes, RowBytes), i64)> {
        let mut skip = i64::try_from(self.skip).unwrap_or(i64::MAX);
        let mut left = self.fetch.map_or(i64::MAX, |fetch| i64::try_from(fetch).unwrap_or(i64::MAX));
        let mut window = Vec::new();
        for (row, &count) in &self.rows {
            let skipped = count.min(skip);
            skip -= skipped;
            let shown = (count - skipped).min(left);
            left -= shown;
            if shown > 0 {
                window.push((row.clone(), shown));
            }
            if left == 0 {
                break;
            }
        }
        window
    }

    /// Whether rows past the window's end can come up only when something before it goes.
    fn window_is_full(&self) -> bool {
        self.fetch
            .is_some_and(|fetch| i64::try_from(fetch).is_ok_and(|fetch| self.window.iter().map(|(_, shown)| shown).sum::<i64>() == fetch))
    }
}

impl Operator for Top {
    fn step(&mut self, inputs: &[Option<&Delta>], _: &mut Context<'_>) -> Result<Option<Delta>, ArrowError> {
        let Some(input) = inputs[0] else { return Ok(None) };
        let orders = self.order.encode(&input.batch)?;
        let rows = self.codec.encode(&input.batch)?;
        let last = if self.window_is_full() { self.window.last().map(|(row, _)| row.clone()) } else { None };
        let mut touches_window = false;
        for (i, &weight) in input.weights.iter().enumerate() {
            let key: (RowBytes, RowBytes) = (orders.row(i).data().into(), rows.row(i).data().into());
            touches_window |= last.as_ref().is_none_or(|last| key <= *last);
            match self.rows.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(weight);
                }
                Entry::Occupied(mut entry) => {
                    *entry.get_mut() += weight;
                    if *entry.get() == 0 {
                        entry.remove();
                    }
                }
            }
        }
        if !touches_window || self.fetch == Some(0) {
            return Ok(None);
        }
        let window = self.current_window();
        let mut changes: BTreeMap<&[u8], i64> = BTreeMap::new();
        for ((_, row), shown) in &self.window {
            *changes.entry(row).or_default() -= shown;
        }
        for ((_, row), shown) in &window {
            *changes.entry(row).or_default() += shown;
        }
        changes.retain(|_, weight| *weight != 0);
        let delta = if changes.is_empty() {
            None
        } else {
            let batch = self.codec.decode_batch(&self.schema, changes.keys().copied(), changes.len())?;
            Some(Delta::new(batch, changes.into_values().collect()))
        };
        self.window = window;
        Ok(delta)
    }
}
