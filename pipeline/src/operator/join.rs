//! Equi-joins over two arrangements.
//!
//! With state as it was before the step, `Δ(A⋈B) = ΔA⋈B + A⋈ΔB + ΔA⋈ΔB`; each pair of rows meets
//! exactly once. The third term matters when a transaction changes both sides: leaving it out, or
//! reading new state in the second, is the classical way to lose a row or to keep a phantom.
//!
//! Outer, semi and anti joins ask of each row of A whether it has any match. The answer changes
//! only for the keys that this step touches, and only on a transition. With `s` for what a row
//! contributes by the matches of its key (nothing, itself, or itself in doubt):
//! `Δ = ΔA · s(after) + A(before) · (s(after) − s(before))`. Deciding that once per key and step, on
//! net changes, is what keeps the NULL row from flickering when B's only row is replaced.
//!
//! What is not known: a row in doubt makes pairs in doubt, and a match that is only possible. A row
//! whose *key* is not known may match anything: it stands for all its pairs as one row in doubt,
//! and makes a match possible for every key of the other side.
//!
//! The work of a step is planned as a list of items (small, whatever they expand to) and worked
//! off in pieces of bounded size, so that one row that joins with a million costs no more memory at
//! a time than any other.

use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::arrangement::{Arrangement, Changed, IndexId, Key, Matches, RowNumbers};
use crate::delta::{Delta, PIECE_BYTES_MAX, PIECE_ROWS_MAX, TOO_MANY, TOO_MANY_HINT, add_count, total};
use crate::fault::{Cause, Fault, Faults};
use crate::operator::{Failure, Operator, When};
use crate::program::Step;
use crate::row::{EncodedRows, RowBytes, RowCodec, batch_of, is_faulty};
use crate::state::{Handle, State};

/// What comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoinKind {
    /// Pairs that match.
    Inner,
    /// Those, and left rows without a match, with NULLs in place of the right.
    Left,
    /// Those, and right rows without a match, with NULLs in place of the left.
    Full,
    /// Left rows that have a match.
    Semi,
    /// Left rows that have none.
    Anti,
}

/// One of a join's inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoinSide {
    /// The first.
    Left,
    /// The second.
    Right,
}

impl JoinSide {
    fn other(self) -> JoinSide {
        match self {
            JoinSide::Left => JoinSide::Right,
            JoinSide::Right => JoinSide::Left,
        }
    }
}

/// An index over an arrangement, as a join reads it.
#[derive(Clone, Copy, Debug)]
pub struct Indexed {
    /// The rows.
    pub rows: Handle<Arrangement>,
    /// By which key.
    pub index: IndexId,
}

/// A join on the keys of two arrangements.
pub struct Join {
    schema: SchemaRef,
    kind: JoinKind,
    left: Indexed,
    right: Indexed,
    /// For each output column, the side and its column there.
    columns: Vec<(JoinSide, usize)>,
    /// A row of NULLs of each side's types.
    absent: [RowBytes; 2],
}

/// Where a row is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In this step's changes.
    Changed { part: u32, row: u32 },
    /// In the state of before.
    Held(u32),
}

/// What a row is put together with.
#[derive(Clone, Copy, Debug)]
enum With {
    /// Every row of the other side's state under its key.
    Matches,
    /// Every row that this step changes on the other side under its key.
    Changes { of_key: u32 },
    /// NULLs, or nothing at all.
    Nothing,
    /// Whatever it may be: its key is not known.
    Anything,
}

/// A row and what it comes to.
#[derive(Clone, Copy, Debug)]
struct Item {
    side: JoinSide,
    row: Place,
    with: With,
    weight: i64,
    /// Whether it has a match is not known.
    doubt: bool,
}

/// Rows of one side that this step changes, by key.
#[derive(Default)]
struct ByKey {
    groups: HashTable<u32>,
    hasher: DefaultHashBuilder,
    keys: Vec<ChangedKey>,
}

struct ChangedKey {
    /// Places in the changes, as (part, row).
    rows: Vec<(u32, u32)>,
    gained: Matches,
}

/// What a row contributes by its matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Nothing,
    Itself,
    Maybe,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    AMatch,
    NoMatch,
}

impl Wanted {
    fn of(self, matches: Matches) -> Says {
        match (self, matches.certain != 0, matches.possible != 0) {
            (Wanted::AMatch, true, _) | (Wanted::NoMatch, false, false) => Says::Itself,
            (Wanted::AMatch, false, false) | (Wanted::NoMatch, true, _) => Says::Nothing,
            (_, false, true) => Says::Maybe,
        }
    }
}

impl ByKey {
    fn new(of: &Arrangement, index: IndexId) -> ByKey {
        let mut found = ByKey::default();
        for (part, changed) in of.changes().iter().enumerate() {
            for row in 0..changed.weights.len() {
                let Key::Known(key) = changed.key(index, row) else { continue };
                let place = (number(part), number(row));
                let at = match found.find(of, index, key) {
                    Some(at) => at,
                    None => {
                        let at = number(found.keys.len());
                        found.keys.push(ChangedKey { rows: Vec::new(), gained: Matches::default() });
                        found.keys[at as usize].rows.push(place);
                        let (hasher, keys) = (&found.hasher, &found.keys);
                        let hash = |&at: &u32| hasher.hash_one(key_at(of, index, keys[at as usize].rows[0]));
                        found.groups.insert_unique(hasher.hash_one(key), at, hash);
                        found.keys[at as usize].rows.clear();
                        at
                    }
                };
                let group = &mut found.keys[at as usize];
                group.rows.push(place);
                group.gained.add(changed.weights[row], changed.is_doubtful(row));
            }
        }
        found
    }

    fn find(&self, of: &Arrangement, index: IndexId, key: &[u8]) -> Option<u32> {
        let is_of = |&at: &u32| key_at(of, index, self.keys[at as usize].rows[0]) == key;
        self.groups.find(self.hasher.hash_one(key), is_of).copied()
    }

    fn gained(&self, of: &Arrangement, index: IndexId, key: &[u8]) -> Matches {
        self.find(of, index, key).map_or_else(Matches::default, |at| self.keys[at as usize].gained)
    }
}

/// The known key of a changed row.
fn key_at(of: &Arrangement, index: IndexId, (part, row): (u32, u32)) -> &[u8] {
    match of.changes()[part as usize].key(index, row as usize) {
        Key::Known(key) => key,
        Key::Never | Key::Unknown => &[],
    }
}

/// How often a pair of rows stands that stand so often.
fn times(left: i64, right: i64) -> Result<i64, ArrowError> {
    let too_many = || ArrowError::ArithmeticOverflow(format!("{TOO_MANY}: {left} times {right} ({TOO_MANY_HINT})"));
    left.checked_mul(right).ok_or_else(too_many)
}

fn number(i: usize) -> u32 {
    u32::try_from(i).expect("a step has fewer than 2^32 rows")
}

/// Both sides as they are in a step.
struct Sides<'a> {
    left: &'a Arrangement,
    right: &'a Arrangement,
    left_index: IndexId,
    right_index: IndexId,
}

impl<'a> Sides<'a> {
    fn of(&self, side: JoinSide) -> (&'a Arrangement, IndexId) {
        match side {
            JoinSide::Left => (self.left, self.left_index),
            JoinSide::Right => (self.right, self.right_index),
        }
    }

    fn row(&self, side: JoinSide, place: Place) -> &'a [u8] {
        let (rows, _) = self.of(side);
        match place {
            Place::Changed { part, row } => rows.changes()[part as usize].row(row as usize),
            Place::Held(id) => rows.row(id),
        }
    }
}

/// How far the plan has been worked off.
#[derive(Default)]
struct Cursor {
    item: usize,
    /// Pairs of that item that are done.
    done: usize,
    /// The numbers of the rows that it is put together with, where it is with matches. They are
    /// looked up once: where a piece ends, a group of many can't be entered again but from its
    /// beginning.
    matches: Vec<u32>,
}

/// Items whose matches are looked up together, so that misses of the cache overlap.
const LOOKED_UP_ITEMS_MAX: usize = 256;

/// The keys under which the matches of some items are; empty where an item is put together otherwise.
fn match_keys<'i>(sides: &Sides<'_>, items: impl Iterator<Item = &'i Item>) -> EncodedRows {
    let (mut keys, mut scratch) = (EncodedRows::default(), Vec::new());
    for item in items {
        let (own, index) = sides.of(item.side);
        let key = match (item.with, item.row) {
            (With::Matches, Place::Changed { part, row }) => own.changes()[part as usize].key(index, row as usize),
            (With::Matches, Place::Held(id)) => own.key_of(index, id, &mut scratch),
            _ => Key::Never,
        };
        match key {
            Key::Known(key) => keys.push(key),
            Key::Never | Key::Unknown => keys.push(&[]),
        }
    }
    keys
}

/// The rows of one piece of output.
#[derive(Default)]
struct Piece<'a> {
    left: Vec<&'a [u8]>,
    right: Vec<&'a [u8]>,
    weights: Vec<i64>,
    /// (row, fault)
    faults: Vec<(usize, Arc<Fault>)>,
    bytes: usize,
}

impl Piece<'_> {
    fn is_full(&self) -> bool {
        self.weights.len() >= PIECE_ROWS_MAX || self.bytes >= PIECE_BYTES_MAX
    }
}

impl Join {
    /// A join of two indexes whose keys have the same types.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn new(
        schema: SchemaRef,
        kind: JoinKind,
        (left, left_schema): (Indexed, &SchemaRef),
        (right, right_schema): (Indexed, &SchemaRef),
        columns: Vec<(JoinSide, usize)>,
    ) -> Result<Join, ArrowError> {
        let absent = [RowCodec::whole(left_schema)?.null_row(), RowCodec::whole(right_schema)?.null_row()];
        Ok(Join { schema, kind, left, right, columns, absent })
    }

    fn sides<'a>(&self, state: &'a State) -> Sides<'a> {
        Sides {
            left: state.get(self.left.rows),
            right: state.get(self.right.rows),
            left_index: self.left.index,
            right_index: self.right.index,
        }
    }

    /// Sides whose rows come out by whether they have a match.
    fn by_match(&self) -> &'static [(JoinSide, Wanted)] {
        match self.kind {
            JoinKind::Inner => &[],
            JoinKind::Left | JoinKind::Anti => &[(JoinSide::Left, Wanted::NoMatch)],
            JoinKind::Full => &[(JoinSide::Left, Wanted::NoMatch), (JoinSide::Right, Wanted::NoMatch)],
            JoinKind::Semi => &[(JoinSide::Left, Wanted::AMatch)],
        }
    }

    fn makes_pairs(&self) -> bool {
        matches!(self.kind, JoinKind::Inner | JoinKind::Left | JoinKind::Full)
    }

    /// What this step comes to.
    fn plan(&self, sides: &Sides<'_>) -> (Vec<Item>, ByKey) {
        let mut items = Vec::new();
        let changes_of = |side: JoinSide| {
            let (rows, index) = sides.of(side);
            ByKey::new(rows, index)
        };
        let both = !sides.left.changes().is_empty() && !sides.right.changes().is_empty();
        let right_changes =
            if self.kind == JoinKind::Inner && !both { ByKey::default() } else { changes_of(JoinSide::Right) };
        if self.makes_pairs() {
            for side in [JoinSide::Left, JoinSide::Right] {
                self.plan_pairs(sides, side, &right_changes, &mut items);
            }
        }
        for &(side, wanted) in self.by_match() {
            match side {
                JoinSide::Left => self.plan_by_match(sides, side, wanted, &right_changes, &mut items),
                JoinSide::Right => {
                    let left_changes = changes_of(JoinSide::Left);
                    self.plan_by_match(sides, side, wanted, &left_changes, &mut items);
                }
            }
        }
        (items, right_changes)
    }

    /// The changes of one side with the other's state, and (once) with the other's changes.
    fn plan_pairs(&self, sides: &Sides<'_>, side: JoinSide, right_changes: &ByKey, items: &mut Vec<Item>) {
        let (rows, index) = sides.of(side);
        for (part, changed) in rows.changes().iter().enumerate() {
            for (row, &weight) in changed.weights.iter().enumerate() {
                let place = Place::Changed { part: number(part), row: number(row) };
                let item = |with| Item { side, row: place, with, weight, doubt: false };
                match changed.key(index, row) {
                    Key::Never => {}
                    Key::Unknown => items.push(item(With::Anything)),
                    Key::Known(key) => {
                        items.push(item(With::Matches));
                        if side == JoinSide::Left
                            && let Some(of_key) = right_changes.find(sides.right, sides.right_index, key)
                        {
                            items.push(item(With::Changes { of_key }));
                        }
                    }
                }
            }
        }
    }

    /// The rows of `side` that come and go by whether they have a match in the other.
    fn plan_by_match(
        &self,
        sides: &Sides<'_>,
        side: JoinSide,
        wanted: Wanted,
        other_changes: &ByKey,
        items: &mut Vec<Item>,
    ) {
        let (rows, index) = sides.of(side);
        let (other, other_index) = sides.of(side.other());
        let unknown_before = other.unknown(other_index);
        let unknown_gained = |changed: &Changed| {
            let weights = changed.weights.iter().enumerate();
            total(weights.filter(|&(row, _)| changed.key(other_index, row) == Key::Unknown).map(|(_, weight)| weight))
        };
        let mut unknown_after = unknown_before;
        other.changes().iter().for_each(|changed| add_count(&mut unknown_after, unknown_gained(changed)));
        // What a key says before and after this step.
        let says = |key: &[u8], gained: Matches| {
            let held = other.matches(other_index, key);
            let (mut before, mut after) = (held, held);
            before.add(unknown_before, true);
            after += gained;
            after.add(unknown_after, true);
            (wanted.of(before), wanted.of(after))
        };
        // 1. The side's own changes count as their key says after this step.
        for (part, changed) in rows.changes().iter().enumerate() {
            for (row, &weight) in changed.weights.iter().enumerate() {
                let says = match changed.key(index, row) {
                    Key::Known(key) => says(key, other_changes.gained(other, other_index, key)).1,
                    Key::Never => wanted.of(Matches::default()),
                    // Where there are pairs it stands among them as one row in doubt.
                    Key::Unknown if self.makes_pairs() => Says::Nothing,
                    Key::Unknown => Says::Maybe,
                };
                let row = Place::Changed { part: number(part), row: number(row) };
                if says != Says::Nothing {
                    items.push(Item { side, row, with: With::Nothing, weight, doubt: says == Says::Maybe });
                }
            }
        }
        // 2. The side's rows of before come, go or fall into doubt where what their key says changes.
        let mut turn = |row: u32, count: i64, (before, after): (Says, Says)| {
            for (says, weight) in [(before, -count), (after, count)] {
                if before != after && says != Says::Nothing {
                    items.push(Item {
                        side,
                        row: Place::Held(row),
                        with: With::Nothing,
                        weight,
                        doubt: says == Says::Maybe,
                    });
                }
            }
        };
        if (unknown_before != 0) != (unknown_after != 0) {
            // A key that nobody knows came first or went last: every row of the side may be meant.
            let mut scratch = Vec::new();
            for id in rows.ids() {
                if let Key::Known(key) = rows.key_of(index, id, &mut scratch) {
                    turn(id, rows.count(id), says(key, other_changes.gained(other, other_index, key)));
                }
            }
            return;
        }
        for changed in &other_changes.keys {
            let key = key_at(other, other_index, changed.rows[0]);
            let turned = says(key, changed.gained);
            if turned.0 != turned.1 {
                rows.matching_ids(index, key).for_each(|id| turn(id, rows.count(id), turned));
            }
        }
    }

    /// What the join's whole output is, over the state of before.
    fn plan_image(&self, sides: &Sides<'_>) -> Vec<Item> {
        let mut items = Vec::new();
        let mut scratch = Vec::new();
        for side in [JoinSide::Left, JoinSide::Right] {
            let (rows, index) = sides.of(side);
            let (other, other_index) = sides.of(side.other());
            let wanted = self.by_match().iter().find(|(by, _)| *by == side).map(|(_, wanted)| *wanted);
            if side == JoinSide::Right && wanted.is_none() && !rows.has_faults() {
                continue;
            }
            let unknown = other.unknown(other_index);
            for id in rows.ids() {
                let item = |with, doubt| Item { side, row: Place::Held(id), with, weight: rows.count(id), doubt };
                let says = match rows.key_of(index, id, &mut scratch) {
                    Key::Known(key) => {
                        if side == JoinSide::Left && self.makes_pairs() {
                            items.push(item(With::Matches, false));
                        }
                        wanted.map(|wanted| {
                            let mut matches = other.matches(other_index, key);
                            matches.add(unknown, true);
                            wanted.of(matches)
                        })
                    }
                    Key::Never => wanted.map(|wanted| wanted.of(Matches::default())),
                    Key::Unknown if self.makes_pairs() => {
                        items.push(item(With::Anything, false));
                        None
                    }
                    Key::Unknown => wanted.map(|_| Says::Maybe),
                };
                match says {
                    Some(Says::Itself) => items.push(item(With::Nothing, false)),
                    Some(Says::Maybe) => items.push(item(With::Nothing, true)),
                    Some(Says::Nothing) | None => {}
                }
            }
        }
        items
    }

    /// The next piece of what the plan comes to; `None` when it is worked off.
    fn next_piece(
        &self,
        sides: &Sides<'_>,
        items: &[Item],
        right_changes: Option<&ByKey>,
        cursor: &mut Cursor,
    ) -> Result<Option<Delta>, ArrowError> {
        let mut piece = Piece::default();
        while !piece.is_full() && cursor.item < items.len() {
            let side = items[cursor.item].side;
            let next = items[cursor.item..].iter().take(LOOKED_UP_ITEMS_MAX).take_while(|item| item.side == side);
            let (other, other_index) = sides.of(side.other());
            let found = other.matching_each(other_index, &match_keys(sides, next.clone()));
            for (item, matches) in next.zip(found) {
                if self.work(sides, item, matches, right_changes, cursor, &mut piece)? {
                    cursor.item += 1;
                    cursor.done = 0;
                }
                if piece.is_full() {
                    break;
                }
            }
        }
        if piece.weights.is_empty() { Ok(None) } else { self.delta(sides, piece).map(Some) }
    }

    /// Puts pairs of an item into the piece until it is full; `true` when the item has no more.
    fn work<'a>(
        &'a self,
        sides: &Sides<'a>,
        item: &Item,
        // Those of its key, where it is put together with matches.
        matches: RowNumbers<'_>,
        right_changes: Option<&ByKey>,
        cursor: &mut Cursor,
        piece: &mut Piece<'a>,
    ) -> Result<bool, ArrowError> {
        let row = sides.row(item.side, item.row);
        let (other, _) = sides.of(item.side.other());
        match item.with {
            With::Nothing | With::Anything => {
                self.push(sides, item, row, None, item.weight, piece);
            }
            With::Changes { of_key } => {
                let Some(changes) = right_changes else { return Ok(true) };
                let rows = &changes.keys[of_key as usize].rows;
                while let Some(&(part, at)) = rows.get(cursor.done) {
                    if piece.is_full() {
                        return Ok(false);
                    }
                    let changed = &other.changes()[part as usize];
                    let weight = times(item.weight, changed.weights[at as usize])?;
                    self.push(sides, item, row, Some(changed.row(at as usize)), weight, piece);
                    cursor.done += 1;
                }
            }
            With::Matches => {
                if cursor.done == 0 {
                    cursor.matches.clear();
                    cursor.matches.extend(matches);
                }
                while let Some(&matched) = cursor.matches.get(cursor.done) {
                    if piece.is_full() {
                        return Ok(false);
                    }
                    let weight = times(item.weight, other.count(matched))?;
                    self.push(sides, item, row, Some(other.row(matched)), weight, piece);
                    cursor.done += 1;
                }
            }
        }
        Ok(true)
    }

    fn push<'a>(
        &'a self,
        sides: &Sides<'a>,
        item: &Item,
        row: &'a [u8],
        other: Option<&'a [u8]>,
        weight: i64,
        piece: &mut Piece<'a>,
    ) {
        let (left, right) = match item.side {
            JoinSide::Left => (row, other.unwrap_or(&self.absent[1])),
            JoinSide::Right => (other.unwrap_or(&self.absent[0]), row),
        };
        if item.doubt || is_faulty(left) || is_faulty(right) || matches!(item.with, With::Anything) {
            piece
                .faults
                .extend(self.fault(sides, item, left, right).map(|fault| (piece.weights.len(), Arc::new(fault))));
        }
        piece.left.push(left);
        piece.right.push(right);
        piece.weights.push(weight);
        piece.bytes += left.len() + right.len();
    }

    /// What is not known of an output row. It follows from the two rows and from nothing else, so
    /// that the row that comes and the same row when it goes carry the same.
    fn fault(&self, sides: &Sides<'_>, item: &Item, left: &[u8], right: &[u8]) -> Option<Fault> {
        let (left, right) = (sides.left.codec().fault(left), sides.right.codec().fault(right));
        let mut fault = Fault { doubt: false, failed: Vec::new(), causes: Vec::new() };
        for (output, (side, column)) in self.columns.iter().enumerate() {
            let own = if *side == JoinSide::Left { &left } else { &right };
            let is_anything = matches!(item.with, With::Anything) && *side != item.side;
            if is_anything || own.as_ref().is_some_and(|own| own.has_failed(*column)) {
                fault.failed.push(output);
            }
        }
        fault.doubt = item.doubt || matches!(item.with, With::Anything);
        fault.doubt |= left.as_ref().is_some_and(|left| left.doubt) || right.as_ref().is_some_and(|right| right.doubt);
        if !fault.doubt && fault.failed.is_empty() {
            return None;
        }
        let held = left.iter().chain(&right);
        held.for_each(|own| fault.add(&Fault { doubt: false, failed: Vec::new(), causes: own.causes.clone() }));
        if item.doubt {
            let reason = "whether it has a match is not known, because a row that it may match failed";
            fault.add(&Fault::doubt(Cause { reason: reason.into(), at: "".into() }));
        }
        Some(fault)
    }

    fn delta(&self, sides: &Sides<'_>, piece: Piece<'_>) -> Result<Delta, ArrowError> {
        let columns: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|&(side, column)| match side {
                JoinSide::Left => sides.left.codec().decode_column(&piece.left, column),
                JoinSide::Right => sides.right.codec().decode_column(&piece.right, column),
            })
            .collect::<Result<_, _>>()?;
        let rows = piece.weights.len();
        let faults = (!piece.faults.is_empty()).then(|| {
            let mut faults: Faults = vec![None; rows];
            piece.faults.into_iter().for_each(|(row, fault)| faults[row] = Some(fault));
            faults
        });
        Ok(Delta::new(batch_of(&self.schema, columns, rows)?, piece.weights).with_faults(faults))
    }
}

impl Operator for Join {
    fn when(&self) -> When {
        When::EndOfStep
    }

    fn accept(&mut self, _: usize, _: &Delta, _: &mut Step<'_>) -> Result<(), Failure> {
        Ok(()) // it reads what changed in the arrangements
    }

    fn finish(&mut self, step: &mut Step<'_>) -> Result<(), Failure> {
        let (items, right_changes) = self.plan(&self.sides(step.state()));
        let mut cursor = Cursor::default();
        while let Some(piece) = self.next_piece(&self.sides(step.state()), &items, Some(&right_changes), &mut cursor)? {
            step.emit(piece)?;
        }
        Ok(())
    }

    fn image(&mut self, step: &mut Step<'_>) -> Result<(), Failure> {
        let items = self.plan_image(&self.sides(step.state()));
        let mut cursor = Cursor::default();
        while let Some(piece) = self.next_piece(&self.sides(step.state()), &items, None, &mut cursor)? {
            step.emit(piece)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrangement::NullKeys;
    use crate::delta::PIECE_ROWS_MAX;
    use crate::testing::{Kit, check};
    use crate::{Input, NodeId};
    use expect_test::{Expect, expect};

    /// Customers with their orders: `c.id = o.c`, by names and amounts.
    fn joined(kit: &mut Kit, kind: JoinKind, (c, o): (NodeId, NodeId), nulls: NullKeys) -> Input {
        let sides = (kit.dataflow.arrange(c, vec![0], nulls), kit.dataflow.arrange(o, vec![1], nulls));
        let of_right = |column| (JoinSide::Right, column);
        let columns = match kind {
            JoinKind::Semi | JoinKind::Anti => vec![(JoinSide::Left, 0), (JoinSide::Left, 1)],
            _ => vec![(JoinSide::Left, 0), (JoinSide::Left, 1), of_right(0), of_right(2)],
        };
        let field = |&(side, column): &(JoinSide, usize)| {
            let of = if side == JoinSide::Left { c } else { o };
            kit.dataflow.schema(of).field(column).clone()
        };
        let schema = Arc::new(arrow::datatypes::Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        let node = kit.dataflow.join(format!("{kind:?}"), kind, sides, columns, schema);
        kit.all(node)
    }

    fn check_join(kind: JoinKind, story: &str, expected: &Expect) {
        check(
            |kit| {
                let sides = (kit.c, kit.o);
                joined(kit, kind, sides, NullKeys::NeverMatch)
            },
            story,
            expected,
        );
    }

    /// Keys that match come, move and go; a NULL matches nothing.
    const STORY: &str =
        "+c(1, ann) +c(2, bob) +o(7, 1, 30); +o(8, 1, 5) +o(9, _, 1); ~o(7, 2, 30); ~c(1, eve); -c(2) -o(8)";

    #[test]
    fn inner() {
        check_join(
            JoinKind::Inner,
            STORY,
            &expect![[r#"
            1: +(1, ann, 7, 30)
            2: +(1, ann, 8, 5)
            3: -(1, ann, 7, 30) +(2, bob, 7, 30)
            4: -(1, ann, 8, 5) +(1, eve, 8, 5)
            5: -(1, eve, 8, 5) -(2, bob, 7, 30)
        "#]],
        );
    }

    #[test]
    fn left() {
        check_join(
            JoinKind::Left,
            STORY,
            &expect![[r#"
            1: +(1, ann, 7, 30) +(2, bob, _, _)
            2: +(1, ann, 8, 5)
            3: -(1, ann, 7, 30) +(2, bob, 7, 30) -(2, bob, _, _)
            4: -(1, ann, 8, 5) +(1, eve, 8, 5)
            5: -(1, eve, 8, 5) +(1, eve, _, _) -(2, bob, 7, 30)
        "#]],
        );
    }

    #[test]
    fn full() {
        check_join(
            JoinKind::Full,
            STORY,
            &expect![[r#"
            1: +(1, ann, 7, 30) +(2, bob, _, _)
            2: +(1, ann, 8, 5) +(_, _, 9, 1)
            3: -(1, ann, 7, 30) +(2, bob, 7, 30) -(2, bob, _, _)
            4: -(1, ann, 8, 5) +(1, eve, 8, 5)
            5: -(1, eve, 8, 5) +(1, eve, _, _) -(2, bob, 7, 30) +(_, _, 7, 30)
        "#]],
        );
    }

    #[test]
    fn semi() {
        check_join(
            JoinKind::Semi,
            STORY,
            &expect![[r#"
            1: +(1, ann)
            3: +(2, bob)
            4: -(1, ann) +(1, eve)
            5: -(1, eve) -(2, bob)
        "#]],
        );
    }

    #[test]
    fn anti() {
        check_join(
            JoinKind::Anti,
            STORY,
            &expect![[r#"
            1: +(2, bob)
            3: -(2, bob)
            5: +(1, eve)
        "#]],
        );
    }

    /// Both sides in one step: each pair meets once, and what came and went in it leaves nothing.
    #[test]
    fn both_sides_change_in_one_step() {
        for kind in [JoinKind::Inner, JoinKind::Left] {
            check_join(
                kind,
                "+c(1, ann) +o(7, 1, 30); ~c(1, eve) ~o(7, 1, 31); -c(1) +c(2, bob) ~o(7, 2, 31); +c(3, x) +o(8, 3, 1) -c(3) -o(8)",
                &expect![[r#"
                    1: +(1, ann, 7, 30)
                    2: -(1, ann, 7, 30) +(1, eve, 7, 31)
                    3: -(1, eve, 7, 31) +(2, bob, 7, 31)
                "#]],
            );
        }
    }

    /// The NULL row does not flicker while a row's only match is replaced.
    #[test]
    fn an_only_match_is_replaced() {
        check_join(
            JoinKind::Left,
            "+c(1, ann) +o(7, 1, 30); -o(7) +o(8, 1, 31); -o(8) | +o(9, 1, 32)",
            &expect![[r#"
            1: +(1, ann, 7, 30)
            2: -(1, ann, 7, 30) +(1, ann, 8, 31)
            3: -(1, ann, 8, 31) +(1, ann, 9, 32)
        "#]],
        );
    }

    #[test]
    fn nulls_that_match() {
        check(
            |kit| {
                let sides = (kit.c, kit.o);
                joined(kit, JoinKind::Inner, sides, NullKeys::Match)
            },
            "+c(1, ann) +o(7, _, 30) +o(8, 1, 1)",
            &expect![[r#"
            1: +(1, ann, 8, 1)
        "#]],
        );
    }

    /// Whole rows count as often as they stand there; all under one key.
    #[test]
    fn a_cross_join_of_rows_that_stand_several_times() {
        check(
            |kit| {
                let sides = (
                    kit.dataflow.arrange(kit.l, vec![], NullKeys::NeverMatch),
                    kit.dataflow.arrange(kit.c, vec![], NullKeys::NeverMatch),
                );
                let columns = vec![(JoinSide::Left, 1), (JoinSide::Right, 1)];
                let schema = crate::testing::schema(&[("t", crate::testing::TEXT), ("name", crate::testing::TEXT)]);
                let node = kit.dataflow.join("cross".to_owned(), JoinKind::Inner, sides, columns, schema);
                kit.all(node)
            },
            "+l(1, x) +l(1, x) +l(2, x) +c(1, ann); +c(2, ann) -l(1, x); -l(1, x) -c(1)",
            &expect![[r#"
                1: +3(x, ann)
                2: +(x, ann)
                3: -3(x, ann)
            "#]],
        );
    }

    /// A row in doubt makes pairs in doubt; whether an outer row has a match is then not known.
    #[test]
    fn a_partner_in_doubt() {
        for kind in [JoinKind::Inner, JoinKind::Left, JoinKind::Semi, JoinKind::Anti] {
            check(
                |kit| {
                    let o = kit.where_quotient();
                    let sides = (kit.c, o);
                    joined(kit, kind, sides, NullKeys::NeverMatch)
                },
                "+c(1, ann) +c(2, bob) +o(7, 1, 0); +o(8, 1, 5); -o(8); ~o(7, 1, 3); -o(7)",
                &match kind {
                    JoinKind::Inner => expect![[r#"
                        1: ? in doubt: id = 1, name = ann, id = 7, n = 0 [division by zero (id = 7)]
                        2: +(1, ann, 8, 5)
                           ? in doubt: id = 1, name = ann, id = 7, n = 0 [division by zero (id = 7)]
                        3: -(1, ann, 8, 5)
                           ? in doubt: id = 1, name = ann, id = 7, n = 0 [division by zero (id = 7)]
                        4: +(1, ann, 7, 3)
                        5: -(1, ann, 7, 3)
                    "#]],
                    JoinKind::Left => expect![[r#"
                        1: +(2, bob, _, _)
                           ? in doubt: id = 1, name = ann, id = 7, n = 0 [division by zero (id = 7)]
                           ? in doubt: id = 1, name = ann, id = NULL, n = NULL [whether it has a match is not known, because a row that it may match failed]
                        2: +(1, ann, 8, 5)
                           ? in doubt: id = 1, name = ann, id = 7, n = 0 [division by zero (id = 7)]
                        3: -(1, ann, 8, 5)
                           ? in doubt: id = 1, name = ann, id = 7, n = 0 [division by zero (id = 7)]
                           ? in doubt: id = 1, name = ann, id = NULL, n = NULL [whether it has a match is not known, because a row that it may match failed]
                        4: +(1, ann, 7, 3)
                        5: -(1, ann, 7, 3) +(1, ann, _, _)
                    "#]],
                    JoinKind::Semi => expect![[r#"
                        1: ? in doubt: id = 1, name = ann [whether it has a match is not known, because a row that it may match failed]
                        2: +(1, ann)
                        3: -(1, ann)
                           ? in doubt: id = 1, name = ann [whether it has a match is not known, because a row that it may match failed]
                        4: +(1, ann)
                        5: -(1, ann)
                    "#]],
                    _ => expect![[r#"
                        1: +(2, bob)
                           ? in doubt: id = 1, name = ann [whether it has a match is not known, because a row that it may match failed]
                        3: ? in doubt: id = 1, name = ann [whether it has a match is not known, because a row that it may match failed]
                        5: +(1, ann)
                    "#]],
                },
            );
        }
    }

    /// A failed column that is not the key goes with the pair.
    #[test]
    fn a_partner_with_a_failed_column() {
        check(
            |kit| {
                let o = kit.with_quotient();
                let sides = (
                    kit.dataflow.arrange(kit.c, vec![0], NullKeys::NeverMatch),
                    kit.dataflow.arrange(o, vec![1], NullKeys::NeverMatch),
                );
                let columns = vec![(JoinSide::Left, 1), (JoinSide::Right, 0), (JoinSide::Right, 3)];
                let schema = crate::testing::schema(&[
                    ("name", crate::testing::TEXT),
                    ("o", crate::testing::INT),
                    ("q", crate::testing::INT),
                ]);
                let node = kit.dataflow.join("left".to_owned(), JoinKind::Left, sides, columns, schema);
                kit.all(node)
            },
            "+c(1, ann) +c(2, bob) +o(7, 1, 0) +o(8, 1, 2); ~o(7, 1, 5); -o(8)",
            &expect![[r#"
                1: +(ann, 8, 5) +(bob, _, _)
                   ? name = ann, o = 7, q = ? [division by zero (id = 7)]
                2: +(ann, 7, 2)
                3: -(ann, 8, 5)
            "#]],
        );
    }

    /// A key that is not known may be any: it stands for its pairs as one row in doubt, and whether
    /// rows of the other side have a match is not known for any that has none for sure.
    #[test]
    fn a_key_that_failed() {
        for kind in [JoinKind::Inner, JoinKind::Left, JoinKind::Full, JoinKind::Semi, JoinKind::Anti] {
            check(
                |kit| {
                    let o = kit.with_quotient();
                    let sides = (
                        kit.dataflow.arrange(kit.c, vec![0], NullKeys::NeverMatch),
                        kit.dataflow.arrange(o, vec![3], NullKeys::NeverMatch),
                    );
                    let columns = match kind {
                        JoinKind::Semi | JoinKind::Anti => vec![(JoinSide::Left, 0)],
                        _ => vec![(JoinSide::Left, 0), (JoinSide::Right, 0)],
                    };
                    let names = [("c", crate::testing::INT), ("o", crate::testing::INT)];
                    let schema = crate::testing::schema(&names[..columns.len()]);
                    let node = kit.dataflow.join(format!("{kind:?}"), kind, sides, columns, schema);
                    kit.all(node)
                },
                "+c(1, ann) +c(2, bob) +o(7, 1, 5); +o(8, 1, 0); +o(9, 1, 10); +c(3, eve); -o(8)",
                &match kind {
                    JoinKind::Inner => expect![[r#"
                        1: +(2, 7)
                        2: ? in doubt: c = ?, o = 8 [division by zero (id = 8)]
                        3: +(1, 9)
                           ? in doubt: c = ?, o = 8 [division by zero (id = 8)]
                        4: ? in doubt: c = ?, o = 8 [division by zero (id = 8)]
                    "#]],
                    JoinKind::Left => expect![[r#"
                        1: +(1, _) +(2, 7)
                        2: -(1, _)
                           ? in doubt: c = ?, o = 8 [division by zero (id = 8)]
                           ? in doubt: c = 1, o = NULL [whether it has a match is not known, because a row that it may match failed]
                        3: +(1, 9)
                           ? in doubt: c = ?, o = 8 [division by zero (id = 8)]
                        4: ? in doubt: c = ?, o = 8 [division by zero (id = 8)]
                           ? in doubt: c = 3, o = NULL [whether it has a match is not known, because a row that it may match failed]
                        5: +(3, _)
                    "#]],
                    JoinKind::Full => expect![[r#"
                        1: +(1, _) +(2, 7)
                        2: -(1, _)
                           ? in doubt: c = ?, o = 8 [division by zero (id = 8)]
                           ? in doubt: c = 1, o = NULL [whether it has a match is not known, because a row that it may match failed]
                        3: +(1, 9)
                           ? in doubt: c = ?, o = 8 [division by zero (id = 8)]
                        4: ? in doubt: c = ?, o = 8 [division by zero (id = 8)]
                           ? in doubt: c = 3, o = NULL [whether it has a match is not known, because a row that it may match failed]
                        5: +(3, _)
                    "#]],
                    JoinKind::Semi => expect![[r#"
                        1: +(2)
                        2: ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                        3: +(1)
                        4: ? in doubt: c = 3 [whether it has a match is not known, because a row that it may match failed]
                    "#]],
                    _ => expect![[r#"
                        1: +(1)
                        2: -(1)
                           ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                        4: ? in doubt: c = 3 [whether it has a match is not known, because a row that it may match failed]
                        5: +(3)
                    "#]],
                },
            );
        }
    }

    /// One row that joins with very many is worked off in pieces, each bounded; none is lost or
    /// doubled where a piece ends. (Each piece once went through the key's rows from the first, and a
    /// key with a million of them took a hundred times as long as it does.)
    #[test]
    fn a_hot_key_is_worked_off_in_pieces() {
        let mut kit = Kit::new();
        let sides = (kit.c, kit.o);
        let input = joined(&mut kit, JoinKind::Left, sides, NullKeys::NeverMatch);
        kit.dataflow.serve("p", &input, crate::projection::ProjectionKey::WholeRow);
        let mut program = crate::Program::new(kit.dataflow).expect("a program");
        let orders = PIECE_ROWS_MAX * 2 + 10;
        let table = program.table_id("o").expect("orders");
        let int = |value: fn(usize) -> i64| -> ArrayRef {
            Arc::new((0..orders).map(|i| Some(value(i))).collect::<arrow::array::Int64Array>())
        };
        let columns = vec![int(|i| i64::try_from(i).unwrap_or_default()), int(|_| 1), int(|_| 5)];
        let schema = crate::testing::schema(&[
            ("id", crate::testing::INT),
            ("c", crate::testing::INT),
            ("n", crate::testing::INT),
        ]);
        let rows = arrow::array::RecordBatch::try_new(schema, columns).expect("orders");
        program
            .apply(&[(table, crate::Changes { rows, ops: vec![crate::Op::Insert; orders], unchanged: Vec::new() })])
            .expect("a step");
        program.publish().expect("an epoch");
        for (change, sign) in [("+c(1, ann)", 1), ("-c(1)", -1)] {
            let change = crate::testing::changes(&program, change);
            program.apply(&change).expect("a step");
            let published = program.publish().expect("an epoch");
            let [(_, crate::Published::Diff(parts))] = &published[..] else { panic!("one diff") };
            assert!(parts.len() > 2 && parts.iter().all(|part| part.weights.len() <= PIECE_ROWS_MAX), "in pieces");
            let mut ids: Vec<i64> = parts
                .iter()
                .flat_map(|part| {
                    assert!(part.weights.iter().all(|weight| *weight == sign));
                    arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(part.batch.column(2))
                        .values()
                        .to_vec()
                })
                .collect();
            ids.sort_unstable();
            assert!(ids.iter().copied().eq(0..i64::try_from(orders).unwrap_or_default()), "each order once");
        }
    }

    /// A row that stands 300 times, joined with itself, stands 90,000 times; so joined again and again
    /// it soon stands more often than an `i64` counts. The product wrapped: with an answer like any
    /// other, or none where it came to zero.
    #[test]
    fn a_pair_that_can_not_be_counted_stops_the_program() {
        let mut kit = Kit::new();
        let mut node = kit.l;
        for power in [2, 4, 8] {
            let side = kit.dataflow.arrange(node, vec![0], NullKeys::NeverMatch);
            let schema = Arc::new(kit.dataflow.schema(kit.l).project(&[0]).expect("a column"));
            let columns = vec![(JoinSide::Left, 0)];
            node =
                kit.dataflow.join(format!("to the power of {power}"), JoinKind::Inner, (side, side), columns, schema);
        }
        let input = kit.all(node);
        kit.dataflow.serve("p", &input, crate::projection::ProjectionKey::WholeRow);
        let mut program = crate::Program::new(kit.dataflow).expect("a program");
        let often = |program: &mut crate::Program, times| {
            let step = crate::testing::changes(program, &"+l(1, x)".repeat(times));
            program.apply(&step)
        };
        often(&mut program, 200).expect("2,560,000,000,000,000,000 rows");
        let published = program.publish().expect("an epoch");
        let [(_, crate::Published::Diff(parts))] = &published[..] else { panic!("one diff") };
        assert_eq!(parts[0].weights, [200_i64.pow(8)]);
        let stopped = often(&mut program, 100).expect_err("65,610,000,000,000,000,000 rows");
        let reason = std::error::Error::source(&stopped).map(ToString::to_string).unwrap_or_default();
        assert!(stopped.to_string().starts_with("to the power of 8 failed"), "{stopped}: {reason}");
        assert!(reason.contains("more often than can be counted: ") && reason.contains("GROUP BY"), "{reason}");
    }

    /// Orders with their customers, by a key that failed where `c` is 0; one without an amount is in
    /// doubt. What is not known may be on the left as well.
    fn orders_first(kit: &mut Kit, kind: JoinKind) -> Input {
        let o = kit.where_quotient();
        let o = kit.with(o, "k", crate::testing::INT, crate::testing::divide(10, 1));
        let sides = (
            kit.dataflow.arrange(o, vec![3], NullKeys::NeverMatch),
            kit.dataflow.arrange(kit.c, vec![0], NullKeys::NeverMatch),
        );
        let columns = match kind {
            JoinKind::Semi | JoinKind::Anti => vec![(JoinSide::Left, 0)],
            _ => vec![(JoinSide::Left, 0), (JoinSide::Right, 1)],
        };
        let schema =
            crate::testing::schema(&[("o", crate::testing::INT), ("name", crate::testing::TEXT)][..columns.len()]);
        let node = kit.dataflow.join(format!("{kind:?}"), kind, sides, columns, schema);
        kit.all(node)
    }

    #[test]
    fn a_left_side_that_is_not_known() {
        const STORY: &str =
            "+c(2, bob) +o(7, 5, 0) +o(6, 2, 0) +o(5, 5, 5); +o(8, 0, 5); +c(5, eve); -c(2); -o(8) -o(7) -o(6)";
        let story = |kind, expected: &Expect| check(|kit| orders_first(kit, kind), STORY, expected);
        story(
            JoinKind::Inner,
            &expect![[r#"
            1: +(5, bob)
               ? in doubt: o = 7, name = bob [division by zero (id = 7)]
            2: ? in doubt: o = 7, name = bob [division by zero (id = 7)]
               ? in doubt: o = 8, name = ? [division by zero (id = 8)]
            3: ? in doubt: o = 6, name = eve [division by zero (id = 6)]
               ? in doubt: o = 7, name = bob [division by zero (id = 7)]
               ? in doubt: o = 8, name = ? [division by zero (id = 8)]
            4: -(5, bob)
               ? in doubt: o = 6, name = eve [division by zero (id = 6)]
               ? in doubt: o = 8, name = ? [division by zero (id = 8)]
        "#]],
        );
        story(
            JoinKind::Left,
            &expect![[r#"
            1: +(5, bob)
               ? in doubt: o = 7, name = bob [division by zero (id = 7)]
               ? in doubt: o = 6, name = NULL [division by zero (id = 6)]
            2: ? in doubt: o = 7, name = bob [division by zero (id = 7)]
               ? in doubt: o = 6, name = NULL [division by zero (id = 6)]
               ? in doubt: o = 8, name = ? [division by zero (id = 8)]
            3: ? in doubt: o = 6, name = eve [division by zero (id = 6)]
               ? in doubt: o = 7, name = bob [division by zero (id = 7)]
               ? in doubt: o = 8, name = ? [division by zero (id = 8)]
            4: +(5, _) -(5, bob)
               ? in doubt: o = 6, name = eve [division by zero (id = 6)]
               ? in doubt: o = 7, name = NULL [division by zero (id = 7)]
               ? in doubt: o = 8, name = ? [division by zero (id = 8)]
        "#]],
        );
        story(
            JoinKind::Full,
            &expect![[r#"
            1: +(5, bob)
               ? in doubt: o = 7, name = bob [division by zero (id = 7)]
               ? in doubt: o = 6, name = NULL [division by zero (id = 6)]
            2: ? in doubt: o = 7, name = bob [division by zero (id = 7)]
               ? in doubt: o = 6, name = NULL [division by zero (id = 6)]
               ? in doubt: o = 8, name = ? [division by zero (id = 8)]
            3: ? in doubt: o = 6, name = eve [division by zero (id = 6)]
               ? in doubt: o = 7, name = bob [division by zero (id = 7)]
               ? in doubt: o = NULL, name = eve [whether it has a match is not known, because a row that it may match failed]
               ? in doubt: o = 8, name = ? [division by zero (id = 8)]
            4: +(5, _) -(5, bob)
               ? in doubt: o = 6, name = eve [division by zero (id = 6)]
               ? in doubt: o = NULL, name = eve [whether it has a match is not known, because a row that it may match failed]
               ? in doubt: o = 7, name = NULL [division by zero (id = 7)]
               ? in doubt: o = 8, name = ? [division by zero (id = 8)]
            5: +(_, eve)
        "#]],
        );
        story(
            JoinKind::Semi,
            &expect![[r#"
            1: +(5)
               ? in doubt: o = 7 [division by zero (id = 7)]
            2: ? in doubt: o = 7 [division by zero (id = 7)]
               ? in doubt: o = 8 [division by zero (id = 8); whether it has a match is not known, because a row that it may match failed]
            3: ? in doubt: o = 6 [division by zero (id = 6)]
               ? in doubt: o = 7 [division by zero (id = 7)]
               ? in doubt: o = 8 [division by zero (id = 8); whether it has a match is not known, because a row that it may match failed]
            4: -(5)
               ? in doubt: o = 6 [division by zero (id = 6)]
               ? in doubt: o = 8 [division by zero (id = 8); whether it has a match is not known, because a row that it may match failed]
        "#]],
        );
        story(
            JoinKind::Anti,
            &expect![[r#"
            1: ? in doubt: o = 6 [division by zero (id = 6)]
            2: ? in doubt: o = 6 [division by zero (id = 6)]
               ? in doubt: o = 8 [division by zero (id = 8); whether it has a match is not known, because a row that it may match failed]
            3: ? in doubt: o = 8 [division by zero (id = 8); whether it has a match is not known, because a row that it may match failed]
            4: +(5)
               ? in doubt: o = 7 [division by zero (id = 7)]
               ? in doubt: o = 8 [division by zero (id = 8); whether it has a match is not known, because a row that it may match failed]
        "#]],
        );
    }

    /// A match that may be there and a key that may be any: either is enough for doubt, and a match
    /// that is certain ends it.
    #[test]
    fn a_match_in_doubt_beside_a_key_that_failed() {
        for kind in [JoinKind::Semi, JoinKind::Anti] {
            check(
                |kit| {
                    let o = kit.where_quotient();
                    let o = kit.with(o, "k", crate::testing::INT, crate::testing::divide(10, 1));
                    let sides = (
                        kit.dataflow.arrange(kit.c, vec![0], NullKeys::NeverMatch),
                        kit.dataflow.arrange(o, vec![3], NullKeys::NeverMatch),
                    );
                    let schema = crate::testing::schema(&[("c", crate::testing::INT)]);
                    let node = kit.dataflow.join(format!("{kind:?}"), kind, sides, vec![(JoinSide::Left, 0)], schema);
                    kit.all(node)
                },
                "+c(2, bob) +c(1, ann) +o(7, 5, 0); +o(8, 0, 5); +o(9, 5, 5) +o(4, 5, 0); -o(9) -o(4); -o(8); -o(7) +o(8, 0, 5); +o(7, 5, 0) -o(8); -o(7); +o(7, 5, 0) +o(8, 0, 5); -o(7) -o(8)",
                &match kind {
                    JoinKind::Semi => expect![[r#"
                        1: ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        2: ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                           ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        3: +(2)
                           ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                        4: -(2)
                           ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                           ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        5: ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        6: ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                           ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        7: ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        9: ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                           ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                    "#]],
                    _ => expect![[r#"
                        1: +(1)
                           ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        2: -(1)
                           ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                           ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        3: ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                        4: ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                           ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        5: +(1)
                           ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        6: -(1)
                           ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                           ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        7: +(1)
                           ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        8: +(2)
                        9: -(1) -(2)
                           ? in doubt: c = 1 [whether it has a match is not known, because a row that it may match failed]
                           ? in doubt: c = 2 [whether it has a match is not known, because a row that it may match failed]
                        10: +(1) +(2)
                    "#]],
                },
            );
        }
    }

    /// An expression that notes how many rows it is asked for at a time.
    struct Sizes(Arc<std::sync::Mutex<Vec<usize>>>);

    impl crate::Expr for Sizes {
        fn evaluate(&self, batch: &arrow::array::RecordBatch) -> Result<ArrayRef, crate::ExprError> {
            self.0.lock().expect("a list").push(batch.num_rows());
            Ok(Arc::clone(batch.column(0)))
        }

        fn columns(&self) -> Vec<usize> {
            vec![0]
        }
    }

    /// Who reads a join gets its rows in pieces that are bounded by rows and by bytes.
    #[test]
    fn pieces_are_bounded() {
        let (name, few) = ("x".repeat(3 << 20), (0..5).map(|id| format!("+o({id}, 1, 1) ")).collect::<String>());
        let most = PIECE_ROWS_MAX;
        for (name, orders, expected) in [
            ("ann", crate::testing::orders(crate::Op::Insert, most * 2 + 1, 1), vec![most, most, 1]),
            (
                &name,
                crate::testing::transaction(&crate::Program::new(Kit::new().dataflow).expect("tables"), &few).1,
                vec![3, 2],
            ),
        ] {
            let mut kit = Kit::new();
            let sides = (kit.c, kit.o);
            let input = joined(&mut kit, JoinKind::Inner, sides, NullKeys::NeverMatch);
            let sizes = Arc::new(std::sync::Mutex::new(Vec::new()));
            let exprs: Vec<Box<dyn crate::Expr>> = vec![Box::new(Sizes(Arc::clone(&sizes)))];
            let out = crate::testing::schema(&[("id", crate::testing::INT)]);
            let node = kit.dataflow.project("sizes".to_owned(), &input, out, exprs, "sizes", &[0]);
            let input = kit.all(node);
            kit.dataflow.serve("p", &input, crate::projection::ProjectionKey::WholeRow);
            let mut program = crate::Program::new(kit.dataflow).expect("a program");
            let mut epoch = |changes: &[(crate::TableId, crate::Changes)]| {
                program.apply(changes).expect("a step");
                program.publish().expect("an epoch");
                std::mem::take(&mut *sizes.lock().expect("a list"))
            };
            let tables = crate::Program::new(Kit::new().dataflow).expect("tables");
            let customer = crate::testing::changes(&tables, &format!("+c(1, {name})"));
            let orders = (tables.table_id("o").expect("orders"), orders);
            assert_eq!(epoch(&[orders]), [0_usize; 0]);
            assert_eq!(epoch(&customer), expected, "a customer with its orders");
            assert_eq!(epoch(&crate::testing::changes(&tables, "-c(1)")), expected);
        }
    }
}
