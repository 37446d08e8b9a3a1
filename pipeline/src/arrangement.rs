//! Rows indexed by a key, shared by every operator that needs them so.
//!
//! During a step an arrangement shows the state at the end of the step before, with this step's
//! changes beside it ([`Arrangement::changes`]); they are folded in when the step is over. That is
//! what lets several joins share one arrangement in any order, and it gives the join its rule
//! with old state only: `Δ(A⋈B) = ΔA⋈B + A⋈ΔB + ΔA⋈ΔB`.

use arrow::array::{Array, BooleanBufferBuilder, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::Rows;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use crate::delta::{Delta, net};
use crate::row::{RowBytes, RowCodec};

/// Above this many distinct rows a key's group is a hash map, so that taking one out of a large
/// group does not walk all of it. At or below, a short list is smaller and quicker.
const FEW_ROWS_MAX: usize = 16;

/// What a NULL in the key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NullKeys {
    /// Such a row equals no other (SQL's `=`); it is not kept.
    NeverMatch,
    /// NULL is a value like any other (`IS NOT DISTINCT FROM`).
    Match,
}

/// Rows of one input by key.
#[derive(Debug)]
pub struct Arrangement {
    schema: SchemaRef,
    key_columns: Vec<usize>,
    nulls: NullKeys,
    key_codec: RowCodec,
    row_codec: RowCodec,
    groups: HashMap<RowBytes, Group>,
    changes: Option<Changed>,
}

/// What a step changes in an arrangement: consolidated, with keys and rows encoded once for all
/// who share it.
#[derive(Debug)]
pub struct Changed {
    /// The rows and their weights.
    pub delta: Delta,
    /// The key of each row.
    pub keys: Rows,
    rows: Rows,
    /// Which rows have no NULL that keeps them from matching; `None` when all match.
    matching: Option<BooleanBuffer>,
}

impl Changed {
    /// Whether row `i` can match at all.
    #[must_use]
    pub fn matches(&self, i: usize) -> bool {
        self.matching.as_ref().is_none_or(|matching| matching.value(i))
    }

    /// The bytes of row `i`.
    #[must_use]
    pub fn row(&self, i: usize) -> &[u8] {
        self.rows.row(i).data()
    }
}

impl Arrangement {
    /// An arrangement with no rows.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn new(schema: SchemaRef, key_columns: Vec<usize>, nulls: NullKeys) -> Result<Arrangement, ArrowError> {
        Ok(Arrangement {
            key_codec: RowCodec::new(&schema, &key_columns)?,
            row_codec: RowCodec::whole(&schema)?,
            schema,
            key_columns,
            nulls,
            groups: HashMap::new(),
            changes: None,
        })
    }

    /// The columns of its rows.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether another arrangement's keys can be looked up here.
    #[must_use]
    pub fn has_key_types_of(&self, other: &Arrangement) -> bool {
        let types = |it: &Arrangement| it.key_columns.iter().map(|&c| it.schema.field(c).data_type().clone()).collect::<Vec<_>>();
        types(self) == types(other)
    }

    /// Takes in what this step changes.
    ///
    /// # Errors
    /// When the delta does not have the arrangement's columns.
    pub fn change(&mut self, delta: &Delta) -> Result<(), ArrowError> {
        let mut rows = self.row_codec.encode(&delta.batch)?;
        let mut delta = delta.clone();
        if let Some((kept, weights)) = net(&rows, &delta.weights) {
            delta = delta.take(&kept)?;
            delta.weights = weights;
            rows = self.row_codec.encode(&delta.batch)?;
        }
        let keys = self.key_codec.encode(&delta.batch)?;
        let matching = match self.nulls {
            NullKeys::Match => None,
            NullKeys::NeverMatch => without_nulls(&delta.batch, &self.key_columns),
        };
        self.changes = Some(Changed { delta, keys, rows, matching });
        Ok(())
    }

    /// What this step changes; `None` when nothing.
    #[must_use]
    pub fn changes(&self) -> Option<&Changed> {
        self.changes.as_ref().filter(|changes| !changes.delta.is_empty())
    }

    /// The rows under a key at the end of the step before.
    #[must_use]
    pub fn group(&self, key: &[u8]) -> Option<&Group> {
        self.groups.get(key)
    }

    /// Columns from the bytes of rows of this arrangement.
    ///
    /// # Errors
    /// When the bytes are not of this arrangement, which would be a mistake of ours.
    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>, len: usize) -> Result<RecordBatch, ArrowError> {
        self.row_codec.decode_batch(&self.schema, rows, len)
    }

    /// Ends the step: its changes become state.
    pub fn fold(&mut self) {
        let Some(changes) = self.changes.take() else { return };
        for (i, &weight) in changes.delta.weights.iter().enumerate() {
            if !changes.matches(i) {
                continue;
            }
            let key = changes.keys.row(i).data();
            match self.groups.entry_ref(key) {
                EntryRef::Occupied(mut group) => {
                    group.get_mut().add(changes.row(i), weight);
                    if group.get().is_empty() {
                        group.remove();
                    }
                }
                EntryRef::Vacant(group) => {
                    group.insert_with_key(key.into(), Group::default()).add(changes.row(i), weight);
                }
            }
        }
    }

    /// Keys held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether no key is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

/// The rows under one key, each with its count.
#[derive(Debug, Default)]
pub struct Group {
    /// The sum of the counts, kept so that asking whether a key has any row costs nothing.
    total: i64,
    rows: GroupRows,
}

#[derive(Debug)]
enum GroupRows {
    /// Up to [`FEW_ROWS_MAX`].
    Few(Vec<(RowBytes, i64)>),
    Many(HashMap<RowBytes, i64>),
}

impl Default for GroupRows {
    fn default() -> GroupRows {
        GroupRows::Few(Vec::new())
    }
}

impl Group {
    /// How many rows, each as often as it counts.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.total
    }

    /// Calls `each` with every row and its count.
    pub fn for_each<'a>(&'a self, mut each: impl FnMut(&'a [u8], i64)) {
        match &self.rows {
            GroupRows::Few(rows) => rows.iter().for_each(|(row, weight)| each(row, *weight)),
            GroupRows::Many(rows) => rows.iter().for_each(|(row, weight)| each(row, *weight)),
        }
    }

    fn is_empty(&self) -> bool {
        match &self.rows {
            GroupRows::Few(rows) => rows.is_empty(),
            GroupRows::Many(rows) => rows.is_empty(),
        }
    }

    fn add(&mut self, row: &[u8], weight: i64) {
        self.total += weight;
        match &mut self.rows {
            GroupRows::Few(rows) => match rows.iter_mut().position(|(held, _)| **held == *row) {
                Some(i) => {
                    rows[i].1 += weight;
                    if rows[i].1 == 0 {
                        rows.swap_remove(i);
                    }
                }
                None if rows.len() < FEW_ROWS_MAX => rows.push((row.into(), weight)),
                None => {
                    let mut many: HashMap<RowBytes, i64> = rows.drain(..).collect();
                    many.insert(row.into(), weight);
                    self.rows = GroupRows::Many(many);
                }
            },
            GroupRows::Many(rows) => match rows.entry_ref(row) {
                EntryRef::Occupied(mut held) => {
                    *held.get_mut() += weight;
                    if *held.get() == 0 {
                        held.remove();
                    }
                }
                EntryRef::Vacant(entry) => {
                    entry.insert_with_key(row.into(), weight);
                }
            },
        }
    }
}

/// The rows that have no NULL in these columns; `None` when that is all of them.
fn without_nulls(batch: &RecordBatch, columns: &[usize]) -> Option<BooleanBuffer> {
    let with_nulls: Vec<_> = columns.iter().map(|&column| batch.column(column)).filter(|array| array.null_count() > 0).collect();
    if with_nulls.is_empty() {
        return None;
    }
    let mut matching = BooleanBufferBuilder::new(batch.num_rows());
    for row in 0..batch.num_rows() {
        matching.append(with_nulls.iter().all(|array| array.is_valid(row)));
    }
    Some(matching.finish())
}
