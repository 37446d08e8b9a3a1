//! A persistent map from bytes to bytes, in the order of the keys.
//!
//! A version is had by cloning a pointer, shares what did not change with the one before, and is read
//! at leisure while the next one is made. It is a B+tree whose leaves are packed: all entries of one
//! are one allocation that is never changed, only replaced.
//!
//! ```text
//!  ┌───────┬─────────────────────┬─────────────────────────────┬──
//!  │ count │ where each begins … │ length of its key│key│value │ …
//!  └───────┴─────────────────────┴─────────────────────────────┴──
//! ```
//!
//! So an entry costs five bytes beside itself, copying a leaf touches no counts of references, and
//! what two versions share is seen by looking at a pointer for each leaf.

use std::cmp::Ordering;
use std::ops::{Bound, Range};
use std::sync::Arc;

/// A leaf of several entries has at most so many bytes: what one changed row costs in copying,
/// against what a leaf costs beside its rows.
const LEAF_BYTES: usize = 4096;
/// Children of an inner node at most.
const CHILDREN_MAX: usize = 64;

/// Bytes of the count, and of each place where an entry begins.
const WORD: usize = size_of::<u32>();

/// A persistent map from bytes to bytes.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    root: Option<Arc<Node>>,
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Packed),
    /// `keys[i]` is at most the first key of `children[i]`, and greater than all keys before it. The
    /// first of them is not looked at: what is smaller is there too.
    Inner {
        keys: Packed,
        children: Vec<Arc<Node>>,
    },
}

/// Entries in ascending order of their keys.
#[derive(Clone, Debug)]
struct Packed(Box<[u8]>);

/// Entries to pack: some that are packed already, or a new one.
#[derive(Clone, Debug)]
enum Piece<'a> {
    Run(&'a Packed, Range<usize>),
    One(&'a [u8], &'a [u8]),
}

impl Tree {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(entries) => return entries.find(key).ok().map(|at| entries.entry(at).1),
                Node::Inner { keys, children } => node = &children[keys.child_of(key)],
            }
        }
    }

    /// Puts a value in place of that which the key has, if any. Answers whether there was one.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> bool {
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(Packed::of(&[Piece::One(key, value)]))));
            return false;
        };
        let (had, more) = Node::insert(root, key, value);
        if !more.is_empty() {
            let first = Arc::clone(root);
            let bounds = std::iter::once(Piece::One(&[], &[]));
            let bounds: Vec<Piece<'_>> = bounds.chain(more.iter().map(|(bound, _)| Piece::One(bound, &[]))).collect();
            let keys = Packed::of(&bounds);
            let children = std::iter::once(first).chain(more.into_iter().map(|(_, node)| node)).collect();
            self.root = Some(Arc::new(Node::Inner { keys, children }));
        }
        had
    }

    /// Takes a key away. Answers whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        // Looked for first: on the way to a key that is not there nothing is to be copied.
        if self.get(key).is_none() {
            return false;
        }
        let Some(root) = &mut self.root else { return false };
        Node::remove(root, key);
        loop {
            match self.root.as_deref() {
                Some(root) if root.is_empty() => self.root = None,
                Some(Node::Inner { children, .. }) if children.len() == 1 => self.root = Some(Arc::clone(&children[0])),
                _ => return true,
            }
        }
    }

    /// Entries from a key on.
    pub fn range<'a>(&'a self, from: Bound<&[u8]>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut cursor = Cursor::new(self, from);
        std::iter::from_fn(move || {
            let entry = cursor.peek();
            cursor.advance();
            entry
        })
    }

    /// Of each key from `from` on whose value is different in `other`: the key, the value here and the
    /// value there. Costs what differs, when one version was made from the other.
    pub fn diff<'a>(&'a self, other: &'a Tree, from: Bound<&[u8]>) -> impl Iterator<Item = Difference<'a>> + use<'a> {
        let (mut here, mut there) = (Cursor::new(self, from), Cursor::new(other, from));
        std::iter::from_fn(move || {
            loop {
                Cursor::skip_shared(&mut here, &mut there);
                let (old, new) = (here.peek(), there.peek());
                let order = match (old, new) {
                    (None, None) => return None,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some((old, _)), Some((new, _))) => old.cmp(new),
                };
                if order.is_le() {
                    here.advance();
                }
                if order.is_ge() {
                    there.advance();
                }
                let (old, new) = (old.filter(|_| order.is_le()), new.filter(|_| order.is_ge()));
                let (key, values) = match (old, new) {
                    (Some((_, old)), Some((_, new))) if old == new => continue,
                    (Some((key, old)), new) => (key, [Some(old), new.map(|(_, value)| value)]),
                    (None, Some((key, new))) => (key, [None, Some(new)]),
                    (None, None) => return None,
                };
                return Some(Difference { key, values });
            }
        })
    }
}

/// A key that two versions have different values for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value in the one and in the other.
    pub values: [Option<&'a [u8]>; 2],
}

/// Nodes that stand to the right of one that was too large, each with a bound below its keys.
type More = Vec<(Vec<u8>, Arc<Node>)>;

impl Node {
    fn insert(this: &mut Arc<Node>, key: &[u8], value: &[u8]) -> (bool, More) {
        if let Node::Leaf(entries) = &**this {
            let found = entries.find(key);
            let had = found.is_ok();
            if let Ok(at) = found
                && entries.entry(at).1 == value
            {
                return (true, More::new());
            }
            let (before, after) = match found {
                Ok(at) => (0..at, at + 1..entries.len()),
                Err(at) => (0..at, at..entries.len()),
            };
            // Keys that ascend, or descend, leave full leaves behind.
            let cut = match (had, before.len(), after.len()) {
                (false, before, 0) => Some(before),
                (false, 0, _) => Some(1),
                _ => None,
            };
            let pieces = [Piece::Run(entries, before), Piece::One(key, value), Piece::Run(entries, after)];
            let mut leaves = Packed::pack(&pieces, cut);
            let bounds = leaves.windows(2).map(|pair| pair[0].bound(&pair[1]).to_vec()).collect::<Vec<_>>();
            let more = leaves.drain(1..).map(|entries| Arc::new(Node::Leaf(entries)));
            let more = bounds.into_iter().zip(more).collect();
            *this = Arc::new(Node::Leaf(leaves.remove(0)));
            return (had, more);
        }
        let Node::Inner { keys, children } = Arc::make_mut(this) else { unreachable!("a leaf is dealt with above") };
        let at = keys.child_of(key);
        let (had, new) = Node::insert(&mut children[at], key, value);
        if new.is_empty() {
            return (had, new);
        }
        let mut pieces = vec![Piece::Run(keys, 0..at + 1)];
        pieces.extend(new.iter().map(|(key, _)| Piece::One(key, &[])));
        pieces.push(Piece::Run(keys, at + 1..keys.len()));
        *keys = Packed::of(&pieces);
        children.splice(at + 1..at + 1, new.into_iter().map(|(_, node)| node));
        let mut more = More::new();
        while children.len() > CHILDREN_MAX {
            // As in leaves: what ascends leaves full nodes behind.
            let is_at_end = at + 2 == children.len();
            let cut = if is_at_end { CHILDREN_MAX } else { children.len() / 2 };
            let right = Packed::of(&[Piece::Run(keys, cut..keys.len())]);
            *keys = Packed::of(&[Piece::Run(keys, 0..cut)]);
            let children = children.split_off(cut);
            more.insert(0, (right.entry(0).0.to_vec(), Arc::new(Node::Inner { keys: right, children })));
        }
        (had, more)
    }

    /// Takes a key away that is there.
    fn remove(this: &mut Arc<Node>, key: &[u8]) {
        if let Node::Leaf(entries) = &**this {
            if let Ok(at) = entries.find(key) {
                let rest = [Piece::Run(entries, 0..at), Piece::Run(entries, at + 1..entries.len())];
                *this = Arc::new(Node::Leaf(Packed::of(&rest)));
            }
            return;
        }
        let Node::Inner { keys, children } = Arc::make_mut(this) else { unreachable!("a leaf is dealt with above") };
        let at = keys.child_of(key);
        Node::remove(&mut children[at], key);
        if children[at].is_empty() {
            children.remove(at);
            *keys = Packed::of(&[Piece::Run(keys, 0..at), Piece::Run(keys, at + 1..keys.len())]);
            return;
        }
        if !children[at].is_small() {
            return;
        }
        // With a neighbour it makes one node, unless that is large.
        for left in [Some(at), at.checked_sub(1)].into_iter().flatten() {
            let right = left + 1;
            if right < children.len()
                && let Some(merged) = Node::merge(&children[left], keys.entry(right).0, &children[right])
            {
                children[left] = Arc::new(merged);
                children.remove(right);
                *keys = Packed::of(&[Piece::Run(keys, 0..right), Piece::Run(keys, right + 1..keys.len())]);
                return;
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Node::Leaf(entries) => entries.len() == 0,
            Node::Inner { children, .. } => children.is_empty(),
        }
    }

    fn is_small(&self) -> bool {
        match self {
            Node::Leaf(entries) => entries.0.len() < LEAF_BYTES / 4,
            Node::Inner { children, .. } => children.len() < CHILDREN_MAX / 4,
        }
    }

    /// Two neighbours as one, of which the right one has no key below `bound`; `None` when that would
    /// be large.
    fn merge(left: &Node, bound: &[u8], right: &Node) -> Option<Node> {
        match (left, right) {
            (Node::Leaf(left), Node::Leaf(right)) if left.0.len() + right.0.len() <= LEAF_BYTES / 4 * 3 => {
                Some(Node::Leaf(Packed::of(&[Piece::Run(left, 0..left.len()), Piece::Run(right, 0..right.len())])))
            }
            (Node::Inner { keys, children }, Node::Inner { keys: right_keys, children: right_children })
                if children.len() + right_children.len() <= CHILDREN_MAX / 4 * 3 =>
            {
                let keys = Packed::of(&[
                    Piece::Run(keys, 0..keys.len()),
                    Piece::One(bound, &[]),
                    Piece::Run(right_keys, 1..right_keys.len()),
                ]);
                Some(Node::Inner { keys, children: children.iter().chain(right_children).cloned().collect() })
            }
            _ => None,
        }
    }
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Piece::Run(_, entries) => entries.len(),
            Piece::One(..) => 1,
        }
    }

    /// Bytes of the entries, without the words where they begin.
    fn bytes(&self) -> usize {
        match self {
            Piece::Run(packed, entries) => packed.span(entries).len(),
            Piece::One(key, value) => varint_len(key.len()) + key.len() + value.len(),
        }
    }

    /// The first `count` of these pieces' entries, and the others.
    fn split<'a>(pieces: &[Piece<'a>], mut count: usize) -> [Vec<Piece<'a>>; 2] {
        let [mut first, mut second] = [Vec::new(), Vec::new()];
        for piece in pieces {
            let of_first = count.min(piece.len());
            count -= of_first;
            match piece {
                Piece::Run(packed, entries) => {
                    let middle = entries.start + of_first;
                    first.push(Piece::Run(packed, entries.start..middle));
                    second.push(Piece::Run(packed, middle..entries.end));
                }
                Piece::One(..) => if of_first == 1 { &mut first } else { &mut second }.push(piece.clone()),
            }
        }
        [first, second]
    }
}

impl Packed {
    fn of(pieces: &[Piece<'_>]) -> Packed {
        let count: usize = pieces.iter().map(Piece::len).sum();
        let bytes: usize = pieces.iter().map(Piece::bytes).sum();
        let mut out = Vec::with_capacity(WORD + count * WORD + bytes);
        out.extend_from_slice(&word(count));
        let mut start = 0;
        for piece in pieces {
            if let Piece::Run(packed, entries) = piece {
                let from = packed.span(entries).start;
                entries.clone().for_each(|i| out.extend_from_slice(&word(packed.start(i) - from + start)));
            } else {
                out.extend_from_slice(&word(start));
            }
            start += piece.bytes();
        }
        for piece in pieces {
            match piece {
                Piece::Run(packed, entries) => out.extend_from_slice(&packed.entries()[packed.span(entries)]),
                Piece::One(key, value) => {
                    push_varint(&mut out, key.len());
                    out.extend_from_slice(key);
                    out.extend_from_slice(value);
                }
            }
        }
        Packed(out.into())
    }

    /// As many as it takes for none to be large, cut at `cut` if it takes several. What is large by
    /// itself is alone.
    fn pack(pieces: &[Piece<'_>], cut: Option<usize>) -> Vec<Packed> {
        let count: usize = pieces.iter().map(Piece::len).sum();
        let bytes: usize = pieces.iter().map(Piece::bytes).sum();
        if count <= 1 || WORD + count * WORD + bytes <= LEAF_BYTES {
            return vec![Packed::of(pieces)];
        }
        let cut = cut.unwrap_or_else(|| {
            let sizes = pieces.iter().flat_map(|piece| {
                (0..piece.len()).map(move |i| match piece {
                    Piece::Run(packed, entries) => packed.span(&(entries.start + i..entries.start + i + 1)).len(),
                    Piece::One(..) => piece.bytes(),
                })
            });
            let ends = sizes.scan(0, |sum, size| {
                *sum += size;
                Some(*sum)
            });
            ends.take_while(|end| *end <= bytes / 2).count()
        });
        let halves = Piece::split(pieces, cut.clamp(1, count - 1));
        halves.iter().flat_map(|half| Packed::pack(half, None)).collect()
    }

    fn len(&self) -> usize {
        self.word(0)
    }

    fn word(&self, at: usize) -> usize {
        let word = self.0[at * WORD..].first_chunk().expect("a word is whole");
        u32::from_le_bytes(*word) as usize
    }

    fn entries(&self) -> &[u8] {
        &self.0[WORD + self.len() * WORD..]
    }

    /// Where an entry begins; of the one behind the last, where the last ends.
    fn start(&self, i: usize) -> usize {
        if i < self.len() { self.word(1 + i) } else { self.entries().len() }
    }

    /// Where the bytes of some entries are.
    fn span(&self, entries: &Range<usize>) -> Range<usize> {
        self.start(entries.start)..self.start(entries.end)
    }

    /// The key and the value of an entry.
    fn entry(&self, i: usize) -> (&[u8], &[u8]) {
        let entry = &self.entries()[self.span(&(i..i + 1))];
        let (key, rest) = read_varint(entry);
        rest.split_at(key)
    }

    /// Where a key is, or where it would be.
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.entry(middle).0.cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// What no key here reaches, and every key of `next` does: as short as can be, since rows without a
    /// key are keys, and may be large.
    fn bound<'a>(&self, next: &'a Packed) -> &'a [u8] {
        let ((last, _), (first, _)) = (self.entry(self.len() - 1), next.entry(0));
        let shared = last.iter().zip(first).take_while(|(a, b)| a == b).count();
        &first[..shared + 1]
    }

    /// The child that has a key, if one has it.
    fn child_of(&self, key: &[u8]) -> usize {
        match self.find(key) {
            Ok(at) => at,
            Err(at) => at.saturating_sub(1),
        }
    }
}

/// A place in a tree: the nodes from the root to a leaf, and which entry or child of each. Empty at the
/// end.
#[derive(Debug)]
struct Cursor<'a> {
    path: Vec<(&'a Node, usize)>,
}

impl<'a> Cursor<'a> {
    fn new(tree: &'a Tree, from: Bound<&[u8]>) -> Cursor<'a> {
        let mut cursor = Cursor { path: Vec::new() };
        let mut next = tree.root.as_deref();
        while let Some(node) = next {
            let (at, child) = match (node, from) {
                (Node::Leaf(_), Bound::Unbounded) => (0, None),
                (Node::Leaf(entries), Bound::Included(key)) => (entries.find(key).unwrap_or_else(|at| at), None),
                (Node::Leaf(entries), Bound::Excluded(key)) => {
                    (entries.find(key).map_or_else(|at| at, |at| at + 1), None)
                }
                (Node::Inner { children, .. }, Bound::Unbounded) => (0, children.first()),
                (Node::Inner { keys, children }, Bound::Included(key) | Bound::Excluded(key)) => {
                    let at = keys.child_of(key);
                    (at, children.get(at))
                }
            };
            cursor.path.push((node, at));
            next = child.map(|child| &**child);
        }
        cursor.settle();
        cursor
    }

    fn peek(&self) -> Option<(&'a [u8], &'a [u8])> {
        match self.path.last() {
            Some((Node::Leaf(entries), at)) => Some(entries.entry(*at)),
            _ => None,
        }
    }

    fn advance(&mut self) {
        if let Some((_, at)) = self.path.last_mut() {
            *at += 1;
            self.settle();
        }
    }

    /// Goes on to the next entry that there is, if the place is behind the end of a node.
    fn settle(&mut self) {
        while let Some((node, at)) = self.path.last() {
            match node {
                Node::Leaf(entries) if *at < entries.len() => return,
                Node::Inner { children, .. } if *at < children.len() => self.path.push((&children[*at], 0)),
                _ => {
                    self.path.pop();
                    if let Some((_, at)) = self.path.last_mut() {
                        *at += 1;
                    }
                }
            }
        }
    }

    /// Skips nodes that two trees share, at whose beginning both are.
    fn skip_shared(one: &mut Cursor<'a>, other: &mut Cursor<'a>) {
        loop {
            let pairs = one.path.iter().rev().zip(other.path.iter().rev());
            let shared = pairs.take_while(|((a, i), (b, j))| std::ptr::eq(*a, *b) && *i == 0 && *j == 0).count();
            if shared == 0 {
                return;
            }
            for cursor in [&mut *one, &mut *other] {
                cursor.path.truncate(cursor.path.len() - shared);
                cursor.advance();
            }
        }
    }
}

/// A number of a node. Larger ones than fit are in none: what is large is alone in a leaf.
fn word(number: usize) -> [u8; WORD] {
    u32::try_from(number).expect("places in a node are small").to_le_bytes()
}

/// Appends a number, seven bits a byte, the lowest first (LEB128).
pub(crate) fn push_varint(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(0x80 | (number & 0x7f) as u8);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// Bytes of a number as [`push_varint`] writes it.
fn varint_len(number: usize) -> usize {
    let bits = usize::BITS - number.leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

/// A number that [`push_varint`] has written, and what follows.
pub(crate) fn read_varint(bytes: &[u8]) -> (usize, &[u8]) {
    let mut number = 0;
    for (i, byte) in bytes.iter().enumerate() {
        number |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return (number, &bytes[i + 1..]);
        }
    }
    (number, &[])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    fn entries(tree: &Tree) -> Model {
        tree.range(Bound::Unbounded).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    fn key(number: u32) -> Vec<u8> {
        number.to_be_bytes().to_vec()
    }

    /// Bytes and entries of each leaf, and the depth, which is the same for all.
    fn leaves(node: &Node, depth: usize, found: &mut Vec<(usize, usize, usize)>) {
        match node {
            Node::Leaf(entries) => found.push((entries.0.len(), entries.len(), depth)),
            Node::Inner { keys, children } => {
                assert_eq!(keys.len(), children.len());
                assert!((1..=CHILDREN_MAX).contains(&children.len()));
                children.iter().for_each(|child| leaves(child, depth + 1, found));
            }
        }
    }

    fn check(tree: &Tree) -> Vec<(usize, usize, usize)> {
        let mut found = Vec::new();
        if let Some(root) = &tree.root {
            leaves(root, 0, &mut found);
        }
        for (bytes, entries, depth) in &found {
            assert!(*entries > 0, "a leaf is empty");
            assert!(*bytes <= LEAF_BYTES || *entries == 1, "{entries} entries have {bytes} bytes");
            assert_eq!(*depth, found[0].2, "all leaves are at one depth");
        }
        found
    }

    /// What somebody does: keys of few values meet each other, long values make leaves of one entry.
    fn change() -> impl Strategy<Value = (Vec<u8>, Option<Vec<u8>>)> {
        let key = prop_oneof![
            4 => (0..3000_u32).prop_map(key),
            1 => prop::collection::vec(0..3_u8, 0..6),
            1 => prop::collection::vec(any::<u8>(), 120..140),
            1 => (0..9_u8).prop_map(|byte| vec![byte; 70_000]),
        ];
        let len = prop_oneof![20 => 0..200_usize, 1 => 4000..9000_usize];
        let value = (len, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]);
        (key, prop::option::weighted(0.6, value))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A tree is a map, each version stays what it was, and what is different between two versions
        /// is what two maps tell, from any key on.
        #[test]
        fn a_tree_is_a_map(
            rounds in prop::collection::vec(prop::collection::vec(change(), 1..400), 1..6),
            from in prop::collection::vec(any::<u8>(), 0..5),
        ) {
            let (mut tree, mut model) = (Tree::default(), Model::new());
            let mut versions = vec![(tree.clone(), model.clone())];
            for round in rounds {
                for (key, value) in round {
                    let had = match &value {
                        Some(value) => (tree.insert(&key, value), model.insert(key.clone(), value.clone()).is_some()),
                        None => (tree.remove(&key), model.remove(&key).is_some()),
                    };
                    prop_assert_eq!(had.0, had.1);
                    prop_assert_eq!(tree.get(&key), value.as_deref());
                }
                check(&tree);
                versions.push((tree.clone(), model.clone()));
            }
            for (tree, model) in &versions {
                prop_assert_eq!(&entries(tree), model);
                let rest = |bound: Bound<&[u8]>| tree.range(bound).map(|(key, _)| key.to_vec()).collect::<Vec<_>>();
                let included: Vec<_> = model.range(from.clone()..).map(|(key, _)| key.clone()).collect();
                let excluded: Vec<_> = included.iter().filter(|key| **key != from).cloned().collect();
                prop_assert_eq!(rest(Bound::Included(&from)), included);
                prop_assert_eq!(rest(Bound::Excluded(&from)), excluded);
                for (later, later_model) in &versions {
                    let told: Vec<_> = tree.diff(later, Bound::Excluded(&from)).collect();
                    let mut keys: Vec<_> = model.keys().chain(later_model.keys()).filter(|key| **key > from).collect();
                    keys.sort();
                    keys.dedup();
                    let expected: Vec<_> = keys
                        .into_iter()
                        .map(|key| Difference {
                            key,
                            values: [model, later_model].map(|model| model.get(key).map(Vec::as_slice)),
                        })
                        .filter(|difference| difference.values[0] != difference.values[1])
                        .collect();
                    prop_assert_eq!(told, expected);
                }
            }
        }
    }

    /// A projection is copied in the order of its key: its leaves are full, not half full.
    #[test]
    fn keys_that_ascend_or_descend_leave_full_leaves() {
        for is_ascending in [true, false] {
            let mut tree = Tree::default();
            for i in 0..20_000 {
                tree.insert(&key(if is_ascending { i } else { 20_000 - i }), &[7; 100]);
            }
            let found = check(&tree);
            let bytes: usize = found.iter().map(|(bytes, ..)| bytes).sum();
            assert!(bytes > found.len() * LEAF_BYTES / 100 * 95, "{} leaves have {bytes} bytes", found.len());
        }
    }

    /// Rows come and go, and what is left does not lie in leaves of one row each.
    #[test]
    fn what_is_left_moves_together() {
        let mut tree = Tree::default();
        (0..20_000).for_each(|i| assert!(!tree.insert(&key(i), &[7; 100])));
        (0..20_000).filter(|i| i % 40 != 0).for_each(|i| assert!(tree.remove(&key(i))));
        let found = check(&tree);
        let bytes: usize = found.iter().map(|(bytes, ..)| bytes).sum();
        assert!(bytes > found.len() * LEAF_BYTES / 5, "{} leaves have {bytes} bytes", found.len());
        (0..20_000).filter(|i| i % 40 == 0).for_each(|i| assert!(tree.remove(&key(i))));
        assert!(tree.root.is_none());
    }

    /// Two versions of a million rows that differ in one are compared by looking at a few nodes.
    #[test]
    fn what_is_shared_is_not_looked_at() {
        let mut tree = Tree::default();
        (0..100_000).for_each(|i| assert!(!tree.insert(&key(i), &[7; 100])));
        let old = tree.clone();
        assert!(tree.insert(&key(77_777), b"new"));
        let (mut here, mut there) = (Cursor::new(&old, Bound::Unbounded), Cursor::new(&tree, Bound::Unbounded));
        Cursor::skip_shared(&mut here, &mut there);
        let place = here.peek().map(|(key, _)| key.to_vec());
        assert_eq!(place, there.peek().map(|(key, _)| key.to_vec()));
        // The first entry of the leaf that was replaced.
        let leaf_rows = (LEAF_BYTES / 100) as u32;
        assert!(place > Some(key(77_777 - leaf_rows)) && place <= Some(key(77_777)), "{place:?}");
        let told: Vec<_> = old.diff(&tree, Bound::Unbounded).collect();
        assert_eq!(told, [Difference { key: &key(77_777), values: [Some(&[7; 100]), Some(b"new")] }]);
    }

    #[test]
    fn numbers_are_read_as_written() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u32::MAX as usize, usize::MAX] {
            let mut out = Vec::new();
            push_varint(&mut out, number);
            assert_eq!(out.len(), varint_len(number));
            out.push(9);
            assert_eq!(read_varint(&out), (number, &[9][..]));
        }
    }
}
