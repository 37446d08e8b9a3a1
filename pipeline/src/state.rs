//! State: what a program remembers, in one place and one form.
//!
//! Everything that outlives a step is a [`Store`]: keys of bytes to values that know how to be
//! written and read. Stores belong to the program's [`State`]; operators hold [`Handle`]s. A store
//! is named by what it is for ([`StoreName`]: the fingerprint of the subplan, and which part of it),
//! so that what one process wrote another finds again, whatever order its plan came in.
//!
//! ```text
//!  written state:  "DFST" │ version │ stores │ { fingerprint │ part │ length │ entries } …
//! ```

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use crate::delta::add_count;
use crate::fingerprint::Fingerprint;
use crate::row::{EncodedRows, RowBytes};

/// The first bytes of written state.
const MAGIC: &[u8; 4] = b"DFST";
/// Raised whenever written state of before can't be read any more.
pub const FORMAT_VERSION: u16 = 2;

/// A value in a store.
pub trait Value: Default + Send + 'static {
    /// Appends the value's bytes.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads what [`Value::write`] wrote; `None` when it did not.
    fn read(from: &mut Reader<'_>) -> Option<Self>;

    /// Bytes that it holds besides its own size.
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl Value for i64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Option<i64> {
        from.i64()
    }
}

/// Bytes being read.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.chunk().map(u8::from_le_bytes)
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.chunk().map(u16::from_le_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    pub fn i64(&mut self) -> Option<i64> {
        self.chunk().map(i64::from_le_bytes)
    }

    /// The next sixteen bytes.
    pub fn i128(&mut self) -> Option<i128> {
        self.chunk().map(i128::from_le_bytes)
    }

    /// Bytes that were written with [`write_bytes`].
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }
}

/// Appends a length and the bytes.
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // A row is smaller than 4 GiB (`RowCodec::encode` sees to it).
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// What a store is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreName {
    /// The subplan whose rows or answers it keeps.
    pub of: Fingerprint,
    /// What of it.
    pub part: &'static str,
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.of, self.part)
    }
}

/// State of one kind.
pub trait Store: Any + Send {
    /// Keys held.
    fn rows(&self) -> usize;

    /// Bytes held, with what it costs to find them.
    fn bytes(&self) -> usize;

    /// Appends every entry's bytes.
    fn write(&self, out: &mut Vec<u8>);

    /// Forgets everything.
    fn clear(&mut self);

    /// Takes in what [`Store::write`] wrote into an empty store; `None` when it did not.
    fn read(&mut self, from: &mut Reader<'_>) -> Option<()>;

    /// From now on notes which keys change; what was noted so far is forgotten.
    fn mark(&mut self);

    /// Keys that changed since the last [`Store::mark`], each once, in no order; `None` when
    /// nobody has marked.
    fn changed(&self) -> Option<Vec<&[u8]>>;
}

/// Where a store is in its [`State`].
pub struct Handle<S>(usize, PhantomData<fn() -> S>);

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Handle<S> {
        *self
    }
}

impl<S> Copy for Handle<S> {}

impl<S> fmt::Debug for Handle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {}", self.0)
    }
}

/// All stores of a program.
#[derive(Default)]
pub struct State {
    slots: Vec<Option<(StoreName, Box<dyn Store>)>>,
}

/// How large a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// Which store.
    pub name: StoreName,
    /// Keys held.
    pub rows: usize,
    /// Bytes held.
    pub bytes: usize,
}

/// Written state that can't be read here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Another version wrote it.
    #[error("state has format {found}; this version reads {FORMAT_VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
    /// It is no state, or was cut short.
    #[error("these bytes are no state of a program: {what}")]
    Malformed {
        /// Where reading ended.
        what: String,
    },
}

impl State {
    /// Adds a store.
    pub fn add<S: Store>(&mut self, name: StoreName, store: S) -> Handle<S> {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some((name, Box::new(store)));
        Handle(slot, PhantomData)
    }

    /// A store.
    #[must_use]
    pub fn get<S: Store>(&self, handle: Handle<S>) -> &S {
        let store = self.slots[handle.0].as_ref().and_then(|(_, store)| (store.as_ref() as &dyn Any).downcast_ref());
        store.expect("a handle is of its own state, and outlived by its store")
    }

    /// A store, to change.
    pub fn get_mut<S: Store>(&mut self, handle: Handle<S>) -> &mut S {
        let store =
            self.slots[handle.0].as_mut().and_then(|(_, store)| (store.as_mut() as &mut dyn Any).downcast_mut());
        store.expect("a handle is of its own state, and outlived by its store")
    }

    /// The name of a store.
    #[must_use]
    pub fn name<S>(&self, handle: Handle<S>) -> StoreName {
        self.slots[handle.0].as_ref().expect("a handle is outlived by its store").0
    }

    /// Drops the stores that `keep` does not want; no handle of them may be used again.
    pub fn retain(&mut self, keep: impl Fn(&StoreName) -> bool) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|(name, _)| !keep(name)) {
                *slot = None;
            }
        }
    }

    /// Rows and bytes of every store.
    #[must_use]
    pub fn sizes(&self) -> Vec<Size> {
        self.slots
            .iter()
            .flatten()
            .map(|(name, store)| Size { name: *name, rows: store.rows(), bytes: store.bytes() })
            .collect()
    }

    /// From now on every store notes which of its keys change.
    pub fn mark(&mut self) {
        self.slots.iter_mut().flatten().for_each(|(_, store)| store.mark());
    }

    /// Keys that changed since the last mark, over all stores.
    #[must_use]
    pub fn changed(&self) -> usize {
        self.slots.iter().flatten().filter_map(|(_, store)| store.changed()).map(|keys| keys.len()).sum()
    }

    /// Appends all stores.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&(self.slots.iter().flatten().count() as u64).to_le_bytes());
        for (name, store) in self.slots.iter().flatten() {
            out.extend_from_slice(&name.of.0.to_le_bytes());
            write_bytes(out, name.part.as_bytes());
            let length_at = out.len();
            out.extend_from_slice(&[0; 8]);
            store.write(out);
            let length = (out.len() - length_at - 8) as u64;
            out[length_at..length_at + 8].copy_from_slice(&length.to_le_bytes());
        }
    }

    /// Fills the stores from what [`State::write`] wrote, in the place of what they have: over no
    /// rows at all that is not always nothing (the one row of an aggregate without groups may be
    /// kept further up). What is there of stores that nobody here has is passed over; a store of
    /// which nothing is there stays as it is.
    ///
    /// # Errors
    /// When the bytes are of another version, cut short, or of another form.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let mut from = Reader(bytes);
        let malformed = |what: &str| StateError::Malformed { what: what.to_owned() };
        if from.take(4) != Some(MAGIC) {
            return Err(malformed("the beginning is another"));
        }
        let found = from.u16().ok_or_else(|| malformed("no version"))?;
        if found != FORMAT_VERSION {
            return Err(StateError::Version { found });
        }
        let count = from.i64().ok_or_else(|| malformed("no count"))?;
        for _ in 0..count {
            let header = |from: &mut Reader<'_>| {
                let of = Fingerprint(from.i128()?.cast_unsigned());
                let part = std::str::from_utf8(from.bytes()?).ok()?.to_owned();
                let length = usize::try_from(from.i64()?).ok()?;
                Some((of, part, length))
            };
            let (of, part, length) = header(&mut from).ok_or_else(|| malformed("a store is cut short"))?;
            let body = from.take(length).ok_or_else(|| malformed("a store is cut short"))?;
            let known = self.slots.iter_mut().flatten().find(|(name, _)| name.of == of && name.part == part);
            if let Some((name, store)) = known {
                let mut body = Reader(body);
                store.clear();
                let done = store.read(&mut body).filter(|()| body.0.is_empty());
                done.ok_or_else(|| malformed(&format!("the entries of {name} are malformed")))?;
            }
        }
        if from.0.is_empty() { Ok(()) } else { Err(malformed("more bytes than stores")) }
    }
}

/// Values by key, each entry under a small number that stays its own while it lives.
///
/// Besides its key an entry may have a payload: bytes that are not looked up by. Both are one
/// allocation.
#[derive(Debug)]
pub struct Keyed<V> {
    entries: Vec<Entry<V>>,
    free: Vec<u32>,
    places: HashTable<u32>,
    hasher: DefaultHashBuilder,
    bytes: usize,
    marks: Option<Marks>,
}

#[derive(Debug)]
struct Entry<V> {
    /// The key, then the payload; empty when the entry is free.
    bytes: RowBytes,
    key_len: u32,
    value: V,
}

/// What changed since a mark.
#[derive(Debug, Default)]
struct Marks {
    /// A bit an entry: it came, or its value or payload changed.
    entries: Vec<u64>,
    /// Keys that went.
    removed: Vec<RowBytes>,
}

impl<V: Value> Default for Keyed<V> {
    fn default() -> Keyed<V> {
        Keyed {
            entries: Vec::new(),
            free: Vec::new(),
            places: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            bytes: 0,
            marks: None,
        }
    }
}

impl<V: Value> Keyed<V> {
    /// Entries held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The entry of a key.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        self.places.find(self.hasher.hash_one(key), |&id| self.key(id) == key).copied()
    }

    /// The entries of many keys. Where a key probably is follows from its hash alone, and whether it
    /// is there needs a look at the entry: each taken in a pass of its own, the misses of the cache
    /// of one key overlap with those of the next.
    #[must_use]
    pub fn find_each(&self, keys: &EncodedRows) -> Vec<Option<u32>> {
        if keys.len() < 2 {
            return keys.iter().map(|key| self.find(key)).collect();
        }
        let hashes: Vec<u64> = keys.iter().map(|key| self.hasher.hash_one(key)).collect();
        let likely: Vec<Option<u32>> = hashes.iter().map(|&hash| self.places.find(hash, |_| true).copied()).collect();
        let found = keys.iter().zip(hashes).zip(likely).map(|((key, hash), likely)| match likely {
            Some(id) if self.key(id) != key => self.places.find(hash, |&id| self.key(id) == key).copied(),
            likely => likely,
        });
        found.collect()
    }

    /// The key of an entry.
    #[must_use]
    pub fn key(&self, id: u32) -> &[u8] {
        let entry = &self.entries[id as usize];
        &entry.bytes[..entry.key_len as usize]
    }

    /// The payload of an entry.
    #[must_use]
    pub fn payload(&self, id: u32) -> &[u8] {
        let entry = &self.entries[id as usize];
        &entry.bytes[entry.key_len as usize..]
    }

    /// The value of an entry.
    #[must_use]
    pub fn value(&self, id: u32) -> &V {
        &self.entries[id as usize].value
    }

    /// All entries, in no order.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        (0_u32..).zip(&self.entries).filter(|(_, entry)| !entry.bytes.is_empty()).map(|(id, _)| id)
    }

    /// Adds an entry; the key must not be there yet.
    pub fn insert(&mut self, key: &[u8], payload: &[u8], value: V) -> u32 {
        debug_assert!(!key.is_empty() && self.find(key).is_none(), "a new key");
        let mut bytes = Vec::with_capacity(key.len() + payload.len());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(payload);
        self.bytes += bytes.len() + value.heap_bytes();
        let entry = Entry {
            bytes: bytes.into_boxed_slice(),
            key_len: u32::try_from(key.len()).expect("a key below 4 GiB"),
            value,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id as usize] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 rows in one store")
            }
        };
        let (entries, hasher) = (&self.entries, &self.hasher);
        let hash = |&id: &u32| {
            let entry = &entries[id as usize];
            hasher.hash_one(&entry.bytes[..entry.key_len as usize])
        };
        self.places.insert_unique(hasher.hash_one(key), id, hash);
        self.note(id);
        id
    }

    /// Gives an entry another payload.
    pub fn set_payload(&mut self, id: u32, payload: &[u8]) {
        let entry = &mut self.entries[id as usize];
        let key_len = entry.key_len as usize;
        self.bytes = self.bytes + payload.len() - (entry.bytes.len() - key_len);
        if entry.bytes.len() - key_len == payload.len() {
            entry.bytes[key_len..].copy_from_slice(payload);
        } else {
            let mut bytes = Vec::with_capacity(key_len + payload.len());
            bytes.extend_from_slice(&entry.bytes[..key_len]);
            bytes.extend_from_slice(payload);
            entry.bytes = bytes.into_boxed_slice();
        }
        self.note(id);
    }

    /// Changes a value.
    pub fn edit<R>(&mut self, id: u32, change: impl FnOnce(&mut V) -> R) -> R {
        let value = &mut self.entries[id as usize].value;
        let before = value.heap_bytes();
        let answer = change(value);
        self.bytes = self.bytes + value.heap_bytes() - before;
        self.note(id);
        answer
    }

    /// Takes an entry out.
    pub fn remove(&mut self, id: u32) {
        let hash = self.hasher.hash_one(self.key(id));
        if let Ok(place) = self.places.find_entry(hash, |&other| other == id) {
            place.remove();
        }
        let entry = &mut self.entries[id as usize];
        let (bytes, value) = (std::mem::take(&mut entry.bytes), std::mem::take(&mut entry.value));
        self.bytes -= bytes.len() + value.heap_bytes();
        if let Some(marks) = &mut self.marks {
            marks.removed.push(bytes[..entry.key_len as usize].into());
        }
        self.free.push(id);
    }

    /// Adds to the count of a key, which goes when it is zero; returns the new count.
    pub fn add(&mut self, key: &[u8], by: i64) -> i64
    where
        V: Counted,
    {
        match self.find(key) {
            None if by == 0 => 0,
            None => {
                self.insert(key, &[], V::of(by));
                by
            }
            Some(id) => {
                let now = self.edit(id, |count| count.add(by));
                if now == 0 {
                    self.remove(id);
                }
                now
            }
        }
    }

    fn note(&mut self, id: u32) {
        if let Some(marks) = &mut self.marks {
            let (word, bit) = (id as usize / 64, id % 64);
            if marks.entries.len() <= word {
                marks.entries.resize(word + 1, 0);
            }
            marks.entries[word] |= 1 << bit;
        }
    }
}

/// A value that is a count.
pub trait Counted: Value {
    /// So many.
    fn of(count: i64) -> Self;
    /// So many more; returns how many there are now.
    fn add(&mut self, by: i64) -> i64;
}

impl Counted for i64 {
    fn of(count: i64) -> i64 {
        count
    }

    fn add(&mut self, by: i64) -> i64 {
        add_count(self, by);
        *self
    }
}

impl<V: Value> Store for Keyed<V> {
    fn rows(&self) -> usize {
        self.len()
    }

    fn bytes(&self) -> usize {
        self.bytes + self.entries.capacity() * size_of::<Entry<V>>() + self.places.capacity() * (size_of::<u32>() + 1)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.len() as u64).to_le_bytes());
        for id in self.ids() {
            write_bytes(out, self.key(id));
            write_bytes(out, self.payload(id));
            self.value(id).write(out);
        }
    }

    fn clear(&mut self) {
        *self = Keyed { marks: self.marks.take().map(|_| Marks::default()), ..Keyed::default() };
    }

    fn read(&mut self, from: &mut Reader<'_>) -> Option<()> {
        for _ in 0..from.i64()? {
            let (key, payload) = (from.bytes()?, from.bytes()?);
            let value = V::read(from)?;
            if key.is_empty() || self.find(key).is_some() {
                return None;
            }
            self.insert(key, payload, value);
        }
        Some(())
    }

    fn mark(&mut self) {
        self.marks = Some(Marks::default());
    }

    fn changed(&self) -> Option<Vec<&[u8]>> {
        let marks = self.marks.as_ref()?;
        let is_noted = |id: u32| marks.entries.get(id as usize / 64).is_some_and(|word| word & 1 << (id % 64) != 0);
        let mut keys: Vec<&[u8]> = self.ids().filter(|&id| is_noted(id)).map(|id| self.key(id)).collect();
        let gone = marks.removed.iter().map(|key| &**key).filter(|key| self.find(key).is_none());
        let first = keys.len();
        keys.extend(gone);
        keys[first..].sort_unstable();
        keys.dedup();
        Some(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(part: &'static str) -> StoreName {
        StoreName { of: Fingerprint(7), part }
    }

    #[test]
    fn an_entry_keeps_its_number_while_it_lives() {
        let mut store = Keyed::<i64>::default();
        let a = store.insert(b"a", b"1", 5);
        let b = store.insert(b"b", b"2", 6);
        assert_eq!((store.find(b"a"), store.find(b"b"), store.find(b"c")), (Some(a), Some(b), None));
        for payload in [&b"3"[..], b"12", b"1234", b"12345678", b"", b"longer"] {
            store.set_payload(a, payload);
            assert_eq!((store.key(a), store.payload(a), *store.value(a)), (&b"a"[..], payload, 5));
        }
        store.remove(a);
        assert_eq!(store.find(b"a"), None);
        assert_eq!(store.insert(b"c", b"", 1), a, "a free number is taken again");
        assert_eq!(store.ids().collect::<Vec<_>>(), [a, b]);
        assert_eq!((store.add(b"c", -1), store.add(b"d", 2), store.add(b"e", 0)), (0, 2, 0));
        assert_eq!(store.len(), 2);
        assert_eq!((store.add(b"d", 1), store.add(b"d", -3)), (3, 0), "it came with two");
        assert_eq!(store.len(), 1);
    }

    /// Of many keys some have the place of another for the likely one: what is found is the same.
    #[test]
    fn many_keys_are_found_as_each_is() {
        let mut store = Keyed::<i64>::default();
        for n in (0..2000_u32).step_by(2) {
            store.insert(&n.to_le_bytes(), b"", 1);
        }
        let mut keys = EncodedRows::default();
        (0..2000_u32).for_each(|n| keys.push(&n.to_le_bytes()));
        keys.push(&[]);
        let each: Vec<Option<u32>> = keys.iter().map(|key| store.find(key)).collect();
        assert_eq!(each.iter().flatten().count(), 1000);
        assert_eq!(store.find_each(&keys), each);
    }

    /// A value with bytes of its own.
    #[derive(Debug, Default, PartialEq)]
    struct Text(String);

    impl Value for Text {
        fn write(&self, out: &mut Vec<u8>) {
            write_bytes(out, self.0.as_bytes());
        }

        fn read(from: &mut Reader<'_>) -> Option<Text> {
            Some(Text(std::str::from_utf8(from.bytes()?).ok()?.to_owned()))
        }

        fn heap_bytes(&self) -> usize {
            self.0.len()
        }
    }

    /// Bytes are those of keys, payloads and what values hold; besides that an entry costs 32 bytes
    /// and its value, and a place to find it by costs five.
    #[test]
    fn bytes_are_those_of_the_rows() {
        let mut store = Keyed::<i64>::default();
        let own = |store: &Keyed<i64>| store.bytes() - 32 * store.entries.capacity() - 5 * store.places.capacity();
        let a = store.insert(b"key", b"payload", 1);
        assert_eq!(own(&store), 10);
        assert!(store.entries.capacity() > 0 && store.places.capacity() > 0);
        store.set_payload(a, b"p");
        assert_eq!(own(&store), 4);
        store.remove(a);
        assert_eq!(own(&store), 0);

        let mut texts = Keyed::<Text>::default();
        let a = texts.insert(b"key", b"payload", Text("four".to_owned()));
        assert_eq!(texts.bytes, 14);
        for (text, bytes) in [("seventeen letters", 27), ("", 10), ("six", 13)] {
            texts.edit(a, |value| value.0 = text.to_owned());
            assert_eq!(texts.bytes, bytes);
        }
        texts.remove(a);
        assert_eq!(texts.bytes, 0);
    }

    #[test]
    fn what_changed_since_a_mark() {
        let mut store = Keyed::<i64>::default();
        let ids: Vec<u32> = [b"a", b"b", b"c", b"d"].iter().map(|key| store.insert(*key, b"", 1)).collect();
        assert_eq!(store.changed(), None);
        store.mark();
        assert_eq!(store.changed(), Some(vec![]));
        store.edit(ids[0], |value| *value += 1);
        store.remove(ids[1]);
        store.remove(ids[2]);
        store.insert(b"c", b"", 1);
        store.insert(b"e", b"", 1);
        let mut changed = store.changed().expect("marked");
        changed.sort_unstable();
        assert_eq!(changed, [b"a", b"b", b"c", b"e"]);
        store.mark();
        assert_eq!(store.changed(), Some(vec![]));
        // State that is read in its place counts as changed, all of it.
        let mut written = Vec::new();
        store.write(&mut written);
        store.clear();
        assert_eq!(store.changed(), Some(vec![]));
        store.read(&mut Reader(&written)).expect("entries");
        assert_eq!(store.changed().map(|keys| keys.len()), Some(4));
    }

    #[test]
    fn state_is_written_and_read_by_name() {
        let (mut written, mut read) = (State::default(), State::default());
        let (a, b) = (written.add(name("a"), Keyed::<i64>::default()), written.add(name("b"), Keyed::<i64>::default()));
        written.get_mut(a).insert(b"k", b"payload", 3);
        written.get_mut(b).insert(b"k", b"", 4);
        let mut bytes = Vec::new();
        written.write(&mut bytes);
        // In another order, one store fewer, one more.
        let (c, a) = (read.add(name("c"), Keyed::<i64>::default()), read.add(name("a"), Keyed::<i64>::default()));
        read.read(&bytes).expect("state");
        assert!(read.get(c).is_empty());
        let id = read.get(a).find(b"k").expect("the key");
        assert_eq!((read.get(a).payload(id), *read.get(a).value(id)), (&b"payload"[..], 3));
        assert_eq!(read.name(a), name("a"));

        let fresh = || {
            let mut state = State::default();
            state.add(name("a"), Keyed::<i64>::default());
            state
        };
        assert!((0..bytes.len()).all(|end| fresh().read(&bytes[..end]).is_err()), "cut anywhere");
        assert!(fresh().read(&[&bytes[..], b"x"].concat()).is_err());
        bytes[4] = 9;
        assert_eq!(fresh().read(&bytes), Err(StateError::Version { found: 9 }));
    }

    #[test]
    fn stores_are_told_by_name_and_size() {
        let mut state = State::default();
        let (a, b) = (state.add(name("a"), Keyed::<i64>::default()), state.add(name("b"), Keyed::<i64>::default()));
        state.get_mut(a).add(b"k", 1);
        state.get_mut(a).add(b"l", 1);
        state.get_mut(b).add(b"k", 1);
        let sizes: Vec<(String, usize)> = state.sizes().iter().map(|size| (size.name.to_string(), size.rows)).collect();
        let seven = "00000000000000000000000000000007";
        assert_eq!(sizes, [(format!("{seven}/a"), 2), (format!("{seven}/b"), 1)]);
        assert!(state.sizes().iter().all(|size| size.bytes > size.rows));
        assert_eq!(format!("{b:?}"), "store 1");
    }

    /// An entry must have a key of its own.
    #[test]
    fn entries_that_can_not_have_been_written_are_refused() {
        let read = |keys: &[&[u8]]| {
            let mut written = i64::try_from(keys.len()).unwrap_or_default().to_le_bytes().to_vec();
            for key in keys {
                write_bytes(&mut written, key);
                write_bytes(&mut written, b"payload");
                7_i64.write(&mut written);
            }
            Keyed::<i64>::default().read(&mut Reader(&written))
        };
        assert_eq!(read(&[b"a", b"b"]), Some(()));
        assert_eq!(read(&[b"a", b"a"]), None, "twice the same");
        assert_eq!(read(&[b""]), None, "no key");
    }
}
