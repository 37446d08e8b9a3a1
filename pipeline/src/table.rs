//! Source tables: from changes to deltas.
//!
//! A log says what a row is now, seldom what it was. The table remembers, so that each batch of
//! changes becomes its *net* effect: for each key touched, `-1` the row before and `+1` the row
//! after. What comes out is consolidated whatever went in, and a source that repeats itself after
//! a lost connection changes nothing. The rows themselves are an [`Arrangement`] like any other.

use std::hash::BuildHasher;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use hashbrown::{DefaultHashBuilder, HashSet, HashTable};

use crate::arrangement::{Arrangement, Move};
use crate::change::{Changes, Op};
use crate::delta::{Delta, pieces};
use crate::row::{EncodedRows, RowCodec, batch_of, normalise};
use crate::state::Keyed;

/// How a table tells its rows apart.
///
/// ```
/// use pipeline::table::Identity;
/// assert_eq!(Identity::Key(vec![0]).key(), Some(&[0][..]));
/// assert_eq!(Identity::WholeRow.key(), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// These columns are unique and never NULL.
    Key(Vec<usize>),
    /// Nothing is unique: a row is its values, and may stand in the table several times.
    WholeRow,
    /// Rows come, and are never updated or deleted: none is remembered for its own sake.
    AppendOnly,
}

impl Identity {
    /// The columns that tell rows apart, if any do.
    #[must_use]
    pub fn key(&self) -> Option<&[usize]> {
        match self {
            Identity::Key(columns) => Some(columns),
            Identity::WholeRow | Identity::AppendOnly => None,
        }
    }
}

/// How the rows of a source table change.
#[derive(Debug)]
pub struct Table {
    schema: SchemaRef,
    identity: Identity,
}

/// A table being read anew; see [`crate::Program::begin_copy`].
#[derive(Debug)]
pub enum TableCopy {
    /// The table was empty: rows go straight in.
    Straight,
    /// Rows are gathered beside those held, and then compared.
    Beside(Beside),
}

/// Rows of a copy beside the table's own, by identity.
#[derive(Debug)]
pub struct Beside {
    rows: Keyed<i64>,
}

/// Rows that go or come in one piece, ready for the table's arrangement.
#[derive(Debug)]
pub(crate) struct TableDelta {
    pub(crate) rows: EncodedRows,
    pub(crate) weights: Vec<i64>,
    /// The same as columns, where they came so: rows from state are decoded only for who reads them.
    columns: Option<Delta>,
    pub(crate) moves: Option<Vec<Move>>,
}

impl TableDelta {
    /// The rows as columns; `held` are those of the table, where it keeps any.
    pub(crate) fn columns(&self, held: Option<&Arrangement>) -> Result<Delta, ArrowError> {
        match (&self.columns, held) {
            (Some(columns), _) => Ok(columns.clone()),
            (None, Some(held)) => {
                let rows: Vec<&[u8]> = self.rows.iter().collect();
                Ok(Delta::new(held.decode(&rows)?, self.weights.clone()).net())
            }
            (None, None) => unreachable!("what a table without rows says is what came"),
        }
    }
}

impl Table {
    /// A table of these columns.
    #[must_use]
    pub fn new(schema: SchemaRef, identity: Identity) -> Table {
        Table { schema, identity }
    }

    /// The table's columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How its rows are told apart.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The net effect of changes, in order, on the rows held.
    pub(crate) fn apply(
        &self,
        held: Option<&Arrangement>,
        changes: &[&Changes],
    ) -> Result<Vec<TableDelta>, ArrowError> {
        match (&self.identity, held) {
            (Identity::AppendOnly, _) => self.append(changes),
            (Identity::Key(_), Some(held)) => KeyedStep::new(held).apply(self, changes),
            (Identity::WholeRow, Some(held)) => BagStep::new(held).apply(changes),
            (_, None) => Err(ArrowError::InvalidArgumentError("a table that is updated keeps its rows".to_owned())),
        }
    }

    fn append(&self, changes: &[&Changes]) -> Result<Vec<TableDelta>, ArrowError> {
        let codec = RowCodec::whole(&self.schema)?;
        let mut out = Vec::new();
        for changes in changes {
            if changes.ops.iter().any(|op| *op != Op::Insert) {
                return Err(ArrowError::InvalidArgumentError(
                    "a table that is only appended to was updated".to_owned(),
                ));
            }
            let batch = normal(&self.schema, &changes.rows)?;
            let rows = codec.encode(&batch)?;
            for piece in pieces(rows.iter().map(<[u8]>::len)) {
                let columns = Delta::inserts(batch.slice(piece.start, piece.len()));
                let mut encoded = EncodedRows::default();
                piece.for_each(|i| encoded.push(rows.row(i)));
                out.push(TableDelta {
                    rows: encoded,
                    weights: columns.weights.clone(),
                    columns: Some(columns),
                    moves: None,
                });
            }
        }
        Ok(out)
    }

    /// Adds rows to a copy beside the rows held.
    pub(crate) fn gather(&self, beside: &mut Beside, batch: &RecordBatch) -> Result<(), ArrowError> {
        let rows = RowCodec::whole(&self.schema)?.encode(batch)?;
        let keys =
            self.identity.key().map(|columns| RowCodec::new(&self.schema, columns)?.encode(batch)).transpose()?;
        for i in 0..batch.num_rows() {
            match &keys {
                Some(keys) => match beside.rows.find(keys.row(i)) {
                    Some(id) => beside.rows.set_payload(id, rows.row(i)),
                    None => drop(beside.rows.insert(keys.row(i), rows.row(i), 1)),
                },
                None => drop(beside.rows.add(rows.row(i), 1)),
            }
        }
        Ok(())
    }

    /// What differs between the rows held and a copy of them, in pieces.
    pub(crate) fn compare(&self, held: &Arrangement, beside: &Beside) -> Result<Vec<Difference>, ArrowError> {
        let copy = &beside.rows;
        let mut differences: Vec<(Option<u32>, Option<u32>)> = Vec::new();
        for id in held.ids() {
            let now = copy.find(held.identity_of(id));
            if now.is_none_or(|now| copy.payload(now) != held_payload(held, id) || *copy.value(now) != held.count(id)) {
                differences.push((Some(id), now));
            }
        }
        differences.extend(copy.ids().filter(|&id| held.find(copy.key(id)).is_none()).map(|id| (None, Some(id))));
        let row_of = |id: u32| if self.identity.key().is_some() { copy.payload(id) } else { copy.key(id) };
        let size = |&(old, new): &(Option<u32>, Option<u32>)| {
            old.map_or(0, |id| held.row(id).len()) + new.map_or(0, |id| row_of(id).len())
        };
        Ok(pieces(differences.iter().map(size))
            .into_iter()
            .map(|piece| Difference(differences[piece].to_vec()))
            .collect())
    }

    /// A piece of the difference as a delta.
    pub(crate) fn difference(&self, held: &Arrangement, beside: &Beside, piece: &Difference) -> TableDelta {
        let copy = &beside.rows;
        let mut out = NetRows::default();
        for &(old, new) in &piece.0 {
            if self.identity.key().is_some() {
                out.replace(old.map(|id| (id, held.row(id))), new.map(|id| copy.payload(id)));
            } else {
                let row = new.map_or_else(|| old.map_or(&[][..], |id| held.row(id)), |id| copy.key(id));
                out.count(row, new.map_or(0, |id| *copy.value(id)) - old.map_or(0, |id| held.count(id)));
            }
        }
        out.whole()
    }
}

/// Rows by which a copy and what is held differ, by their numbers there.
pub(crate) struct Difference(Vec<(Option<u32>, Option<u32>)>);

impl Beside {
    pub(crate) fn new() -> Beside {
        Beside { rows: Keyed::default() }
    }
}

fn held_payload(held: &Arrangement, id: u32) -> &[u8] {
    if held.key_codec().is_some() { held.row(id) } else { &[] }
}

/// The rows of a batch with one zero and one NaN, as they will come back from state.
fn normal(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    batch_of(schema, batch.columns().iter().map(normalise).collect(), batch.num_rows())
}

/// Where the bytes of a row that came in this step are: which batch, which row.
type Place = (usize, usize);

/// One step of a table with a key.
struct KeyedStep<'a> {
    held: &'a Arrangement,
    keys: Vec<EncodedRows>,
    /// The row held under each key, looked up all at once: misses of the cache overlap then.
    found: Vec<Vec<Option<u32>>>,
    rows: Vec<EncodedRows>,
    touched: Vec<Touched>,
    by_key: HashTable<usize>,
    hasher: DefaultHashBuilder,
    truncated: bool,
}

/// A key that a step touches.
struct Touched {
    key: Place,
    /// The row held before the step.
    held: Option<u32>,
    now: Now,
}

#[derive(Clone, Copy)]
enum Now {
    AsHeld,
    Gone,
    Row(Place),
}

impl<'a> KeyedStep<'a> {
    fn new(held: &'a Arrangement) -> KeyedStep<'a> {
        KeyedStep {
            held,
            keys: Vec::new(),
            found: Vec::new(),
            rows: Vec::new(),
            touched: Vec::new(),
            by_key: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            truncated: false,
        }
    }

    /// What the step knows of a key; looked up in the rows held at its first touch.
    fn touch(&mut self, place: Place) -> usize {
        let key = self.keys[place.0].row(place.1);
        let hash = self.hasher.hash_one(key);
        let (keys, touched) = (&self.keys, &self.touched);
        if let Some(&found) = self.by_key.find(hash, |&i| keys[touched[i].key.0].row(touched[i].key.1) == key) {
            return found;
        }
        let held = self.found[place.0][place.1];
        let now = if self.truncated { Now::Gone } else { Now::AsHeld };
        self.touched.push(Touched { key: place, held, now });
        let (keys, touched, hasher) = (&self.keys, &self.touched, &self.hasher);
        let hash_of = |&i: &usize| hasher.hash_one(keys[touched[i].key.0].row(touched[i].key.1));
        self.by_key.insert_unique(hash, touched.len() - 1, hash_of);
        touched.len() - 1
    }

    fn row_now(&self, touched: usize) -> Option<&[u8]> {
        let touched = &self.touched[touched];
        match touched.now {
            Now::AsHeld => touched.held.map(|id| self.held.row(id)),
            Now::Gone => None,
            Now::Row((batch, row)) => Some(self.rows[batch].row(row)),
        }
    }

    fn apply(mut self, table: &Table, changes: &[&Changes]) -> Result<Vec<TableDelta>, ArrowError> {
        let codec =
            self.held.key_codec().ok_or_else(|| ArrowError::InvalidArgumentError("a table with a key".to_owned()))?;
        for changes in changes {
            let keys = codec.encode(&changes.rows)?;
            self.found.push(self.held.find_each(&keys));
            self.keys.push(keys);
            self.rows.push(self.held.codec().encode(&changes.rows)?);
        }
        let ops: usize = self.keys.iter().map(EncodedRows::len).sum();
        self.touched.reserve(ops);
        self.by_key.reserve(ops, |_| 0);
        // What updates left out is filled in from the row as it is at that moment.
        self.rows.push(EncodedRows::default());
        for (batch, changes) in changes.iter().enumerate() {
            let mut unchanged = changes.unchanged.iter().peekable();
            let mut moved_from: Option<usize> = None;
            for (i, op) in changes.ops.iter().enumerate() {
                if *op == Op::Truncate {
                    self.truncated = true;
                    self.touched.iter_mut().for_each(|touched| touched.now = Now::Gone);
                    continue;
                }
                let touched = self.touch((batch, i));
                match op {
                    Op::Delete => self.touched[touched].now = Now::Gone,
                    Op::OldKey => moved_from = Some(touched),
                    _ => {
                        let mut left_out = Vec::new();
                        while let Some((_, column)) = unchanged.next_if(|(row, _)| *row as usize == i) {
                            left_out.push(*column as usize);
                        }
                        let from = moved_from.take().unwrap_or(touched);
                        let place = match self.row_now(from) {
                            Some(old) if !left_out.is_empty() => {
                                let mut row = Vec::new();
                                self.held.codec().patch(self.rows[batch].row(i), old, &left_out, &mut row);
                                let last = self.rows.len() - 1;
                                self.rows[last].push(&row);
                                (last, self.rows[last].len() - 1)
                            }
                            _ => (batch, i),
                        };
                        self.touched[from].now = Now::Gone;
                        self.touched[touched].now = Now::Row(place);
                    }
                }
            }
        }
        if let [only] = changes
            && self.is_all_new(only)
        {
            return self.inserts(table, only);
        }
        Ok(self.net())
    }

    /// Whether every change is a row of a key that was not there, each once: then the batch is the
    /// delta.
    fn is_all_new(&self, changes: &Changes) -> bool {
        let is_new = |(i, touched): (usize, &Touched)| {
            touched.held.is_none() && matches!(touched.now, Now::Row(place) if place == (0, i))
        };
        self.touched.len() == changes.ops.len() && self.touched.iter().enumerate().all(is_new)
    }

    fn inserts(&self, table: &Table, changes: &Changes) -> Result<Vec<TableDelta>, ArrowError> {
        let batch = normal(&table.schema, &changes.rows)?;
        let rows = &self.rows[0];
        let cut = pieces(rows.iter().map(<[u8]>::len));
        cut.into_iter()
            .map(|piece| {
                let columns = Delta::inserts(batch.slice(piece.start, piece.len())).net();
                let moves = (0..piece.len()).map(|new| Move { old: None, new: Some(new), held: None }).collect();
                let mut encoded = EncodedRows::default();
                piece.for_each(|i| encoded.push(rows.row(i)));
                let weights = columns.weights.clone();
                Ok(TableDelta { rows: encoded, weights, columns: Some(columns), moves: Some(moves) })
            })
            .collect()
    }

    fn net(&self) -> Vec<TableDelta> {
        let mut out = NetRows::default();
        for (i, touched) in self.touched.iter().enumerate() {
            let (old, new) = (touched.held.map(|id| (id, self.held.row(id))), self.row_now(i));
            if old.map(|(_, row)| row) != new {
                out.replace(old, new);
            }
        }
        if self.truncated {
            let touched = self.touched.iter().filter_map(|touched| touched.held);
            untouched(self.held, touched).for_each(|id| out.replace(Some((id, self.held.row(id))), None));
        }
        out.pieces()
    }
}

/// One step of a table whose rows are told apart only by all of them.
struct BagStep<'a> {
    held: &'a Arrangement,
    rows: Vec<EncodedRows>,
    touched: Vec<(Place, i64)>,
    by_row: HashTable<usize>,
    hasher: DefaultHashBuilder,
    truncated: bool,
}

impl<'a> BagStep<'a> {
    fn new(held: &'a Arrangement) -> BagStep<'a> {
        BagStep {
            held,
            rows: Vec::new(),
            touched: Vec::new(),
            by_row: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            truncated: false,
        }
    }

    fn held_count(&self, row: &[u8]) -> i64 {
        self.held.find(row).map_or(0, |id| self.held.count(id))
    }

    /// Adds to the count of a row; a row that is not there can't go.
    fn count(&mut self, place: Place, by: i64) {
        let row = self.rows[place.0].row(place.1);
        let hash = self.hasher.hash_one(row);
        let (rows, touched) = (&self.rows, &self.touched);
        let found = self.by_row.find(hash, |&i| rows[touched[i].0.0].row(touched[i].0.1) == row).copied();
        let i = match found {
            Some(found) => found,
            None => {
                let net = if self.truncated { -self.held_count(row) } else { 0 };
                self.touched.push((place, net));
                let (rows, touched, hasher) = (&self.rows, &self.touched, &self.hasher);
                self.by_row.insert_unique(hash, touched.len() - 1, |&i| {
                    hasher.hash_one(rows[touched[i].0.0].row(touched[i].0.1))
                });
                touched.len() - 1
            }
        };
        let held = self.held_count(self.rows[place.0].row(place.1));
        let net = &mut self.touched[i].1;
        if held + *net + by >= 0 {
            *net += by;
        }
    }

    fn apply(mut self, changes: &[&Changes]) -> Result<Vec<TableDelta>, ArrowError> {
        for changes in changes {
            self.rows.push(self.held.codec().encode(&changes.rows)?);
        }
        self.rows.push(EncodedRows::default());
        for (batch, changes) in changes.iter().enumerate() {
            let mut unchanged = changes.unchanged.iter().peekable();
            let mut told_old: Option<usize> = None;
            for (i, op) in changes.ops.iter().enumerate() {
                match op {
                    Op::Truncate => {
                        self.truncated = true;
                        for touched in 0..self.touched.len() {
                            let (batch, row) = self.touched[touched].0;
                            self.touched[touched].1 = -self.held_count(self.rows[batch].row(row));
                        }
                    }
                    Op::Delete => self.count((batch, i), -1),
                    Op::OldKey => {
                        told_old = Some(i);
                        self.count((batch, i), -1);
                    }
                    Op::Insert | Op::Update => {
                        let mut left_out = Vec::new();
                        while let Some((_, column)) = unchanged.next_if(|(row, _)| *row as usize == i) {
                            left_out.push(*column as usize);
                        }
                        let place = match told_old.take() {
                            // The log tells all of the old row.
                            Some(old) if !left_out.is_empty() => {
                                let mut row = Vec::new();
                                let told = &self.rows[batch];
                                self.held.codec().patch(told.row(i), told.row(old), &left_out, &mut row);
                                let last = self.rows.len() - 1;
                                self.rows[last].push(&row);
                                (last, self.rows[last].len() - 1)
                            }
                            _ => (batch, i),
                        };
                        self.count(place, 1);
                    }
                }
            }
        }
        let mut out = NetRows::default();
        for ((batch, row), net) in &self.touched {
            out.count(self.rows[*batch].row(*row), *net);
        }
        if self.truncated {
            let touched =
                self.touched.iter().filter_map(|((batch, row), _)| self.held.find(self.rows[*batch].row(*row)));
            untouched(self.held, touched).for_each(|id| out.count(self.held.row(id), -self.held.count(id)));
        }
        Ok(out.pieces())
    }
}

/// Rows of bytes on their way to becoming deltas.
#[derive(Default)]
struct NetRows<'a> {
    rows: Vec<&'a [u8]>,
    weights: Vec<i64>,
    /// Of a table with a key: the places of the rows of one key.
    moves: Vec<Move>,
}

impl<'a> NetRows<'a> {
    /// The row of a key that goes, and the one that comes; there is at least one of them.
    fn replace(&mut self, old: Option<(u32, &'a [u8])>, new: Option<&'a [u8]>) {
        let mut push = |row: Option<&'a [u8]>, weight: i64| {
            row.map(|row| {
                self.rows.push(row);
                self.weights.push(weight);
                self.rows.len() - 1
            })
        };
        let each = Move { old: push(old.map(|(_, row)| row), -1), new: push(new, 1), held: old.map(|(id, _)| id) };
        self.moves.push(each);
    }

    fn count(&mut self, row: &'a [u8], by: i64) {
        if by != 0 {
            self.rows.push(row);
            self.weights.push(by);
        }
    }

    /// As deltas of bounded size; the rows of one key stay together.
    fn pieces(self) -> Vec<TableDelta> {
        if self.moves.is_empty() {
            let cut = pieces(self.rows.iter().map(|row| row.len()));
            return cut
                .into_iter()
                .map(|piece| delta_of(&self.rows[piece.clone()], self.weights[piece].to_vec(), None))
                .collect();
        }
        let size =
            |each: &Move| each.old.map_or(0, |i| self.rows[i].len()) + each.new.map_or(0, |i| self.rows[i].len());
        let cut = pieces(self.moves.iter().map(size));
        cut.into_iter()
            .map(|piece| {
                let moves = &self.moves[piece];
                // Each move's rows lie side by side, and moves in order.
                let start = moves.iter().find_map(|each| each.old.or(each.new)).unwrap_or(0);
                let end = moves.iter().rev().find_map(|each| each.new.or(each.old)).map_or(start, |last| last + 1);
                let shifted = moves.iter().map(|each| Move {
                    old: each.old.map(|i| i - start),
                    new: each.new.map(|i| i - start),
                    ..*each
                });
                delta_of(&self.rows[start..end], self.weights[start..end].to_vec(), Some(shifted.collect()))
            })
            .collect()
    }

    /// As one delta.
    fn whole(self) -> TableDelta {
        let moves = (!self.moves.is_empty()).then_some(self.moves);
        delta_of(&self.rows, self.weights, moves)
    }
}

/// The rows held that a step does not name: a truncation takes them all the same.
fn untouched(held: &Arrangement, touched: impl Iterator<Item = u32>) -> impl Iterator<Item = u32> {
    let touched: HashSet<u32> = touched.collect();
    held.ids().filter(move |id| !touched.contains(id))
}

/// These rows of a table as they go.
pub(crate) fn removal(held: &Arrangement, ids: &[u32]) -> Vec<TableDelta> {
    let mut out = NetRows::default();
    for &id in ids {
        if held.key_codec().is_some() {
            out.replace(Some((id, held.row(id))), None);
        } else {
            out.count(held.row(id), -held.count(id));
        }
    }
    out.pieces()
}

fn delta_of(rows: &[&[u8]], weights: Vec<i64>, moves: Option<Vec<Move>>) -> TableDelta {
    let mut encoded = EncodedRows::with_capacity(rows.len(), rows.iter().map(|row| row.len()).sum());
    rows.iter().for_each(|row| encoded.push(row));
    TableDelta { rows: encoded, weights, columns: None, moves }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrangement::NullKeys;
    use crate::delta::PIECE_ROWS_MAX;
    use crate::projection::ProjectionKey;
    use crate::testing::{Client, INT, Kit, TEXT, check, orders, schema, transaction};
    use crate::{JoinKind, JoinSide, Program};
    use arrow::array::{Int64Array, StringArray};
    use expect_test::expect;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[test]
    fn a_table_says_what_is_net() {
        check(
            |kit| kit.all(kit.c),
            "+c(1, ann) +c(2, bob); +c(1, ann); ~c(1, eve) ~c(1, ann); +c(1, eve) -c(2); <c(1) ~c(3, eve); -c(9); -c(3) +c(3, eve); +c(5, y) !c(0) +c(3, eve) +c(4, x); !c(0)",
            &expect![[r#"
                1: +(1, ann) +(2, bob)
                4: -(1, ann) +(1, eve) -(2, bob)
                5: -(1, eve) +(3, eve)
                8: +(4, x)
                9: -(3, eve) -(4, x)
            "#]],
        );
    }

    #[test]
    fn whole_rows_are_counted() {
        check(
            |kit| kit.all(kit.l),
            "+l(1, x) +l(1, x) +l(2, _); -l(1, x); -l(7, y) -l(2, _) -l(2, _) +l(2, _); <l(1, x) ~l(1, y); +l(1, y) +l(4, w) !l(0) +l(1, y) +l(3, z); !l(0) +l(3, z)",
            &expect![[r#"
                1: +2(1, x) +(2, _)
                2: -(1, x)
                4: -(1, x) +(1, y)
                5: -(2, _) +(3, z)
                6: -(1, y)
            "#]],
        );
    }

    /// Values that an update leaves out are those of the row at that moment, also one that came in
    /// the same batch, also under another key. Where there is no key the log tells all of the old row.
    #[test]
    fn what_an_update_leaves_out_is_filled_in() {
        let mut kit = Kit::new();
        let inputs = [kit.all(kit.c), kit.all(kit.l)];
        let both = kit.dataflow.union(&inputs, inputs[0].schema.clone());
        let input = kit.all(both);
        kit.dataflow.serve("p", &input, ProjectionKey::WholeRow);
        let mut program = Program::new(kit.dataflow).expect("a program");
        let mut client = Client::default();
        let mut play = |text: &str, unchanged: Vec<(u32, u32)>| {
            let (table, changes) = transaction(&program, text);
            program.apply(&[(table, Changes { unchanged, ..changes })]).expect("a step");
            client.take(&diff(&mut program))
        };
        assert_eq!(play("+c(1, ann) ~c(1, _)", vec![(1, 1)]), "+(1, ann)");
        assert_eq!(play("<c(1) ~c(2, _)", vec![(1, 1)]), "-(1, ann) +(2, ann)");
        assert_eq!(play("<c(2) ~c(3, _) <c(3) ~c(4, _) ~c(4, _)", vec![(1, 1), (3, 1), (4, 1)]), "-(2, ann) +(4, ann)");
        assert_eq!(play("~c(4, _)", vec![]), "+(4, _) -(4, ann)");
        assert_eq!(play("!c(0) ~c(4, _)", vec![(1, 1)]), "", "of a row that went nothing is left");

        assert_eq!(play("+l(1, x)", vec![]), "+(1, x)");
        assert_eq!(play("<l(1, x) ~l(2, _)", vec![(1, 1)]), "-(1, x) +(2, x)");
        assert_eq!(play("<l(2, x) ~l(3, _) <l(3, x) ~l(4, _)", vec![(1, 1), (3, 1)]), "-(2, x) +(4, x)");
        assert_eq!(play("<l(4, x) ~l(4, _)", vec![]), "+(4, _) -(4, x)", "NULL is what was sent");
        assert_eq!(play("~l(5, _)", vec![(0, 1)]), "+(5, _)", "nothing is told of an old row");
    }

    /// What the one projection has to say.
    fn diff(program: &mut Program) -> Vec<crate::DiffPart> {
        let published = program.publish().expect("an epoch");
        let parts = published.into_iter().flat_map(|(_, published)| match published {
            crate::Published::Diff(parts) => parts,
            crate::Published::KeyConflict { key } => panic!("a conflict at {key}"),
        });
        parts.collect()
    }

    /// A step of very many rows goes in pieces, and what becomes of them in state is the same: rows
    /// are found under their new customer and no more under the old one.
    #[test]
    fn a_step_of_many_rows_goes_in_pieces() {
        let rows = PIECE_ROWS_MAX + 5;
        let mut kit = Kit::new();
        let sides = (
            kit.dataflow.arrange(kit.c, vec![0], NullKeys::NeverMatch),
            kit.dataflow.arrange(kit.o, vec![1], NullKeys::NeverMatch),
        );
        let columns = vec![(JoinSide::Left, 1), (JoinSide::Right, 0)];
        let node = kit.dataflow.join("of".into(), JoinKind::Inner, sides, columns, schema(&[("c", TEXT), ("o", INT)]));
        let input = kit.all(node);
        kit.dataflow.serve("p", &input, ProjectionKey::WholeRow);
        let mut program = Program::new(kit.dataflow).expect("a program");
        let table = program.table_id("o").expect("orders");
        let told = |program: &mut Program| {
            let mut told: BTreeMap<String, i64> = BTreeMap::new();
            for part in diff(program) {
                assert!(part.weights.len() <= PIECE_ROWS_MAX);
                for (row, weight) in crate::testing::show(&part.batch).iter().zip(part.weights) {
                    *told.entry(row[1..4].to_owned()).or_default() += weight;
                }
            }
            told.into_iter().collect::<Vec<_>>()
        };
        let many = i64::try_from(rows).unwrap_or_default();
        program.apply(&crate::testing::changes(&program, "+c(1, ann) +c(2, bob)")).expect("a step");
        for (customer, expected) in
            [(1, vec![("ann", many)]), (2, vec![("ann", -many), ("bob", many)]), (3, vec![("bob", -many)])]
        {
            program.apply(&[(table, orders(Op::Insert, rows, customer))]).expect("a step");
            assert_eq!(told(&mut program), expected.into_iter().map(|(c, n)| (c.to_owned(), n)).collect::<Vec<_>>());
        }
        program.apply(&[(table, orders(Op::Delete, rows - 1, 0))]).expect("a step");
        program.apply(&crate::testing::changes(&program, "+c(3, eve) +o(1, 3, 3)")).expect("a step");
        assert_eq!(told(&mut program), [("eve".to_owned(), 2)], "the last one and the one that came back");
    }

    /// Rows of three MiB: two of them make a piece, and the two rows of a key are never apart.
    #[test]
    fn pieces_are_bounded_by_bytes() {
        let columns = schema(&[("id", INT), ("t", TEXT)]);
        let rows = |ids: Vec<i64>, letter: &str| {
            let texts: StringArray = ids.iter().map(|_| Some(letter.repeat(3 << 20))).collect();
            RecordBatch::try_new(columns.clone(), vec![Arc::new(Int64Array::from(ids)), Arc::new(texts)]).expect("rows")
        };
        let changes = |op: Op, letter: &str| {
            [Changes { rows: rows(vec![1, 2, 3], letter), ops: vec![op; 3], unchanged: Vec::new() }]
        };
        for identity in [Identity::Key(vec![0]), Identity::WholeRow] {
            let table = Table::new(columns.clone(), identity.clone());
            let mut held = Arrangement::new(columns.clone(), identity.key()).expect("an arrangement");
            let play = |held: &mut Arrangement, changes: &[Changes]| {
                let deltas = table.apply(Some(held), &changes.iter().collect::<Vec<_>>()).expect("deltas");
                let sizes: Vec<usize> = deltas.iter().map(|piece| piece.weights.len()).collect();
                for TableDelta { rows, weights, moves, .. } in deltas {
                    held.change_rows(rows, weights, moves);
                }
                held.fold();
                (sizes, held.len())
            };
            assert_eq!(play(&mut held, &changes(Op::Insert, "a")), (vec![2, 1], 3), "{identity:?}");
            if table.identity().key().is_some() {
                assert_eq!(play(&mut held, &changes(Op::Insert, "b")), (vec![2, 2, 2], 3));
            }
            // A copy beside them.
            let (mut copy, mut same) = (Beside::new(), Beside::new());
            table.gather(&mut copy, &rows(vec![5, 6, 7], "c")).expect("rows");
            for id in held.ids() {
                same.rows.insert(held.identity_of(id), held_payload(&held, id), 1);
            }
            let differ = |copy: &Beside| {
                let pieces = table.compare(&held, copy).expect("pieces");
                pieces.iter().map(|piece| piece.0.len()).collect::<Vec<_>>()
            };
            assert_eq!((differ(&copy), differ(&same)), (vec![2, 2, 2], vec![]), "three go, three come");
            let last = if identity == Identity::WholeRow { "a" } else { "b" };
            assert_eq!(play(&mut held, &changes(Op::Delete, last)), (vec![2, 1], 0), "{identity:?}");
        }
    }

    /// A table that is only appended to keeps nothing, and can be joined and counted all the same.
    #[test]
    fn appended_rows_are_not_kept() {
        let mut kit = Kit::new();
        let schema = kit.dataflow.schema(kit.l).clone();
        let log = kit.dataflow.table("log", schema, Identity::AppendOnly);
        let input = kit.all(log);
        kit.dataflow.serve("p", &input, ProjectionKey::WholeRow);
        let mut program = Program::new(kit.dataflow).expect("a program");
        let table = program.table_id("log").expect("the table");
        for _ in 0..2 {
            let rows = crate::testing::changes(&program, "+l(1, x)").remove(0).1;
            program.apply(&[(table, rows)]).expect("a step");
            assert_eq!(program.publish().expect("an epoch").len(), 1);
        }
        assert_eq!(program.table_rows(table), 0);
        let update = crate::testing::changes(&program, "-l(1, x)").remove(0).1;
        assert!(program.apply(&[(table, update)]).is_err(), "the source promised not to");
    }

    /// A copy beside the rows held: only what differs is said.
    #[test]
    fn a_copy_is_compared() {
        for (table, first, second, told) in [
            (
                "c",
                "+c(1, ann) +c(2, bob) +c(3, eve)",
                "+c(1, ann) +c(2, bo) +c(4, x)",
                "+(2, bo) -(2, bob) -(3, eve) +(4, x)",
            ),
            ("l", "+l(1, x) +l(1, x) +l(2, y)", "+l(1, x) +l(3, z) +l(3, z)", "-(1, x) -(2, y) +2(3, z)"),
        ] {
            let mut kit = Kit::new();
            let input = kit.all(if table == "c" { kit.c } else { kit.l });
            kit.dataflow.serve("p", &input, ProjectionKey::WholeRow);
            let mut program = Program::new(kit.dataflow).expect("a program");
            let id = program.table_id(table).expect("the table");
            let mut client = Client::default();
            for (rows, expected) in [(first, None), (second, Some(told)), (second, Some(""))] {
                let mut copy = program.begin_copy(id);
                assert_eq!(matches!(copy, TableCopy::Straight), expected.is_none(), "into an empty table");
                for (_, part) in crate::testing::changes(&program, rows) {
                    program.copy(id, &mut copy, part.rows).expect("rows");
                }
                program.finish_copy(id, copy).expect("a copy");
                let said = client.take(&diff(&mut program));
                if let Some(expected) = expected {
                    let sorted = |text: &str| {
                        let mut words: Vec<String> =
                            text.split_inclusive(')').map(|word| word.trim().to_owned()).collect();
                        words.sort();
                        words
                    };
                    assert_eq!(sorted(&said), sorted(expected));
                }
            }
        }
    }
}
