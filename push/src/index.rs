//! Where the rows of a projection are that have certain values in certain columns, so that an image
//! under `customer_id = ?` reads what it matches, and not the projection.
//!
//! Rows whose key is among those values are found by the key. For other columns an index is made
//! when somebody asks for rows by them, by a thread beside everything else, and kept up by the
//! publisher once clients have been told; until it is there, images look through all rows. It holds
//! a hash of the values and the key of each row, about 25 bytes. What it finds is looked at again:
//! hashes may meet.

use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use filter::{IndexTerms, Predicate};
use pipeline::row::RowCodec;

use crate::rows::{RowForm, RowRef, Rows};
use crate::tree::Tree;

/// Projections of fewer rows are looked through.
pub const ROWS_MIN: i64 = 4096;
/// Indexes of one projection at most: each costs memory, and time for each row that changes.
const INDEXES_MAX: usize = 4;
/// An index that nobody has asked for so long is dropped.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// An index that is so many changes behind is made anew, where nobody waits for it.
pub const UPKEEP_MAX: usize = 100_000;
/// So many changes are made up for while a client waits.
pub const CATCH_UP_MAX: usize = 1000;

/// Bytes of a hash.
const HASH_BYTES: usize = size_of::<u64>();

/// The keys of rows, by the values of some columns.
#[derive(Clone, Debug)]
pub struct Index {
    of: Arc<IndexedColumns>,
    /// The rows that it is of.
    rows: Rows,
    /// For each row the hash of its values, then its key.
    tree: Tree,
}

#[derive(Debug)]
struct IndexedColumns {
    columns: Vec<usize>,
    codec: RowCodec,
    hashes: RandomState,
}

impl Index {
    /// An index of no rows.
    ///
    /// # Errors
    /// When a column has no row format.
    pub fn new(schema: &SchemaRef, columns: &[usize], has_key: bool) -> Result<Index, ArrowError> {
        let codec = RowCodec::new(schema, columns)?;
        let of = IndexedColumns { columns: columns.to_vec(), codec, hashes: RandomState::new() };
        Ok(Index { of: Arc::new(of), rows: Rows::new(has_key), tree: Tree::default() })
    }

    /// The index of these rows; `None` when more than `max` are different. Costs what is different.
    #[must_use]
    pub fn brought_to(&self, rows: &Rows, form: &RowForm, max: usize) -> Option<Index> {
        let mut tree = self.tree.clone();
        let mut values = Vec::new();
        let mut entry = |row: RowRef<'_>| {
            form.project(row, &self.of.columns, &self.of.codec, &mut values);
            [&self.of.hash(&values), row.key].concat()
        };
        for (done, pair) in self.rows.diff(rows, Bound::Unbounded).enumerate() {
            if done == max {
                return None;
            }
            let [old, new] = pair.map(|row| row.map(&mut entry));
            if old == new {
                continue;
            }
            if let Some(old) = old {
                tree.remove(&old);
            }
            if let Some(new) = new {
                tree.insert(&new, &[]);
            }
        }
        Some(Index { of: Arc::clone(&self.of), rows: rows.clone(), tree })
    }

    /// The columns, ascending.
    #[must_use]
    pub fn columns(&self) -> &[usize] {
        &self.of.columns
    }

    /// The keys of rows that may have the values of a hash, from behind a key on.
    fn keys<'a>(&'a self, hash: [u8; HASH_BYTES], after: Option<&[u8]>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let from = [&hash[..], after.unwrap_or_default()].concat();
        let from = if after.is_some() { Bound::Excluded(&from[..]) } else { Bound::Included(&from[..]) };
        let entries = self.tree.range(from);
        entries
            .map_while(move |(entry, _)| entry.split_first_chunk().filter(|(of, _)| **of == hash).map(|(_, key)| key))
    }
}

impl IndexedColumns {
    fn hash(&self, values: &[u8]) -> [u8; HASH_BYTES] {
        self.hashes.hash_one(values).to_be_bytes()
    }

    /// The hashes of tuples of values.
    fn hashes(&self, schema: &SchemaRef, tuples: &[ArrayRef]) -> Result<Vec<[u8; HASH_BYTES]>, ArrowError> {
        let fields: Vec<Field> = self.columns.iter().map(|&column| nullable(schema.field(column))).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), tuples.to_vec())?;
        let codec = RowCodec::new(&batch.schema(), &(0..tuples.len()).collect::<Vec<_>>())?;
        Ok(codec.encode(&batch)?.iter().map(|values| self.hash(values)).collect())
    }
}

fn nullable(field: &Field) -> Field {
    field.clone().with_nullable(true)
}

/// The values that rows are looked up by.
#[derive(Debug)]
pub struct Terms {
    /// The columns, ascending.
    pub columns: Vec<usize>,
    /// Tuples of values; some may be there twice.
    tuples: Vec<Vec<ArrayRef>>,
}

impl Terms {
    /// The values that every row has which one of these predicates matches, in columns that are the
    /// same for all of them. `None` when there are none such.
    #[must_use]
    pub fn of(predicates: &[&Predicate]) -> Option<Terms> {
        let mut terms: Option<Terms> = None;
        for predicate in predicates.iter().filter(|predicate| !predicate.is_none()) {
            let IndexTerms { columns, alternatives, .. } = predicate.index_terms()?;
            let all = terms.get_or_insert_with(|| Terms { columns: columns.clone(), tuples: Vec::new() });
            if all.columns != columns {
                return None;
            }
            all.tuples.push(alternatives);
        }
        terms
    }
}

/// Where the rows are that a reader may find wanted.
#[derive(Debug)]
pub enum Lookup {
    /// Those of these keys.
    Keys(Vec<Box<[u8]>>),
    /// Those that an index has under these hashes.
    Index(Index, Vec<[u8; HASH_BYTES]>),
}

impl Lookup {
    /// By the key, where the terms name all of its columns.
    ///
    /// # Errors
    /// When the terms are not of the schema, which would be a mistake of ours.
    pub fn by_key(terms: &Terms, key: &[usize], form: &RowForm) -> Result<Option<Lookup>, ArrowError> {
        if key.is_empty() || !key.iter().all(|column| terms.columns.contains(column)) {
            return Ok(None);
        }
        let schema = form.schema();
        let fields: Vec<Field> = schema.fields().iter().map(|field| nullable(field)).collect();
        let open = Arc::new(Schema::new(fields));
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        for tuples in &terms.tuples {
            let count = tuples.first().map_or(0, |values| values.len());
            let columns = (0..open.fields().len()).map(|column| match terms.columns.binary_search(&column) {
                Ok(at) => Arc::clone(&tuples[at]),
                Err(_) => new_null_array(open.field(column).data_type(), count),
            });
            let options = RecordBatchOptions::new().with_row_count(Some(count));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&open), columns.collect(), &options)?;
            keys.extend(form.keys(&batch, &form.encode(&batch)?)?.iter().map(Into::into));
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(Some(Lookup::Keys(keys)))
    }

    /// By an index of the terms' columns.
    ///
    /// # Errors
    /// As [`Lookup::by_key`].
    pub fn by_index(terms: &Terms, index: Index, schema: &SchemaRef) -> Result<Lookup, ArrowError> {
        let hashes = terms.tuples.iter().map(|tuples| index.of.hashes(schema, tuples));
        let mut hashes = hashes.collect::<Result<Vec<_>, _>>()?.concat();
        hashes.sort_unstable();
        hashes.dedup();
        Ok(Lookup::Index(index, hashes))
    }

    /// Rows that may be wanted, from a place on: each with the place behind it.
    pub fn rows<'a>(&'a self, rows: &'a Rows, from: &Place) -> Box<dyn Iterator<Item = (RowRef<'a>, usize)> + 'a> {
        let first = from.list;
        match self {
            Lookup::Keys(keys) => {
                let keys = keys.iter().enumerate().skip(first);
                Box::new(keys.filter_map(|(list, key)| Some((rows.get(key)?, list + 1))))
            }
            Lookup::Index(index, hashes) => {
                let after = from.after.clone();
                let lists = hashes.iter().enumerate().skip(first);
                Box::new(lists.flat_map(move |(list, hash)| {
                    let after = after.as_deref().filter(|_| list == first);
                    index.keys(*hash, after).filter_map(move |key| Some((rows.get(key)?, list)))
                }))
            }
        }
    }
}

/// How far a reader has come in a [`Lookup`].
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// In which of its lists.
    pub list: usize,
    /// Behind which key of that.
    pub after: Option<Arc<[u8]>>,
}

/// The indexes of a projection.
#[derive(Debug, Default)]
pub struct Indexes {
    held: Vec<(Index, Instant)>,
}

impl Indexes {
    /// The index of these columns, as the publisher has left it.
    pub fn find(&mut self, columns: &[usize]) -> Option<Index> {
        let (index, used) = self.held.iter_mut().find(|(index, _)| index.of.columns == columns)?;
        *used = Instant::now();
        Some(index.clone())
    }

    /// Whether there is room for one more.
    #[must_use]
    pub fn has_room(&mut self) -> bool {
        self.drop_idle();
        self.held.len() < INDEXES_MAX
    }

    fn drop_idle(&mut self) {
        self.held.retain(|(_, used)| used.elapsed() < IDLE_MAX);
    }

    /// Adds an index.
    pub fn add(&mut self, index: Index) {
        if self.has_room() && self.held.iter().all(|(held, _)| held.of.columns != index.of.columns) {
            self.held.push((index, Instant::now()));
        }
    }

    /// Those that are wanted still, for the publisher to bring up to date.
    #[must_use]
    pub fn wanted(&mut self) -> Vec<Index> {
        self.drop_idle();
        self.held.iter().map(|(index, _)| index.clone()).collect()
    }

    /// Has these in place of what [`Indexes::wanted`] gave, which nobody else replaces.
    pub fn replace(&mut self, columns: &[usize], by: Option<Index>) {
        let Some(at) = self.held.iter().position(|(index, _)| index.of.columns == columns) else { return };
        match by {
            Some(index) => self.held[at].0 = index,
            None => drop(self.held.remove(at)),
        }
    }
}
