//! The rows of a projection, and what changed since they were last published.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use crate::delta::Delta;
use crate::row::{RowBytes, RowCodec};

/// Where clients look a row up.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Nothing changed.
    Unchanged,
    /// The net change since the last publication, consolidated.
    Diff(Delta),
    /// Two rows have the declared key: nothing is published until one of them is gone.
    KeyConflict {
        /// The key's columns with its values, as `id = 7`.
        key: String,
    },
}

/// The rows served.
#[derive(Debug)]
pub struct Projection {
    schema: SchemaRef,
    key: ProjectionKey,
    codec: RowCodec,
    key_codec: Option<RowCodec>,
    rows: HashMap<RowBytes, i64>,
    /// Net change since the last publication.
    unpublished: HashMap<RowBytes, i64>,
    /// Rows under each declared key.
    keys: HashMap<RowBytes, i64>,
    /// Declared keys that two rows have.
    conflicts: HashMap<RowBytes, ()>,
    /// The last answer was a conflict: that it is gone must be said, even when nothing else changed.
    was_in_conflict: bool,
}

/// A row that was taken away more often than it came: a mistake of ours, never of the data.
#[derive(Debug, thiserror::Error)]
#[error("a row of the projection would count {0} times")]
pub struct NegativeCount(pub i64);

impl Projection {
    /// A projection with no rows yet.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn new(schema: SchemaRef, key: ProjectionKey) -> Result<Projection, ArrowError> {
        let key_codec = match &key {
            ProjectionKey::Declared(columns) => Some(RowCodec::new(&schema, columns)?),
            _ => None,
        };
        Ok(Projection {
            codec: RowCodec::whole(&schema)?,
            schema,
            key,
            key_codec,
            rows: HashMap::new(),
            unpublished: HashMap::new(),
            keys: HashMap::new(),
            conflicts: HashMap::new(),
            was_in_conflict: false,
        })
    }

    /// Its columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &ProjectionKey {
        &self.key
    }

    /// Distinct rows held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes in what a step changes.
    ///
    /// # Errors
    /// When the delta does not have the projection's columns.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), ArrowError> {
        let rows = self.codec.encode(&delta.batch)?;
        for (i, &weight) in delta.weights.iter().enumerate() {
            count(&mut self.unpublished, rows.row(i).data(), weight);
            count(&mut self.rows, rows.row(i).data(), weight);
        }
        if let Some(codec) = &self.key_codec {
            let keys = codec.encode(&delta.batch)?;
            for (i, &weight) in delta.weights.iter().enumerate() {
                let key = keys.row(i).data();
                if count(&mut self.keys, key, weight) > 1 {
                    self.conflicts.insert(key.into(), ());
                } else if !self.conflicts.is_empty() {
                    self.conflicts.remove(key);
                }
            }
        }
        Ok(())
    }

    /// Ends an epoch: hands over the net change since the last time.
    ///
    /// # Errors
    /// When a row's count would be negative.
    pub fn publish(&mut self) -> Result<Published, PublishError> {
        if self.unpublished.is_empty() && self.conflicts.is_empty() && !self.was_in_conflict {
            return Ok(Published::Unchanged);
        }
        self.was_in_conflict = !self.conflicts.is_empty();
        for row in self.unpublished.keys() {
            let held = self.rows.get(row).copied().unwrap_or(0);
            if held < 0 {
                return Err(NegativeCount(held).into());
            }
        }
        if let (Some(key), Some(codec)) = (self.conflicts.keys().next(), &self.key_codec) {
            return Ok(Published::KeyConflict { key: self.show_key(codec, key)? });
        }
        let unpublished = std::mem::take(&mut self.unpublished);
        let batch = self.codec.decode_batch(&self.schema, unpublished.keys().map(|row| &**row), unpublished.len())?;
        Ok(Published::Diff(Delta::new(batch, unpublished.into_values().collect())))
    }

    /// All rows, with their counts.
    ///
    /// # Errors
    /// When the rows held can't be decoded, which would be a mistake of ours.
    pub fn image(&self) -> Result<(RecordBatch, Vec<i64>), ArrowError> {
        let batch = self.codec.decode_batch(&self.schema, self.rows.keys().map(|row| &**row), self.rows.len())?;
        Ok((batch, self.rows.values().copied().collect()))
    }

    fn show_key(&self, codec: &RowCodec, key: &[u8]) -> Result<String, ArrowError> {
        let columns = self.key.columns().unwrap_or_default();
        let values = codec.decode([key])?;
        let mut shown = Vec::with_capacity(columns.len());
        for (&column, value) in columns.iter().zip(&values) {
            let formatter = ArrayFormatter::try_new(value.as_ref(), &FormatOptions::default().with_null("NULL"))?;
            shown.push(format!("{} = {}", self.schema.field(column).name(), formatter.value(0)));
        }
        Ok(shown.join(", "))
    }
}

/// Why an epoch could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A mistake of ours.
    #[error(transparent)]
    NegativeCount(#[from] NegativeCount),
    /// A mistake of ours.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// Adds to a row's count, forgets it at zero, and returns the new count.
fn count(rows: &mut HashMap<RowBytes, i64>, row: &[u8], weight: i64) -> i64 {
    match rows.entry_ref(row) {
        EntryRef::Occupied(mut held) => {
            *held.get_mut() += weight;
            let now = *held.get();
            if now == 0 {
                held.remove();
            }
            now
        }
        EntryRef::Vacant(entry) => *entry.insert_with_key(row.into(), weight),
    }
}
