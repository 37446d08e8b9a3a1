//! The rows of one input, once, and the indexes over them.
//!
//! Every operator that needs the rows of a node reads the one [`Arrangement`] of it; each key by
//! which they are looked up is an index of small numbers into the same rows. A table keyed by its
//! primary key is its own index on that key. Indexes keep no keys (a row knows its own) and are not
//! written: they are made again from the rows.
//!
//! During a step an arrangement shows the state at the end of the step before, with this step's
//! changes beside it ([`Arrangement::changes`]); they are folded in when the step is over. That is
//! what lets several joins share one arrangement in any order, and it gives the join its rule
//! with old state only: `Δ(A⋈B) = ΔA⋈B + A⋈ΔB + ΔA⋈ΔB`.

use std::hash::BuildHasher;
use std::ops::{AddAssign, SubAssign};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use hashbrown::{DefaultHashBuilder, HashSet, HashTable};

use crate::delta::{Delta, add_count, net};
use crate::fault::Faults;
use crate::row::{EncodedRows, RowCodec, is_faulty};
use crate::state::{Keyed, Reader, Store};

/// Above this many rows a key's group is a set, so that taking one out of a large group does not
/// walk all of it. At or below, a list is smaller and quicker.
const FEW_ROWS_MAX: usize = 32;

/// What a NULL in the key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NullKeys {
    /// Such a row equals no other (SQL's `=`); it is not found.
    NeverMatch,
    /// NULL is a value like any other (`IS NOT DISTINCT FROM`).
    Match,
}

/// An index of an arrangement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexId(pub usize);

/// The rows of one node, and the indexes over them.
#[derive(Debug)]
pub struct Arrangement {
    schema: SchemaRef,
    rows: Rows,
    /// `None` where an index was dropped: the others keep their place.
    indexes: Vec<Option<Index>>,
    changes: Vec<Changed>,
}

/// Rows by identity.
#[derive(Debug)]
struct Rows {
    codec: RowCodec,
    /// The columns that tell rows apart, with their codec; `None` when it is the whole row.
    key: Option<(Vec<usize>, RowCodec)>,
    /// By the key, with the row for a payload; or by the whole row.
    held: Keyed<i64>,
    /// Rows with a fault.
    faulty: usize,
}

impl Rows {
    fn row(&self, id: u32) -> &[u8] {
        if self.key.is_some() { self.held.payload(id) } else { self.held.key(id) }
    }

    /// How often a row is there, and whether for sure.
    fn matches(&self, id: u32) -> Matches {
        let mut matches = Matches::default();
        matches.add(*self.held.value(id), self.is_doubtful(id));
        matches
    }

    fn is_doubtful(&self, id: u32) -> bool {
        let row = self.row(id);
        is_faulty(row) && self.codec.fault(row).is_some_and(|fault| fault.doubt)
    }
}

/// Row numbers by key.
#[derive(Debug)]
struct Index {
    columns: Vec<usize>,
    nulls: NullKeys,
    codec: RowCodec,
    /// The rows are keyed by just these columns: they are the index.
    is_primary: bool,
    groups: HashTable<Group>,
    hasher: DefaultHashBuilder,
    /// Rows whose key is not known.
    unknown: Option<Group>,
    heap: usize,
}

/// The rows under one key; never empty.
#[derive(Debug)]
enum Group {
    One(u32),
    More(Box<Members>),
}

#[derive(Debug)]
struct Members {
    /// The sum of the rows' counts, kept so that asking for it does not walk them.
    total: Matches,
    ids: Ids,
}

#[derive(Debug)]
enum Ids {
    /// Up to [`FEW_ROWS_MAX`].
    Few(Vec<u32>),
    Many(HashSet<u32>),
}

/// Row numbers of a group; the same order each time while the group is not changed.
pub(crate) enum RowNumbers<'a> {
    One(Option<u32>),
    Few(std::slice::Iter<'a, u32>),
    Many(hashbrown::hash_set::Iter<'a, u32>),
}

impl Iterator for RowNumbers<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        match self {
            RowNumbers::One(id) => id.take(),
            RowNumbers::Few(ids) => ids.next().copied(),
            RowNumbers::Many(ids) => ids.next().copied(),
        }
    }
}

impl Group {
    fn first(&self) -> u32 {
        match self {
            Group::One(id) => *id,
            Group::More(members) => match &members.ids {
                Ids::Few(ids) => ids[0],
                Ids::Many(ids) => *ids.iter().next().expect("a group has a row"),
            },
        }
    }

    fn iter(&self) -> RowNumbers<'_> {
        match self {
            Group::One(id) => RowNumbers::One(Some(*id)),
            Group::More(members) => match &members.ids {
                Ids::Few(ids) => RowNumbers::Few(ids.iter()),
                Ids::Many(ids) => RowNumbers::Many(ids.iter()),
            },
        }
    }

    /// How often its rows are there.
    fn matches(&self, rows: &Rows) -> Matches {
        match self {
            Group::One(id) => rows.matches(*id),
            Group::More(members) => members.total,
        }
    }

    /// Adds a row that is in `rows` and not here.
    fn add(&mut self, rows: &Rows, id: u32) {
        match self {
            Group::One(first) => {
                let mut total = rows.matches(*first);
                total += rows.matches(id);
                *self = Group::More(Box::new(Members { total, ids: Ids::Few(vec![*first, id]) }));
            }
            Group::More(members) => {
                members.total += rows.matches(id);
                match &mut members.ids {
                    Ids::Few(ids) if ids.len() < FEW_ROWS_MAX => ids.push(id),
                    Ids::Few(ids) => members.ids = Ids::Many(ids.drain(..).chain([id]).collect()),
                    Ids::Many(ids) => {
                        ids.insert(id);
                    }
                }
            }
        }
    }

    /// Takes a row out that is still in `rows`; `true` when the group is empty then.
    fn remove(&mut self, rows: &Rows, id: u32) -> bool {
        match self {
            Group::One(_) => true,
            Group::More(members) => {
                members.total -= rows.matches(id);
                match &mut members.ids {
                    Ids::Few(ids) => {
                        if let Some(at) = ids.iter().position(|held| *held == id) {
                            ids.swap_remove(at);
                        }
                        ids.is_empty()
                    }
                    Ids::Many(ids) => {
                        ids.remove(&id);
                        // A group that was large is not walked for the place of its first row.
                        if ids.len() < ids.capacity() / 4 {
                            ids.shrink_to(ids.len() * 2);
                        }
                        ids.is_empty()
                    }
                }
            }
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Group::One(_) => 0,
            Group::More(members) => {
                size_of::<Members>()
                    + match &members.ids {
                        Ids::Few(ids) => ids.capacity() * size_of::<u32>(),
                        Ids::Many(ids) => ids.capacity() * (size_of::<u32>() + 1),
                    }
            }
        }
    }
}

/// The key of a changed row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// These bytes.
    Known(&'a [u8]),
    /// It has a NULL that keeps it from matching.
    Never,
    /// It has a column that failed: any key may be meant.
    Unknown,
}

/// What a piece of a step changes in an arrangement, with keys and rows encoded once for all who
/// share it.
#[derive(Debug)]
pub struct Changed {
    rows: EncodedRows,
    /// One weight per row.
    pub weights: Vec<i64>,
    faults: Option<Faults>,
    /// By index.
    keys: Vec<Option<Keys>>,
    /// Of a table with a key: which row takes which one's place.
    moves: Option<Vec<Move>>,
}

/// What happens to one key of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// The row that goes, by its place in the delta.
    pub(crate) old: Option<usize>,
    /// The row that comes.
    pub(crate) new: Option<usize>,
    /// The number of the row that goes: it has been looked up already.
    pub(crate) held: Option<u32>,
}

#[derive(Debug)]
struct Keys {
    keys: EncodedRows,
    /// Which rows can't match, or have no known key; `None` when all can and have.
    except: Option<Vec<KeyState>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyState {
    Known,
    Never,
    Unknown,
}

impl Changed {
    /// The key of row `i` in an index.
    #[must_use]
    pub fn key(&self, index: IndexId, i: usize) -> Key<'_> {
        let keys = self.keys[index.0].as_ref().expect("an index that is there");
        match keys.except.as_ref().map_or(KeyState::Known, |except| except[i]) {
            KeyState::Known => Key::Known(keys.keys.row(i)),
            KeyState::Never => Key::Never,
            KeyState::Unknown => Key::Unknown,
        }
    }

    /// The bytes of row `i`.
    #[must_use]
    pub fn row(&self, i: usize) -> &[u8] {
        self.rows.row(i)
    }

    /// Whether row `i` may not be there.
    #[must_use]
    pub(crate) fn is_doubtful(&self, i: usize) -> bool {
        self.faults.as_ref().and_then(|faults| faults[i].as_ref()).is_some_and(|fault| fault.doubt)
    }
}

/// How many rows match a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matches {
    /// Rows that are there for sure.
    pub certain: i64,
    /// Rows that may be there.
    pub possible: i64,
}

impl AddAssign for Matches {
    fn add_assign(&mut self, more: Matches) {
        add_count(&mut self.certain, more.certain);
        add_count(&mut self.possible, more.possible);
    }
}

impl SubAssign for Matches {
    fn sub_assign(&mut self, fewer: Matches) {
        self.certain -= fewer.certain;
        self.possible -= fewer.possible;
    }
}

impl Matches {
    /// Adds rows, which may be in doubt.
    pub(crate) fn add(&mut self, count: i64, in_doubt: bool) {
        add_count(&mut self.possible, count);
        if !in_doubt {
            add_count(&mut self.certain, count);
        }
    }
}

impl Arrangement {
    /// An arrangement with no rows, which are told apart by these columns, or by all of them where
    /// `None`.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn new(schema: SchemaRef, key: Option<&[usize]>) -> Result<Arrangement, ArrowError> {
        let key =
            key.map(|columns| Ok::<_, ArrowError>((columns.to_vec(), RowCodec::new(&schema, columns)?))).transpose()?;
        let rows = Rows { codec: RowCodec::whole(&schema)?, key, held: Keyed::default(), faulty: 0 };
        Ok(Arrangement { schema, rows, indexes: Vec::new(), changes: Vec::new() })
    }

    /// The columns of its rows.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The codec of its rows.
    #[must_use]
    pub fn codec(&self) -> &RowCodec {
        &self.rows.codec
    }

    /// Distinct rows held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.held.len()
    }

    /// Whether no row is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.held.is_empty()
    }

    /// Whether any row held has a fault.
    #[must_use]
    pub fn has_faults(&self) -> bool {
        self.rows.faulty > 0
    }

    /// All rows with their counts, in no order.
    pub fn rows(&self) -> impl Iterator<Item = (&[u8], i64)> {
        self.rows.held.ids().map(|id| (self.rows.row(id), *self.rows.held.value(id)))
    }

    /// The row under a table's key.
    #[must_use]
    pub(crate) fn find(&self, key: &[u8]) -> Option<u32> {
        self.rows.held.find(key)
    }

    /// The rows under many keys of a table.
    #[must_use]
    pub(crate) fn find_each(&self, keys: &EncodedRows) -> Vec<Option<u32>> {
        self.rows.held.find_each(keys)
    }

    /// The bytes of a row.
    #[must_use]
    pub(crate) fn row(&self, id: u32) -> &[u8] {
        self.rows.row(id)
    }

    /// How often a row counts.
    #[must_use]
    pub(crate) fn count(&self, id: u32) -> i64 {
        *self.rows.held.value(id)
    }

    /// The key codec of a table with a key.
    pub(crate) fn key_codec(&self) -> Option<&RowCodec> {
        self.rows.key.as_ref().map(|(_, codec)| codec)
    }

    /// All ids.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.rows.held.ids()
    }

    /// The table's key of a row.
    pub(crate) fn identity_of(&self, id: u32) -> &[u8] {
        self.rows.held.key(id)
    }
}

/// Indexes.
impl Arrangement {
    /// An index of the rows by some of their columns. Asked twice for the same, it answers the same.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn index(&mut self, columns: &[usize], nulls: NullKeys) -> Result<IndexId, ArrowError> {
        let is_same = |index: &Option<Index>| {
            index.as_ref().is_some_and(|index| index.columns == columns && index.nulls == nulls)
        };
        if let Some(found) = self.indexes.iter().position(is_same) {
            return Ok(IndexId(found));
        }
        let mut index = Index {
            codec: RowCodec::new(&self.schema, columns)?,
            is_primary: self.rows.key.as_ref().is_some_and(|(key, _)| key == columns),
            columns: columns.to_vec(),
            nulls,
            groups: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            unknown: None,
            heap: 0,
        };
        index.fill(&self.rows);
        let place = self.indexes.iter().position(Option::is_none).unwrap_or_else(|| {
            self.indexes.push(None);
            self.indexes.len() - 1
        });
        self.indexes[place] = Some(index);
        Ok(IndexId(place))
    }

    /// Drops the indexes that nobody reads any more.
    pub(crate) fn keep_indexes(&mut self, keep: impl Fn(IndexId) -> bool) {
        for (i, index) in self.indexes.iter_mut().enumerate() {
            if !keep(IndexId(i)) {
                *index = None;
            }
        }
    }

    /// The types of an index's key.
    pub fn key_types(&self, index: IndexId) -> impl Iterator<Item = &DataType> {
        self.at(index).codec.types()
    }

    /// Whether the rows themselves are this index: it costs nothing.
    #[must_use]
    pub fn is_primary(&self, index: IndexId) -> bool {
        self.at(index).is_primary
    }

    fn at(&self, index: IndexId) -> &Index {
        self.indexes[index.0].as_ref().expect("an index that is there")
    }

    /// The bytes and the count of every row under a key, at the end of the step before.
    pub fn matching<'a>(&'a self, index: IndexId, key: &[u8]) -> impl Iterator<Item = (&'a [u8], i64)> + use<'a> {
        self.matching_ids(index, key).map(|id| (self.rows.row(id), *self.rows.held.value(id)))
    }

    /// The numbers of the rows under a key.
    pub(crate) fn matching_ids<'a>(&'a self, index: IndexId, key: &[u8]) -> impl Iterator<Item = u32> + use<'a> {
        let index = self.at(index);
        if index.is_primary {
            RowNumbers::One(self.rows.held.find(key))
        } else {
            index.group(&self.rows, key).map_or(RowNumbers::One(None), Group::iter)
        }
    }

    /// The numbers of the rows under each of many keys; under one that is empty there is none.
    pub(crate) fn matching_each(&self, index: IndexId, keys: &EncodedRows) -> Vec<RowNumbers<'_>> {
        let at = self.at(index);
        if at.is_primary {
            self.rows.held.find_each(keys).into_iter().map(RowNumbers::One).collect()
        } else {
            let group = |key: &[u8]| if key.is_empty() { None } else { at.group(&self.rows, key) };
            keys.iter().map(|key| group(key).map_or(RowNumbers::One(None), Group::iter)).collect()
        }
    }

    /// The key of a row that is held; its bytes, where it has any, are written to `out`.
    pub(crate) fn key_of<'a>(&self, index: IndexId, id: u32, out: &'a mut Vec<u8>) -> Key<'a> {
        let (index, row) = (self.at(index), self.rows.row(id));
        self.rows.codec.project(row, &index.columns, &index.codec, out);
        index.state_of(&self.rows, row).key(out)
    }

    /// How many rows whose key is not known there are.
    #[must_use]
    pub fn unknown(&self, index: IndexId) -> i64 {
        self.at(index).unknown.as_ref().map_or(0, |group| group.matches(&self.rows).possible)
    }

    /// How many rows are under a key at the end of the step before.
    #[must_use]
    pub fn matches(&self, index: IndexId, key: &[u8]) -> Matches {
        let at = self.at(index);
        let found = if at.is_primary {
            self.rows.held.find(key).map(|id| self.rows.matches(id))
        } else {
            at.group(&self.rows, key).map(|group| group.matches(&self.rows))
        };
        found.unwrap_or_default()
    }
}

impl Index {
    fn group<'a>(&'a self, rows: &Rows, key: &[u8]) -> Option<&'a Group> {
        self.groups.find(self.hasher.hash_one(key), |group| self.is_of(rows, group, key))
    }

    fn is_of(&self, rows: &Rows, group: &Group, key: &[u8]) -> bool {
        rows.codec.has_key(rows.row(group.first()), &self.columns, &self.codec, key)
    }

    fn fill(&mut self, rows: &Rows) {
        if self.is_primary {
            return;
        }
        let mut key = Vec::new();
        for id in rows.held.ids() {
            let row = rows.row(id);
            rows.codec.project(row, &self.columns, &self.codec, &mut key);
            let key = self.state_of(rows, row).key(&key);
            self.add(rows, key, id);
        }
    }

    /// Whether a row has a key that is known and can match.
    fn state_of(&self, rows: &Rows, row: &[u8]) -> KeyState {
        let has_failed = is_faulty(row)
            && rows.codec.fault(row).is_some_and(|fault| self.columns.iter().any(|&column| fault.has_failed(column)));
        if has_failed {
            KeyState::Unknown
        } else if self.nulls == NullKeys::NeverMatch
            && self.columns.iter().any(|&column| rows.codec.is_null(row, column))
        {
            KeyState::Never
        } else {
            KeyState::Known
        }
    }

    /// Adds a row that is in `rows` under its new key.
    fn add(&mut self, rows: &Rows, key: Key<'_>, id: u32) {
        if self.is_primary {
            return;
        }
        let group = match key {
            Key::Never => return,
            Key::Unknown => match &mut self.unknown {
                Some(group) => group,
                none => {
                    *none = Some(Group::One(id));
                    return;
                }
            },
            Key::Known(key) => {
                let hash = self.hasher.hash_one(key);
                let is_of =
                    |group: &Group| rows.codec.has_key(rows.row(group.first()), &self.columns, &self.codec, key);
                match self.groups.find_mut(hash, is_of) {
                    Some(group) => group,
                    None => {
                        let (codec, columns, hasher, of) = (&rows.codec, &self.columns, &self.hasher, &self.codec);
                        let rehash = |group: &Group| {
                            let mut scratch = Vec::new();
                            codec.project(rows.row(group.first()), columns, of, &mut scratch);
                            hasher.hash_one(&*scratch)
                        };
                        self.groups.insert_unique(hash, Group::One(id), rehash);
                        return;
                    }
                }
            }
        };
        let before = group.heap_bytes();
        group.add(rows, id);
        self.heap = self.heap + group.heap_bytes() - before;
    }

    /// Takes out a row that is still in `rows` with the key that it had.
    fn remove(&mut self, rows: &Rows, key: Key<'_>, id: u32) {
        if self.is_primary {
            return;
        }
        match key {
            Key::Never => {}
            Key::Unknown => {
                if self.unknown.as_mut().is_some_and(|group| group.remove(rows, id)) {
                    self.unknown = None;
                }
            }
            Key::Known(key) => {
                let is_of =
                    |group: &Group| rows.codec.has_key(rows.row(group.first()), &self.columns, &self.codec, key);
                if let Ok(mut group) = self.groups.find_entry(self.hasher.hash_one(key), is_of) {
                    let before = group.get().heap_bytes();
                    let after = if group.get_mut().remove(rows, id) {
                        group.remove();
                        0
                    } else {
                        group.get().heap_bytes()
                    };
                    self.heap = self.heap + after - before;
                }
            }
        }
    }

    /// A row of a group counts more often, or less.
    fn recount(&mut self, rows: &Rows, key: Key<'_>, id: u32, by: i64) {
        let group = match key {
            Key::Never => return,
            Key::Unknown => self.unknown.as_mut(),
            Key::Known(key) => {
                let is_of =
                    |group: &Group| rows.codec.has_key(rows.row(group.first()), &self.columns, &self.codec, key);
                self.groups.find_mut(self.hasher.hash_one(key), is_of)
            }
        };
        if let Some(Group::More(members)) = group {
            members.total.add(by, rows.is_doubtful(id));
        }
    }

    fn clear(&mut self) {
        self.groups.clear();
        self.unknown = None;
        self.heap = 0;
    }

    fn bytes(&self) -> usize {
        self.heap + self.groups.capacity() * (size_of::<Group>() + 1)
    }
}

impl KeyState {
    fn key(self, known: &[u8]) -> Key<'_> {
        match self {
            KeyState::Known => Key::Known(known),
            KeyState::Never => Key::Never,
            KeyState::Unknown => Key::Unknown,
        }
    }
}

/// A step's changes.
impl Arrangement {
    /// Takes in a piece of what this step changes.
    ///
    /// # Errors
    /// When the delta does not have the arrangement's columns.
    pub fn change(&mut self, delta: &Delta) -> Result<(), ArrowError> {
        let rows = self.rows.codec.encode_faulty(&delta.batch, delta.faults.as_ref())?;
        let left = if delta.is_net { None } else { net(&rows, &delta.weights) };
        let Some((kept, weights)) = left else {
            self.take_in(rows, delta.weights.clone(), delta.faults.clone(), None);
            return Ok(());
        };
        let mut left = EncodedRows::default();
        kept.iter().for_each(|&i| left.push(rows.row(i as usize)));
        let faults = delta.faults.as_ref().map(|faults| kept.iter().map(|&i| faults[i as usize].clone()).collect());
        self.take_in(left, weights, faults, None);
        Ok(())
    }

    /// Takes in what this step changes in a table: the rows' bytes are known, and which row takes
    /// which one's place.
    pub(crate) fn change_rows(&mut self, rows: EncodedRows, weights: Vec<i64>, moves: Option<Vec<Move>>) {
        self.take_in(rows, weights, None, moves);
    }

    fn take_in(&mut self, rows: EncodedRows, weights: Vec<i64>, faults: Option<Faults>, moves: Option<Vec<Move>>) {
        if !rows.is_empty() {
            let keys = self.indexes.iter().map(|index| index.as_ref().map(|index| index.keys(&self.rows, &rows)));
            self.changes.push(Changed { keys: keys.collect(), rows, weights, faults, moves });
        }
    }

    /// What this step changes, in pieces.
    #[must_use]
    pub fn changes(&self) -> &[Changed] {
        &self.changes
    }

    /// Ends the step: its changes become state.
    pub fn fold(&mut self) {
        for changed in std::mem::take(&mut self.changes) {
            match &changed.moves {
                Some(moves) => moves.iter().for_each(|each| self.fold_move(&changed, *each)),
                None => (0..changed.weights.len()).for_each(|i| self.fold_row(&changed, i)),
            }
        }
    }

    fn fold_move(&mut self, changed: &Changed, Move { old, new, held }: Move) {
        match (held, old, new) {
            (Some(id), Some(old), Some(new)) => {
                // Rows of one key: an index that does not see the difference is left alone.
                for (i, index) in self.indexes.iter_mut().enumerate() {
                    let Some(index) = index.as_mut().filter(|index| !index.is_primary) else { continue };
                    if changed.key(IndexId(i), old) != changed.key(IndexId(i), new) {
                        index.remove(&self.rows, changed.key(IndexId(i), old), id);
                    }
                }
                self.rows.held.set_payload(id, changed.row(new));
                for (i, index) in self.indexes.iter_mut().enumerate() {
                    let Some(index) = index.as_mut().filter(|index| !index.is_primary) else { continue };
                    if changed.key(IndexId(i), old) != changed.key(IndexId(i), new) {
                        index.add(&self.rows, changed.key(IndexId(i), new), id);
                    }
                }
            }
            (Some(id), Some(old), None) => {
                for (i, index) in self.indexes.iter_mut().enumerate() {
                    if let Some(index) = index {
                        index.remove(&self.rows, changed.key(IndexId(i), old), id);
                    }
                }
                self.rows.held.remove(id);
            }
            (None, None, Some(new)) => {
                let Some((columns, codec)) = &self.rows.key else { return };
                let mut key = Vec::new();
                self.rows.codec.project(changed.row(new), columns, codec, &mut key);
                let id = self.rows.held.insert(&key, changed.row(new), 1);
                for (i, index) in self.indexes.iter_mut().enumerate() {
                    if let Some(index) = index {
                        index.add(&self.rows, changed.key(IndexId(i), new), id);
                    }
                }
            }
            (held, old, new) => unreachable!("the table said {old:?} goes and {new:?} comes, and holds {held:?}"),
        }
    }

    fn fold_row(&mut self, changed: &Changed, i: usize) {
        let (row, weight) = (changed.row(i), changed.weights[i]);
        let rows = &mut self.rows;
        let indexes =
            self.indexes.iter_mut().enumerate().filter_map(|(at, index)| Some((IndexId(at), index.as_mut()?)));
        match rows.held.find(row) {
            None => {
                let id = rows.held.insert(row, &[], weight);
                rows.faulty += usize::from(is_faulty(row));
                indexes.for_each(|(at, index)| index.add(rows, changed.key(at, i), id));
            }
            Some(id) if rows.held.value(id) + weight == 0 => {
                indexes.for_each(|(at, index)| index.remove(rows, changed.key(at, i), id));
                rows.held.remove(id);
                rows.faulty -= usize::from(is_faulty(row));
            }
            Some(id) => {
                rows.held.edit(id, |count| add_count(count, weight));
                indexes.for_each(|(at, index)| index.recount(rows, changed.key(at, i), id, weight));
            }
        }
    }

    /// Columns from the bytes of rows of this arrangement.
    ///
    /// # Errors
    /// When the bytes are not of this arrangement, which would be a mistake of ours, or hold more
    /// text than an array can.
    pub fn decode(&self, rows: &[&[u8]]) -> Result<RecordBatch, ArrowError> {
        self.rows.codec.decode_batch(&self.schema, rows)
    }
}

impl Index {
    /// The keys of rows that are not held (yet).
    fn keys(&self, of: &Rows, rows: &EncodedRows) -> Keys {
        let mut keys = EncodedRows::with_capacity(rows.len(), rows.len() * self.codec.width());
        let (mut except, mut key) = (None, Vec::new());
        for (i, row) in rows.iter().enumerate() {
            of.codec.project(row, &self.columns, &self.codec, &mut key);
            keys.push(&key);
            let state = self.state_of(of, row);
            if state != KeyState::Known {
                except.get_or_insert_with(|| vec![KeyState::Known; rows.len()])[i] = state;
            }
        }
        Keys { keys, except }
    }
}

impl Store for Arrangement {
    fn rows(&self) -> usize {
        self.rows.held.len()
    }

    fn bytes(&self) -> usize {
        self.rows.held.bytes() + self.indexes.iter().flatten().map(Index::bytes).sum::<usize>()
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.rows.held.write(out);
    }

    fn clear(&mut self) {
        self.rows.held.clear();
        self.rows.faulty = 0;
        self.indexes.iter_mut().flatten().for_each(Index::clear);
    }

    fn read(&mut self, from: &mut Reader<'_>) -> Option<()> {
        self.rows.held.read(from)?;
        self.rows.faulty = self.rows.held.ids().filter(|&id| is_faulty(self.rows.row(id))).count();
        self.indexes.iter_mut().flatten().for_each(|index| index.fill(&self.rows));
        Some(())
    }

    fn mark(&mut self) {
        self.rows.held.mark();
    }

    fn changed(&self) -> Option<Vec<&[u8]>> {
        self.rows.held.changed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Cause, Fault};
    use crate::testing::{INT, schema, show};
    use arrow::array::{ArrayRef, Int64Array};
    use std::sync::Arc;

    fn delta(rows: &[(i64, Option<i64>, i64)]) -> Delta {
        let ids: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>());
        let keys: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
        let batch = RecordBatch::try_new(schema(&[("id", INT), ("k", INT)]), vec![ids, keys]).expect("two columns");
        Delta::new(batch, rows.iter().map(|row| row.2).collect())
    }

    fn change(held: &mut Arrangement, rows: &[(i64, Option<i64>, i64)]) {
        held.change(&delta(rows)).expect("its columns");
        held.fold();
    }

    fn key(k: Option<i64>) -> Vec<u8> {
        let codec = RowCodec::new(&schema(&[("id", INT), ("k", INT)]), &[1]).expect("a codec");
        codec.encode(&delta(&[(0, k, 1)]).batch).expect("a key").row(0).to_vec()
    }

    /// The rows under a key, with their counts.
    fn under(held: &Arrangement, index: IndexId, k: Option<i64>) -> Vec<String> {
        let found: Vec<(&[u8], i64)> = held.matching(index, &key(k)).collect();
        let rows = show(&held.decode(&found.iter().map(|(row, _)| *row).collect::<Vec<_>>()).expect("rows"));
        let mut rows: Vec<String> =
            rows.into_iter().zip(found).map(|(row, (_, count))| format!("{count}{row}")).collect();
        rows.sort();
        rows
    }

    fn bag() -> (Arrangement, IndexId) {
        let mut held = Arrangement::new(schema(&[("id", INT), ("k", INT)]), None).expect("an arrangement");
        let index = held.index(&[1], NullKeys::NeverMatch).expect("an index");
        (held, index)
    }

    #[test]
    fn rows_are_found_by_key_at_the_end_of_the_step_before() {
        let (mut held, index) = bag();
        held.change(&delta(&[(1, Some(5), 1), (2, Some(5), 2), (3, None, 1)])).expect("its columns");
        assert!(under(&held, index, Some(5)).is_empty() && held.is_empty(), "the step is not over");
        assert_eq!(held.changes().iter().map(|changed| changed.weights.len()).sum::<usize>(), 3);
        held.fold();
        assert!(held.changes().is_empty());
        assert_eq!(under(&held, index, Some(5)), ["1(1, 5)", "2(2, 5)"]);
        assert!(under(&held, index, None).is_empty(), "NULL matches nothing");
        assert_eq!((held.len(), held.matches(index, &key(Some(5)))), (3, Matches { certain: 3, possible: 3 }));
        change(&mut held, &[(2, Some(5), -1), (1, Some(5), -1)]);
        assert_eq!(held.matches(index, &key(Some(5))), Matches { certain: 1, possible: 1 });
        assert_eq!(under(&held, index, Some(5)), ["1(2, 5)"]);
        change(&mut held, &[(2, Some(5), -1)]);
        assert_eq!((held.len(), held.matches(index, &key(Some(5)))), (1, Matches::default()));
    }

    #[test]
    fn nulls_may_match() {
        let (mut held, _) = bag();
        let index = held.index(&[1], NullKeys::Match).expect("an index");
        change(&mut held, &[(3, None, 1)]);
        assert_eq!(under(&held, index, None), ["1(3, _)"]);
    }

    /// Equal rows of one piece are added up, and what comes to nothing is not kept.
    #[test]
    fn a_piece_is_consolidated() {
        let (mut held, index) = bag();
        held.change(&delta(&[(1, Some(5), 1), (1, Some(5), 1), (2, Some(5), 1), (2, Some(5), -1)]))
            .expect("its columns");
        assert_eq!(held.changes()[0].weights, [2]);
        held.fold();
        assert_eq!(under(&held, index, Some(5)), ["2(1, 5)"]);
    }

    /// A large group is a set: rows are taken out of it without walking it, in any order. It becomes
    /// small again, for each look at a group begins with its first row, and finding that in a set made
    /// for a million costs the million.
    #[test]
    fn a_group_grows_and_shrinks() {
        let (mut held, index) = bag();
        let many = i64::try_from(FEW_ROWS_MAX).unwrap_or_default() * 3;
        for id in 0..many {
            change(&mut held, &[(id, Some(5), 1)]);
        }
        assert_eq!(held.matches(index, &key(Some(5))).certain, many);
        let large = held.bytes();
        for id in (0..many).filter(|id| id % 7 != 0).chain((0..many).filter(|id| id % 7 == 0)) {
            assert!(held.matching_ids(index, &key(Some(5))).count() > 0);
            change(&mut held, &[(id, Some(5), -1)]);
            if held.len() == 5 {
                assert!(held.indexes[index.0].as_ref().is_some_and(|index| index.heap < 200), "it is small again");
            }
        }
        assert!(held.is_empty() && held.matching(index, &key(Some(5))).next().is_none());
        assert!(held.bytes() < large, "the group's own bytes went with it");
    }

    /// An index asked for later, or after a restart, has the rows that are there.
    #[test]
    fn an_index_is_made_from_the_rows() {
        let (mut held, index) = bag();
        change(&mut held, &[(1, Some(5), 1), (2, Some(6), 2), (3, None, 1)]);
        assert_eq!(held.index(&[1], NullKeys::NeverMatch).ok(), Some(index), "the same is not made twice");
        let by_both = held.index(&[1, 0], NullKeys::NeverMatch).expect("an index");
        assert_ne!(by_both, index);
        let (mut written, mut other) = (Vec::new(), bag().0);
        held.write(&mut written);
        change(&mut other, &[(9, Some(9), 1)]);
        other.clear();
        other.read(&mut Reader(&written)).expect("rows");
        assert_eq!((under(&other, index, Some(6)), other.len()), (vec!["2(2, 6)".to_owned()], 3));
        assert!(under(&other, index, Some(9)).is_empty());
        held.keep_indexes(|kept| kept == by_both);
        assert_eq!(held.index(&[0], NullKeys::Match).ok(), Some(index), "its place is free");
    }

    /// Of rows that were cleared no index knows any more: another row may have the number of one that went.
    #[test]
    fn an_index_forgets_what_was_cleared() {
        let (mut held, index) = bag();
        change(&mut held, &[(1, Some(5), 1), (2, Some(5), 1), (3, Some(6), 1)]);
        held.clear();
        assert_eq!(held.matches(index, &key(Some(5))), Matches::default());
        change(&mut held, &[(7, Some(5), 1), (8, Some(9), 1)]);
        assert_eq!((under(&held, index, Some(5)), under(&held, index, Some(6))), (vec!["1(7, 5)".to_owned()], vec![]));
    }

    /// A table keyed by its primary key is the index on it, and costs nothing more.
    #[test]
    fn a_primary_key_is_its_own_index() {
        let mut held = Arrangement::new(schema(&[("id", INT), ("k", INT)]), Some(&[1])).expect("an arrangement");
        let (own, other) = (
            held.index(&[1], NullKeys::NeverMatch).expect("one"),
            held.index(&[0], NullKeys::NeverMatch).expect("two"),
        );
        assert!(held.is_primary(own) && !held.is_primary(other));
        let rows = |held: &Arrangement, delta: &Delta| held.codec().encode(&delta.batch).expect("rows");
        for (delta, moves) in [
            (delta(&[(1, Some(5), 1)]), Move { old: None, new: Some(0), held: None }),
            (delta(&[(1, Some(5), -1), (2, Some(5), 1)]), Move { old: Some(0), new: Some(1), held: Some(0) }),
        ] {
            let rows = rows(&held, &delta);
            held.change_rows(rows, delta.weights, Some(vec![moves]));
            held.fold();
        }
        assert_eq!(under(&held, own, Some(5)), ["1(2, 5)"]);
        let id_key = |id| {
            let codec = RowCodec::new(&schema(&[("id", INT), ("k", INT)]), &[0]).expect("a codec");
            codec.encode(&delta(&[(id, None, 1)]).batch).expect("a key").row(0).to_vec()
        };
        assert_eq!(held.matching(other, &id_key(1)).count(), 0, "the row moved in the other index");
        assert_eq!(held.matching(other, &id_key(2)).count(), 1);
        let gone = delta(&[(2, Some(5), -1)]);
        let bytes = rows(&held, &gone);
        held.change_rows(bytes, gone.weights, Some(vec![Move { old: Some(0), new: None, held: Some(0) }]));
        held.fold();
        assert!(held.is_empty() && held.matching(other, &id_key(2)).count() == 0);
    }

    #[test]
    fn rows_in_doubt_and_unknown_keys() {
        let (mut held, index) = bag();
        let cause = Cause { reason: "why".into(), at: "".into() };
        let faults =
            vec![Some(Arc::new(Fault::doubt(cause.clone()))), Some(Arc::new(Fault::of_columns(vec![1], cause))), None];
        let faulty = delta(&[(1, Some(5), 1), (2, None, 1), (3, Some(5), 1)]).with_faults(Some(faults.clone()));
        held.change(&faulty).expect("its columns");
        assert_eq!(held.changes()[0].key(index, 1), Key::Unknown);
        held.fold();
        assert_eq!(held.matches(index, &key(Some(5))), Matches { certain: 1, possible: 2 });
        assert_eq!((held.unknown(index), held.has_faults()), (1, true));
        let gone = delta(&[(1, Some(5), -1), (2, None, -1), (3, Some(5), -1)]).with_faults(Some(faults));
        held.change(&gone).expect("its columns");
        held.fold();
        assert_eq!((held.unknown(index), held.has_faults(), held.len()), (0, false, 0));
    }

    /// With one faulty row anywhere, asking how many rows match a key went through all of them. The
    /// rows in doubt are counted beside the others: at any size of the group, as rows come, count more
    /// often and go, and over rows that were there before the index.
    #[test]
    fn rows_in_doubt_are_counted() {
        let (mut held, index) = bag();
        let cause = Cause { reason: "why".into(), at: "".into() };
        let fault = |id: i64| match id % 3 {
            0 => Some(Arc::new(Fault::doubt(cause.clone()))),
            1 => Some(Arc::new(Fault::of_columns(vec![0], cause.clone()))),
            _ => None,
        };
        let counts = |held: &Arrangement, index, k| {
            let mut walked = Matches::default();
            for (row, count) in held.matching(index, &key(k)) {
                walked.add(count, held.codec().fault(row).is_some_and(|fault| fault.doubt));
            }
            let matches = held.matches(index, &key(k));
            assert_eq!(matches, walked);
            (matches.certain, matches.possible)
        };
        let say = |held: &mut Arrangement, ids: &mut dyn Iterator<Item = i64>, weight| {
            ids.for_each(|id| {
                let one = delta(&[(id, Some(5), weight)]).with_faults(Some(vec![fault(id)]));
                held.change(&one).expect("its columns");
                held.fold();
                counts(held, index, Some(5));
            });
        };
        say(&mut held, &mut (0..90), 1);
        say(&mut held, &mut (0..45), 2);
        assert_eq!(counts(&held, index, Some(5)), (120, 180));
        let later = held.index(&[1], NullKeys::Match).expect("an index");
        assert_eq!(counts(&held, later, Some(5)), (120, 180));
        say(&mut held, &mut (0..45), -3);
        assert_eq!(counts(&held, later, Some(5)), (30, 45));
        say(&mut held, &mut (45..89), -1);
        assert_eq!(counts(&held, index, Some(5)), (1, 1));
        say(&mut held, &mut (89..90), -1);
        assert_eq!(counts(&held, later, Some(5)), (0, 0));
    }

    /// Keys are told apart by their bytes, not only by their hashes, of which tables compare seven
    /// bits; and the rows of each are found again when the table of groups has grown.
    #[test]
    fn keys_that_look_alike_are_told_apart() {
        let (mut held, index) = bag();
        let there: Vec<(i64, Option<i64>, i64)> = (0..1000).map(|id| (id, Some(id * 2), 1)).collect();
        change(&mut held, &there);
        for id in 0..1000 {
            assert_eq!(under(&held, index, Some(id * 2)), [format!("1({id}, {})", id * 2)]);
            assert!(under(&held, index, Some(id * 2 + 1)).is_empty());
        }
    }

    /// What an index costs: a place of 17 bytes for each key, and for a key of several rows what
    /// tells them apart: a list while they are few, above that a set, which shrinks.
    #[test]
    fn an_index_costs_its_groups() {
        let (mut held, index) = bag();
        let own = |held: &Arrangement| {
            let index = held.indexes[index.0].as_ref().expect("the index");
            held.bytes() - held.rows.held.bytes() - 17 * index.groups.capacity()
        };
        let is_set = |held: &Arrangement| {
            let group = held.indexes[index.0].as_ref().and_then(|index| index.group(&held.rows, &key(Some(5))));
            matches!(group, Some(Group::More(members)) if matches!(members.ids, Ids::Many(_)))
        };
        change(&mut held, &[(1, Some(5), 1)]);
        assert_eq!(own(&held), 0, "one row is its key's");
        assert!(held.bytes() > held.rows.held.bytes());
        change(&mut held, &[(2, Some(5), 1)]);
        assert_eq!(own(&held), size_of::<Members>() + 2 * 4);
        let few = i64::try_from(FEW_ROWS_MAX).unwrap_or_default();
        (3..=few).for_each(|id| change(&mut held, &[(id, Some(5), 1)]));
        assert!(!is_set(&held));
        assert_eq!(own(&held), size_of::<Members>() + FEW_ROWS_MAX * 4);
        change(&mut held, &[(few + 1, Some(5), 1)]);
        assert!(is_set(&held));
        let places = 56; // of 64 that the set has room for, an eighth stays free
        assert_eq!(own(&held), size_of::<Members>() + places * 5);
        (1..=few).for_each(|id| change(&mut held, &[(id, Some(5), -1)]));
        let left = 7; // of eight
        assert_eq!((own(&held), is_set(&held)), (size_of::<Members>() + left * 5, true), "a set stays one");
        change(&mut held, &[(few + 1, Some(5), -1)]);
        assert_eq!(own(&held), 0);
    }

    /// What a NULL means is the same where an index is made of rows that are there already.
    #[test]
    fn nulls_in_rows_that_are_there() {
        for (nulls, found) in [(NullKeys::NeverMatch, vec![]), (NullKeys::Match, vec!["1(3, _)".to_owned()])] {
            let mut held = Arrangement::new(schema(&[("id", INT), ("k", INT)]), None).expect("an arrangement");
            change(&mut held, &[(3, None, 1), (4, Some(5), 1)]);
            let index = held.index(&[1], nulls).expect("an index");
            assert_eq!((under(&held, index, None), under(&held, index, Some(5))), (found, vec!["1(4, 5)".to_owned()]));
            let (mut never, mut scratch) = (0, Vec::new());
            held.ids().for_each(|id| never += usize::from(held.key_of(index, id, &mut scratch) == Key::Never));
            assert_eq!(never, usize::from(nulls == NullKeys::NeverMatch));
        }
    }
}
