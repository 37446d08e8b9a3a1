//! What a projection has to say at the end of an epoch.
//!
//! A projection holds no copy of what is served: whoever serves it has the rows, and the program
//! can make them again ([`crate::Program::image`]). Held are the rows withheld because something of
//! them is not known, and of a declared key how often each stands.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use hashbrown::HashMap;

use crate::delta::{Delta, add_count, index, pieces};
use crate::expr::{ExprError, Withheld, shorten};
use crate::operator::View;
use crate::row::{EncodedRows, RowBytes, RowCodec, batch_of};
use crate::state::{Handle, Keyed, State};

/// Where clients look a row up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProjectionKey {
    /// These columns are unique because of what the query is.
    Derived(Vec<usize>),
    /// These columns are unique because its author says so; checked at every epoch.
    Declared(Vec<usize>),
    /// None: the whole row with its count is the identity.
    WholeRow,
}

impl ProjectionKey {
    /// The key columns, if any.
    #[must_use]
    pub fn columns(&self) -> Option<&[usize]> {
        match self {
            ProjectionKey::Derived(columns) | ProjectionKey::Declared(columns) => Some(columns),
            ProjectionKey::WholeRow => None,
        }
    }
}

/// What a projection has to say at the end of an epoch.
#[derive(Debug)]
pub enum Published {
    /// The net change since the last publication, consolidated, in parts of bounded size.
    Diff(Vec<DiffPart>),
    /// Two rows have the declared key: nothing is published until one of them is gone.
    KeyConflict {
        /// The key's columns with its values, as `id = 7`.
        key: String,
    },
}

/// Part of what an epoch changes.
#[derive(Clone, Debug)]
pub struct DiffPart {
    /// Rows, of which none stands twice in the diff.
    pub batch: RecordBatch,
    /// How many of each came or went; one or minus one where there is a key.
    pub weights: Vec<i64>,
    /// Where there is a key: for each that changes, the row that goes and the row that comes. Both
    /// are always in one part.
    pub pairs: Vec<Pair>,
}

/// What happens to one key, by rows of a part's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The row that goes.
    pub old: Option<u32>,
    /// The row that comes.
    pub new: Option<u32>,
}

/// A row that is withheld.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithheldRow {
    /// Its columns with their values, as `id = 7, total = ?`.
    pub row: String,
    /// Whether the row itself may not be there.
    pub in_doubt: bool,
    /// Columns whose value is not known.
    pub failed: Vec<String>,
    /// Why.
    pub reason: String,
    /// How many such rows.
    pub count: i64,
}

/// A projection of a running program.
#[derive(Debug)]
pub(crate) struct Projection {
    view: View,
    key: ProjectionKey,
    codec: RowCodec,
    key_codec: Option<RowCodec>,
    /// What changed since the last publication.
    unpublished: Vec<Delta>,
    unpublished_rows: usize,
    /// Whether any of it takes a row away: what only comes need not be consolidated.
    some_go: bool,
    /// Rows at which what is unpublished is consolidated, so that a projection that can't be
    /// published holds no more than its rows.
    consolidate_at: usize,
    /// Rows under each declared key.
    keys: Option<Handle<Keyed<i64>>>,
    withheld: Handle<Keyed<i64>>,
    withheld_rows: i64,
    /// What is withheld is not what it was when somebody last asked.
    pub(crate) withheld_changed: bool,
    /// Declared keys that two rows have.
    conflicts: BTreeSet<RowBytes>,
    /// The last answer was a conflict: that it is gone must be said, even when nothing else changed.
    was_in_conflict: bool,
}

/// Unpublished rows that are let be.
const CONSOLIDATE_ROWS_MIN: usize = if cfg!(test) { 8 } else { 1_048_576 };

/// Withheld rows that are told in order.
const SORTED_ROWS_MAX: usize = 10_000;

impl Projection {
    pub(crate) fn new(
        view: View,
        key: ProjectionKey,
        keys: Option<Handle<Keyed<i64>>>,
        withheld: Handle<Keyed<i64>>,
    ) -> Result<Projection, ArrowError> {
        let key_codec = key.columns().map(|columns| RowCodec::new(&view.schema, columns)).transpose()?;
        Ok(Projection {
            codec: RowCodec::whole(&view.schema)?,
            view,
            key,
            key_codec,
            unpublished: Vec::new(),
            unpublished_rows: 0,
            some_go: false,
            consolidate_at: CONSOLIDATE_ROWS_MIN,
            keys,
            withheld,
            withheld_rows: 0,
            withheld_changed: false,
            conflicts: BTreeSet::new(),
            was_in_conflict: false,
        })
    }

    pub(crate) fn key(&self) -> &ProjectionKey {
        &self.key
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.view.schema
    }

    /// The rows of a delta of the node as this projection has them.
    pub(crate) fn view_of(&self, delta: &Delta) -> Result<Delta, ArrowError> {
        let columns: Vec<usize> = (0..self.view.schema.fields().len()).map(|column| self.view.place(column)).collect();
        delta.view(&self.view.schema, &columns)
    }

    /// Takes in what a step changes.
    pub(crate) fn apply(&mut self, delta: &Delta, state: &mut State) -> Result<(), ArrowError> {
        let mut delta = self.view_of(delta)?;
        if let Some(faults) = delta.faults.take() {
            let (mut clean, mut faulty) = (Vec::new(), Vec::new());
            (0..delta.len())
                .for_each(|i| if faults[i].is_some() { faulty.push(index(i)) } else { clean.push(index(i)) });
            let withheld = delta.take(&faulty)?;
            let faults = faulty.iter().map(|&i| faults[i as usize].clone()).collect();
            let rows = self.codec.encode_faulty(&withheld.batch, Some(&faults))?;
            self.withheld_changed |= !withheld.is_empty();
            let held = state.get_mut(self.withheld);
            for (i, &weight) in withheld.weights.iter().enumerate() {
                held.add(rows.row(i), weight);
                add_count(&mut self.withheld_rows, weight);
            }
            delta = delta.take(&clean)?;
        }
        if delta.is_empty() {
            return Ok(());
        }
        if let (Some(keys), Some(codec)) = (self.keys, &self.key_codec) {
            let rows = codec.encode(&delta.batch)?;
            let keys = state.get_mut(keys);
            for (i, &weight) in delta.weights.iter().enumerate() {
                if keys.add(rows.row(i), weight) > 1 {
                    self.conflicts.insert(rows.row(i).into());
                } else if !self.conflicts.is_empty() {
                    self.conflicts.remove(rows.row(i));
                }
            }
        }
        self.unpublished_rows += delta.len();
        self.some_go |= delta.weights.iter().any(|weight| *weight < 0);
        self.unpublished.push(delta);
        if self.unpublished_rows > self.consolidate_at && self.some_go {
            // Not by key: in the middle of a step, or in a conflict, a key may have several rows.
            let rows =
                self.unpublished.iter().map(|delta| self.codec.encode(&delta.batch)).collect::<Result<Vec<_>, _>>()?;
            let parts = self.parts(&rows, &self.net_rows(&rows))?;
            self.unpublished = parts.into_iter().map(|part| Delta::new(part.batch, part.weights)).collect();
            self.unpublished_rows = self.unpublished.iter().map(Delta::len).sum();
            self.consolidate_at = CONSOLIDATE_ROWS_MIN.max(self.unpublished_rows * 2);
        }
        Ok(())
    }

    /// Ends an epoch: hands over the net change since the last time; `None` when there is none.
    pub(crate) fn publish(&mut self) -> Result<Option<Published>, ArrowError> {
        if let (Some(key), Some(codec)) = (self.conflicts.first(), &self.key_codec) {
            self.was_in_conflict = true;
            return Ok(Some(Published::KeyConflict { key: self.show_key(codec, key)? }));
        }
        let parts = self.consolidated()?;
        self.unpublished.clear();
        (self.unpublished_rows, self.some_go) = (0, false);
        self.consolidate_at = CONSOLIDATE_ROWS_MIN;
        let was_in_conflict = std::mem::take(&mut self.was_in_conflict);
        Ok((!parts.is_empty() || was_in_conflict).then_some(Published::Diff(parts)))
    }

    /// The state was read: what it stands for has been published.
    pub(crate) fn restored(&mut self, state: &State) {
        self.unpublished.clear();
        self.unpublished_rows = 0;
        let withheld = state.get(self.withheld);
        self.withheld_rows = withheld.ids().map(|id| *withheld.value(id)).sum();
        self.conflicts = self.keys.map_or_else(BTreeSet::new, |keys| {
            let keys = state.get(keys);
            keys.ids().filter(|&id| *keys.value(id) > 1).map(|id| keys.key(id).into()).collect()
        });
    }

    /// What is unpublished with equal rows added up, and of each key the old row beside the new.
    fn consolidated(&self) -> Result<Vec<DiffPart>, ArrowError> {
        let is_net = match &self.unpublished[..] {
            [] => return Ok(Vec::new()),
            [only] => only.is_net,
            // Rows with a key that only come are each another.
            many => self.key_codec.is_some() && many.iter().all(|delta| delta.weights.iter().all(|weight| *weight > 0)),
        };
        if is_net && self.unpublished.iter().all(|delta| delta.weights.iter().all(|weight| *weight > 0)) {
            let pairs = |delta: &Delta| match self.key_codec {
                Some(_) => (0..delta.len()).map(|i| Pair { old: None, new: Some(index(i)) }).collect(),
                None => Vec::new(),
            };
            let part = |delta: &Delta| DiffPart {
                batch: delta.batch.clone(),
                weights: delta.weights.clone(),
                pairs: pairs(delta),
            };
            return Ok(self.unpublished.iter().map(part).collect());
        }
        let rows =
            self.unpublished.iter().map(|delta| self.codec.encode(&delta.batch)).collect::<Result<Vec<_>, _>>()?;
        let survivors = if is_net { self.all_rows() } else { self.net_rows(&rows) };
        let Some(codec) = &self.key_codec else { return self.parts(&rows, &survivors) };
        let keys = self.unpublished.iter().map(|delta| codec.encode(&delta.batch)).collect::<Result<Vec<_>, _>>()?;
        let pairs = paired(&survivors, &keys);
        let size = |pair: &[Option<(Place, i64)>; 2]| {
            pair.iter().flatten().map(|((delta, row), _)| rows[*delta].row(*row).len()).sum()
        };
        pieces(pairs.iter().map(size))
            .into_iter()
            .map(|piece| {
                let (mut flat, mut places) = (Vec::new(), Vec::new());
                for pair in &pairs[piece] {
                    let mut place = |row: Option<(Place, i64)>| {
                        row.map(|row| {
                            flat.push(row);
                            index(flat.len() - 1)
                        })
                    };
                    places.push(Pair { old: place(pair[0]), new: place(pair[1]) });
                }
                self.part(&flat, places)
            })
            .collect()
    }

    /// These rows as parts of bounded size.
    fn parts(&self, rows: &[EncodedRows], survivors: &[(Place, i64)]) -> Result<Vec<DiffPart>, ArrowError> {
        let size = |&((delta, row), _): &(Place, i64)| rows[delta].row(row).len();
        let cut = pieces(survivors.iter().map(size));
        cut.into_iter().map(|piece| self.part(&survivors[piece], Vec::new())).collect()
    }

    fn all_rows(&self) -> Vec<(Place, i64)> {
        let of_delta = |(at, delta): (usize, &Delta)| {
            delta.weights.iter().enumerate().map(|(row, weight)| ((at, row), *weight)).collect::<Vec<_>>()
        };
        self.unpublished.iter().enumerate().flat_map(of_delta).collect()
    }

    fn net_rows(&self, rows: &[EncodedRows]) -> Vec<(Place, i64)> {
        let mut first: HashMap<&[u8], usize> = HashMap::with_capacity(self.unpublished_rows);
        let mut sums: Vec<(Place, i64)> = Vec::new();
        for ((delta, row), weight) in self.all_rows() {
            let slot = *first.entry(rows[delta].row(row)).or_insert(sums.len());
            match sums.get_mut(slot) {
                Some((_, sum)) => add_count(sum, weight),
                None => sums.push(((delta, row), weight)),
            }
        }
        sums.retain(|(_, sum)| *sum != 0);
        sums
    }

    fn part(&self, rows: &[(Place, i64)], pairs: Vec<Pair>) -> Result<DiffPart, ArrowError> {
        let weights = rows.iter().map(|(_, weight)| *weight).collect();
        let batch = match &self.unpublished[..] {
            [only] if rows.len() == only.len() && rows.iter().enumerate().all(|(i, ((_, row), _))| i == *row) => {
                only.batch.clone()
            }
            _ if self.view.schema.fields().is_empty() => batch_of(&self.view.schema, Vec::new(), rows.len())?,
            many => {
                let batches: Vec<&RecordBatch> = many.iter().map(|delta| &delta.batch).collect();
                interleave_record_batch(&batches, &rows.iter().map(|(place, _)| *place).collect::<Vec<_>>())?
            }
        };
        Ok(DiffPart { batch, weights, pairs })
    }

    pub(crate) fn withheld(&self, state: &State) -> Withheld {
        if self.withheld_rows == 0 {
            return Withheld::default();
        }
        let held = state.get(self.withheld);
        // The least row, so that the reason told does not wander; of very many, any.
        let least =
            if held.len() <= SORTED_ROWS_MAX { held.ids().min_by_key(|&id| held.key(id)) } else { held.ids().next() };
        let fault = least.and_then(|id| self.codec.fault(held.key(id)));
        Withheld { rows: self.withheld_rows, reason: fault.map(|fault| ExprError(fault.to_string())) }
    }

    /// The withheld rows, at most so many: in the order of their bytes, or in none where they are very many.
    pub(crate) fn withheld_rows(&self, state: &State, at_most: usize) -> Result<Vec<WithheldRow>, ArrowError> {
        let held = state.get(self.withheld);
        let ids: Vec<u32> = if held.len() <= SORTED_ROWS_MAX {
            let mut ids: Vec<u32> = held.ids().collect();
            ids.sort_unstable_by_key(|&id| held.key(id));
            ids.truncate(at_most);
            ids
        } else {
            held.ids().take(at_most).collect()
        };
        let rows: Vec<&[u8]> = ids.iter().map(|&id| held.key(id)).collect();
        let columns = self.codec.decode(&rows)?;
        let options = FormatOptions::default().with_null("NULL");
        let formatters = columns
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()?;
        let name = |column: usize| self.view.schema.field(column).name().clone();
        ids.iter()
            .enumerate()
            .map(|(i, &id)| {
                let fault = self
                    .codec
                    .fault(held.key(id))
                    .ok_or_else(|| ArrowError::ComputeError("a withheld row has a fault".to_owned()))?;
                let value = |column: usize| {
                    if fault.has_failed(column) {
                        "?".to_owned()
                    } else {
                        shorten(&formatters[column].value(i).to_string())
                    }
                };
                let shown: Vec<String> =
                    (0..columns.len()).map(|column| format!("{} = {}", name(column), value(column))).collect();
                Ok(WithheldRow {
                    row: shown.join(", "),
                    in_doubt: fault.doubt,
                    failed: fault.failed.iter().map(|&column| name(column)).collect(),
                    reason: fault.to_string(),
                    count: *held.value(id),
                })
            })
            .collect()
    }

    fn show_key(&self, codec: &RowCodec, key: &[u8]) -> Result<String, ArrowError> {
        let columns = self.key.columns().unwrap_or_default();
        let values = codec.decode(&[key])?;
        let mut shown = Vec::with_capacity(columns.len());
        for (&column, value) in columns.iter().zip(&values) {
            let formatter = ArrayFormatter::try_new(value.as_ref(), &FormatOptions::default().with_null("NULL"))?;
            shown.push(format!("{} = {}", self.view.schema.field(column).name(), formatter.value(0)));
        }
        Ok(shown.join(", "))
    }
}

/// A row of what is unpublished: which delta, which row.
type Place = (usize, usize);

/// The old and the new row of each key, in the order in which keys are met.
fn paired(rows: &[(Place, i64)], keys: &[EncodedRows]) -> Vec<[Option<(Place, i64)>; 2]> {
    let mut pairs: Vec<[Option<(Place, i64)>; 2]> = Vec::with_capacity(rows.len());
    let mut by_key: HashMap<&[u8], usize> = HashMap::with_capacity(rows.len());
    for &((delta, row), weight) in rows {
        let slot = *by_key.entry(keys[delta].row(row)).or_insert(pairs.len());
        if slot == pairs.len() {
            pairs.push([None, None]);
        }
        let place = &mut pairs[slot][usize::from(weight > 0)];
        debug_assert!(place.is_none(), "at the end of an epoch a key has one old row and one new");
        *place = Some(((delta, row), weight));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Fingerprint;
    use crate::state::StoreName;
    use crate::testing::{INT, check, schema, show};
    use arrow::array::Int64Array;
    use expect_test::expect;
    use std::sync::Arc;

    /// A projection of a table of keys and numbers.
    fn projection(key: ProjectionKey) -> (Projection, State) {
        let mut state = State::default();
        let name = |part| StoreName { of: Fingerprint(7), part };
        let withheld = state.add(name("withheld"), Keyed::default());
        let view = View::new(schema(&[("k", INT), ("n", INT)]), &[0, 1], 2);
        (Projection::new(view, key, None, withheld).expect("a projection"), state)
    }

    fn delta(rows: &[(i64, i64, i64)]) -> Delta {
        let column = |of: fn(&(i64, i64, i64)) -> i64| -> arrow::array::ArrayRef {
            Arc::new(rows.iter().map(|row| Some(of(row))).collect::<Int64Array>())
        };
        let columns = vec![column(|row| row.0), column(|row| row.1)];
        let batch = RecordBatch::try_new(schema(&[("k", INT), ("n", INT)]), columns).expect("two columns");
        Delta::new(batch, rows.iter().map(|row| row.2).collect())
    }

    /// What waits to be published is consolidated once it is more than what stands, and not before:
    /// each time at twice the rows that are left.
    #[test]
    fn what_waits_is_bounded() {
        let (mut projection, mut state) = projection(ProjectionKey::WholeRow);
        let mut waiting = |rows: &[(i64, i64, i64)]| {
            for row in rows {
                projection.apply(&delta(&[*row]), &mut state).expect("its columns");
            }
            projection.unpublished.iter().map(Delta::len).sum::<usize>()
        };
        let come: Vec<_> = (0..10).map(|k| (k, 0, 1)).collect();
        assert_eq!(waiting(&come), 10, "what only comes is let be");
        assert_eq!(waiting(&[(9, 0, -1)]), 9, "ten and one, of which two are nothing");
        let turn = |times: i64| (0..times).flat_map(|i| [(0, i, -1), (0, i + 1, 1)]).collect::<Vec<_>>();
        assert_eq!(waiting(&turn(4)), 9 + 8);
        assert_eq!(waiting(&[(50, 0, 1)]), 18, "twice nine is not too many");
        assert_eq!(waiting(&[(51, 0, 1)]), 11);
        projection.publish().expect("an epoch");
        let mut waiting = |rows: &[(i64, i64, i64)]| {
            for row in rows {
                projection.apply(&delta(&[*row]), &mut state).expect("its columns");
            }
            projection.unpublished.len()
        };
        assert_eq!(waiting(&come), 10, "an epoch begins anew");
        let (mut few, mut state) = self::projection(ProjectionKey::WholeRow);
        for row in [(1, 0, 1), (1, 0, -1)].repeat(4) {
            few.apply(&delta(&[row]), &mut state).expect("its columns");
        }
        assert_eq!(few.unpublished.len(), 8, "eight are few");
    }

    /// Rows of one key stand side by side, whatever their order was; a row that came and went is not
    /// among them.
    #[test]
    fn a_part_has_its_rows_in_order_of_their_keys() {
        let published = |key: ProjectionKey, deltas: &[Delta]| {
            let (mut projection, mut state) = projection(key);
            deltas.iter().for_each(|delta| projection.apply(delta, &mut state).expect("its columns"));
            let Some(Published::Diff(parts)) = projection.publish().expect("an epoch") else { return Vec::new() };
            let rows = |part: &DiffPart| show(&part.batch).into_iter().zip(part.weights.clone()).collect::<Vec<_>>();
            parts.iter().flat_map(rows).map(|(row, weight)| format!("{weight:+}{row}")).collect::<Vec<_>>()
        };
        let crossed = delta(&[(1, 0, -1), (2, 0, -1), (1, 5, 1), (2, 6, 1)]);
        let keyed = ProjectionKey::Derived(vec![0]);
        assert_eq!(
            published(keyed.clone(), &[crossed.clone().net()]),
            ["-1(1, 0)", "+1(1, 5)", "-1(2, 0)", "+1(2, 6)"]
        );
        assert_eq!(published(keyed.clone(), &[crossed]), ["-1(1, 0)", "+1(1, 5)", "-1(2, 0)", "+1(2, 6)"]);
        let turned = delta(&[(1, 5, 1), (1, 0, -1)]).net();
        assert_eq!(published(keyed.clone(), &[turned]), ["-1(1, 0)", "+1(1, 5)"], "the old one stands first");
        let came_and_went = [delta(&[(1, 0, 1), (2, 0, 1), (2, 0, -1)])];
        assert_eq!(published(keyed, &came_and_went), ["+1(1, 0)"]);
        assert_eq!(published(ProjectionKey::WholeRow, &came_and_went), ["+1(1, 0)"]);
        let again = [delta(&[(1, 0, 1)]), delta(&[(1, 0, 2), (2, 0, 1)])];
        assert_eq!(published(ProjectionKey::WholeRow, &again), ["+3(1, 0)", "+1(2, 0)"]);
    }

    /// `SELECT FROM t` has rows, though no columns.
    #[test]
    fn rows_without_columns_are_counted() {
        check(
            |kit| kit.some(kit.l, &[]),
            "+l(1, x) +l(2, y) | +l(3, z); -l(2, y); -l(1, x) -l(3, z)",
            &expect![[r#"
                1: +3()
                2: -()
                3: -2()
            "#]],
        );
    }
}
