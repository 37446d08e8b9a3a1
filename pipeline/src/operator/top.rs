//! `ORDER BY … LIMIT … OFFSET …`, kept live.
//!
//! All rows are held in order; the output is a window of it. Where the window begins is remembered,
//! so that what it skips is never walked: a step moves the beginning by as many rows as came or went
//! before it, and costs that, plus the window when a row inside it changes. Ties in the sort key are
//! broken by the bytes of the row, so the window is a function of the rows and of nothing else.
//!
//! What is not known: a row in doubt shifts those behind it or does not; a row whose sort key (or,
//! among ties, any column) is not known may stand anywhere. So a row has a least and a greatest
//! place. It is in the window for sure when both are inside, and in doubt when only some place is.
//! While there are such rows, each step walks from the first row.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::error::ArrowError;

use crate::delta::{Delta, pieces};
use crate::fault::{Cause, Fault};
use crate::operator::{Failure, Operator, View, When};
use crate::program::Step;
use crate::row::{OrderCodec, RowBytes, RowCodec, is_faulty};
use crate::state::{Handle, Reader, State, Store, write_bytes};

/// A sort key, and a row's bytes.
type Place = (RowBytes, RowBytes);
type Ordered = BTreeMap<Place, i64>;
/// The first row of a window, and how many times it stands before the window already.
type First = (Place, i64);

/// Rows in order, and where the window begins.
#[derive(Debug, Default)]
pub struct Sorted {
    rows: Ordered,
    first: Option<First>,
    /// Rows before the window: as many as are skipped, or all there are.
    before: i64,
    /// Rows with a fault.
    faulty: usize,
    bytes: usize,
    /// Rows that changed since a mark.
    changed: Option<BTreeMap<RowBytes, ()>>,
}

impl Sorted {
    fn add(&mut self, key: Place, weight: i64) {
        // What an entry costs in the tree besides its bytes: two pointers with lengths, a count.
        const ENTRY_BYTES: usize = 40;
        let bytes = key.0.len() + key.1.len() + ENTRY_BYTES;
        let is_faulty = usize::from(is_faulty(&key.1));
        if let Some(changed) = &mut self.changed {
            changed.insert(key.1.clone(), ());
        }
        match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(weight);
                self.bytes += bytes;
                self.faulty += is_faulty;
            }
            Entry::Occupied(mut entry) => {
                *entry.get_mut() += weight;
                if *entry.get() == 0 {
                    entry.remove();
                    self.bytes -= bytes;
                    self.faulty -= is_faulty;
                }
            }
        }
    }
}

impl Store for Sorted {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.rows.len() as u64).to_le_bytes());
        for ((order, row), count) in &self.rows {
            write_bytes(out, order);
            write_bytes(out, row);
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(&self.before.to_le_bytes());
    }

    fn clear(&mut self) {
        *self = Sorted { changed: self.changed.take().map(|_| BTreeMap::new()), ..Sorted::default() };
    }

    fn read(&mut self, from: &mut Reader<'_>) -> Option<()> {
        for _ in 0..from.i64()? {
            let key = (from.bytes()?.into(), from.bytes()?.into());
            let count = from.i64()?;
            self.add(key, count);
        }
        self.before = from.i64()?;
        let mut left = self.before;
        self.first = None;
        for (key, count) in &self.rows {
            if left < *count {
                self.first = Some((key.clone(), left));
                break;
            }
            left -= count;
        }
        Some(())
    }

    fn mark(&mut self) {
        self.changed = Some(BTreeMap::new());
    }

    fn changed(&self) -> Option<Vec<&[u8]>> {
        self.changed.as_ref().map(|changed| changed.keys().map(|row| &**row).collect())
    }
}

/// The rows from `skip` on, at most `fetch` of them, in an order.
pub struct Top {
    view: View,
    order: OrderCodec,
    order_columns: Vec<usize>,
    codec: RowCodec,
    skip: i64,
    fetch: i64,
    rows: Handle<Sorted>,
    changes: Ordered,
    /// Where the window begins after this step.
    first: Option<First>,
    before: i64,
}

/// What is in the window, and whether for sure.
type Window = BTreeMap<(RowBytes, bool), i64>;

impl Top {
    /// A window over some columns of a node, sorted by `order`, which are columns of the view.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn new(
        view: View,
        order: &[(usize, SortOptions)],
        skip: usize,
        fetch: Option<usize>,
        rows: Handle<Sorted>,
    ) -> Result<Top, ArrowError> {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        Ok(Top {
            order: OrderCodec::new(&view.schema, order)?,
            order_columns: order.iter().map(|(column, _)| *column).collect(),
            codec: RowCodec::whole(&view.schema)?,
            view,
            skip: number(skip),
            fetch: fetch.map_or(i64::MAX, number),
            rows,
            changes: Ordered::new(),
            first: None,
            before: 0,
        })
    }

    fn take_in(&mut self, delta: &Delta) -> Result<(), ArrowError> {
        let input = self.view.of(delta)?;
        let orders = self.order.encode(&input.batch)?;
        let rows = self.codec.encode_faulty(&input.batch, input.faults.as_ref())?;
        for (i, &weight) in input.weights.iter().enumerate() {
            let key: Place = (orders.row(i).data().into(), rows.row(i).into());
            match self.changes.entry(key) {
                Entry::Vacant(entry) => drop(entry.insert(weight)),
                Entry::Occupied(mut entry) => {
                    *entry.get_mut() += weight;
                    if *entry.get() == 0 {
                        entry.remove();
                    }
                }
            }
        }
        Ok(())
    }

    /// The rows after this step from `from` on, in order.
    fn after<'a>(&'a self, held: &'a Ordered, from: Bound<&'a Place>) -> impl Iterator<Item = (&'a Place, i64)> {
        merged(held.range((from, Bound::Unbounded)), self.changes.range((from, Bound::Unbounded)), |a, b| a < b)
    }

    /// The rows after this step before `to`, last first.
    fn backwards<'a>(&'a self, held: &'a Ordered, to: Bound<&'a Place>) -> impl Iterator<Item = (&'a Place, i64)> {
        merged(held.range((Bound::Unbounded, to)).rev(), self.changes.range((Bound::Unbounded, to)).rev(), |a, b| a > b)
    }

    /// Where the window begins after this step, and how many rows stand before it.
    fn beginning(&self, held: &Sorted) -> (Option<First>, i64) {
        let Some((first, stood_before)) = &held.first else {
            // All rows were before the window. Those that came may reach it: from the end backwards
            // is as far as from the front, and an end is where such a window is.
            let total = held.before + self.changes.values().sum::<i64>();
            return self.back_from_end(&held.rows, total);
        };
        // Rows that came or went before the row at which the window began.
        let shift: i64 = self.changes.range(..first).map(|(_, weight)| weight).sum();
        let mut before = held.before - stood_before + shift;
        if before <= self.skip {
            let mut last = None;
            for (key, count) in self.after(&held.rows, Bound::Included(first)) {
                if before + count > self.skip {
                    last = Some((key.clone(), self.skip - before));
                    before = self.skip;
                    break;
                }
                before += count;
            }
            return (last, before);
        }
        for (key, count) in self.backwards(&held.rows, Bound::Excluded(first)) {
            before -= count;
            if before <= self.skip {
                return (Some((key.clone(), self.skip - before)), self.skip);
            }
        }
        (None, before)
    }

    fn back_from_end(&self, held: &Ordered, total: i64) -> (Option<First>, i64) {
        if total <= self.skip {
            return (None, total);
        }
        let mut before = total;
        for (key, count) in self.backwards(held, Bound::Unbounded) {
            before -= count;
            if before <= self.skip {
                return (Some((key.clone(), self.skip - before)), self.skip);
            }
        }
        (None, total)
    }

    /// The window of rows in order, of which `skipped` stand before it and the first one has `left`
    /// out of its count.
    fn window<'a>(&self, rows: impl Iterator<Item = (&'a Place, i64)>, mut left_out: i64) -> Window {
        let mut window = Window::new();
        let mut room = self.fetch;
        for ((_, row), count) in rows {
            let shown = (count - left_out).min(room);
            left_out = 0;
            room -= shown;
            if shown > 0 {
                *window.entry((row.clone(), false)).or_default() += shown;
            }
            if room == 0 {
                break;
            }
        }
        window
    }

    /// The window of rows of which some are faulty, from the first row on.
    fn faulty_window<'a>(&self, rows: impl Iterator<Item = (&'a Place, i64)>) -> Window {
        let mut window = Window::new();
        // Rows whose place is not known may be before any other.
        let mut anywhere = 0;
        let mut ordered: Vec<(&Place, i64, bool)> = Vec::new();
        for (key, count) in rows {
            match self.codec.fault(&key.1) {
                Some(fault) if self.order_columns.iter().any(|&column| fault.has_failed(column)) => {
                    anywhere += count;
                    *window.entry((key.1.clone(), true)).or_default() += count;
                }
                fault => ordered.push((key, count, fault.is_some())),
            }
        }
        let end = self.skip.saturating_add(self.fetch);
        let (mut certain, mut all) = (0, anywhere);
        let mut rest = &ordered[..];
        while let Some(((order, _), ..)) = rest.first() {
            // Among ties a row that is not known to the last column may stand anywhere.
            let ties = rest.iter().take_while(|((other, _), ..)| other == order).count();
            let (tied, after) = rest.split_at(ties);
            rest = after;
            let unsure: i64 = tied.iter().filter(|(.., is_faulty)| *is_faulty).map(|(_, count, _)| count).sum();
            let sure: i64 = tied.iter().filter(|(.., is_faulty)| !*is_faulty).map(|(_, count, _)| count).sum();
            for ((_, row), count, _) in tied.iter().filter(|(.., is_faulty)| *is_faulty) {
                // It may be the first or the last of its ties.
                let (least, greatest) = (certain, all + sure + unsure);
                if greatest > self.skip && least < end {
                    *window.entry((row.clone(), true)).or_default() += count;
                }
            }
            all += unsure;
            for ((_, row), count, _) in tied.iter().filter(|(.., is_faulty)| !*is_faulty) {
                // Copy number n stands at least at certain + n and at most at all + n.
                let possible = (end - certain).clamp(0, *count) - (self.skip - all).clamp(0, *count);
                let sure = ((end - all).clamp(0, *count) - (self.skip - certain).clamp(0, *count)).max(0);
                if sure > 0 {
                    *window.entry((row.clone(), false)).or_default() += sure;
                }
                if possible > sure {
                    *window.entry((row.clone(), true)).or_default() += possible - sure;
                }
                certain += count;
                all += count;
            }
            if certain >= end {
                break;
            }
        }
        window
    }

    fn emit(&self, window: &Window, step: &mut Step<'_>) -> Result<(), Failure> {
        let rows: Vec<(&(RowBytes, bool), &i64)> = window.iter().filter(|(_, weight)| **weight != 0).collect();
        for piece in pieces(rows.iter().map(|((row, _), _)| row.len())) {
            let rows = &rows[piece];
            let bytes: Vec<&[u8]> = rows.iter().map(|((row, _), _)| &**row).collect();
            let batch = self.codec.decode_batch(&self.view.schema, &bytes)?;
            let faults = rows.iter().map(|((row, in_doubt), _)| {
                let held = self.codec.fault(row);
                if !in_doubt {
                    return held;
                }
                let reason = "whether it is within the limit is not known, because a row that may be before it failed";
                let mut fault = Fault::doubt(Cause { reason: reason.into(), at: "".into() });
                if let Some(held) = held {
                    fault = Fault { doubt: true, ..held.as_ref().clone() };
                }
                Some(Arc::new(fault))
            });
            let faults = faults.collect();
            let weights = rows.iter().map(|(_, weight)| **weight).collect();
            step.emit(Delta::new(batch, weights).with_faults(Some(faults)).net())?;
        }
        Ok(())
    }

    fn held_window(&self, held: &Sorted) -> Window {
        if held.faulty > 0 {
            return self.faulty_window(held.rows.iter().map(|(key, count)| (key, *count)));
        }
        let Some((first, left_out)) = &held.first else { return Window::new() };
        self.window(held.rows.range(first..).map(|(key, count)| (key, *count)), *left_out)
    }

    /// Whether every change lies behind the last row of a window that is full.
    fn is_behind(&self, held: &Sorted) -> bool {
        if self.fetch == i64::MAX || held.faulty > 0 || self.changes.keys().any(|(_, row)| is_faulty(row)) {
            return false;
        }
        // The window's rows lie in order from its first; its last is as many rows on.
        let Some((first, left_out)) = &held.first else { return false };
        let mut room = self.fetch.saturating_add(*left_out);
        for (key, count) in held.rows.range(first..) {
            room -= count;
            if room <= 0 {
                return self.changes.first_key_value().is_none_or(|(changed, _)| changed > key);
            }
        }
        false
    }
}

/// Two lists in order as one, equal keys with the sum of their counts, none of them zero.
fn merged<'a, K: Eq + 'a>(
    held: impl Iterator<Item = (&'a K, &'a i64)>,
    changes: impl Iterator<Item = (&'a K, &'a i64)>,
    comes_first: impl Fn(&K, &K) -> bool,
) -> impl Iterator<Item = (&'a K, i64)> {
    let (mut held, mut changes) = (held.peekable(), changes.peekable());
    std::iter::from_fn(move || {
        loop {
            let next = match (held.peek(), changes.peek()) {
                (None, None) => return None,
                (Some(_), None) => held.next().map(|(key, count)| (key, *count)),
                (None, Some(_)) => changes.next().map(|(key, count)| (key, *count)),
                (Some((a, _)), Some((b, _))) if a == b => {
                    let (a, b) = (held.next()?, changes.next()?);
                    Some((a.0, a.1 + b.1))
                }
                (Some((a, _)), Some((b, _))) if comes_first(a, b) => held.next().map(|(key, count)| (key, *count)),
                _ => changes.next().map(|(key, count)| (key, *count)),
            };
            if next.is_some_and(|(_, count)| count != 0) {
                return next;
            }
        }
    })
}

impl Operator for Top {
    fn when(&self) -> When {
        When::EndOfStep
    }

    fn accept(&mut self, _: usize, delta: &Delta, _: &mut Step<'_>) -> Result<(), Failure> {
        Ok(self.take_in(delta)?)
    }

    fn finish(&mut self, step: &mut Step<'_>) -> Result<(), Failure> {
        let held = step.state().get(self.rows);
        (self.first, self.before) = self.beginning(held);
        if self.fetch == 0 || self.is_behind(held) {
            return Ok(());
        }
        let old = self.held_window(held);
        let is_faulty_after = held.faulty > 0 || self.changes.keys().any(|(_, row)| is_faulty(row));
        let mut window = if is_faulty_after {
            self.faulty_window(self.after(&held.rows, Bound::Unbounded))
        } else {
            match &self.first {
                None => Window::new(),
                Some((first, left_out)) => self.window(self.after(&held.rows, Bound::Included(first)), *left_out),
            }
        };
        for (row, shown) in old {
            *window.entry(row).or_default() -= shown;
        }
        self.emit(&window, step)
    }

    fn fold(&mut self, state: &mut State) {
        let held = state.get_mut(self.rows);
        for (key, weight) in std::mem::take(&mut self.changes) {
            held.add(key, weight);
        }
        (held.first, held.before) = (self.first.take(), self.before);
    }

    fn image(&mut self, step: &mut Step<'_>) -> Result<(), Failure> {
        let window = if self.fetch == 0 { Window::new() } else { self.held_window(step.state().get(self.rows)) };
        self.emit(&window, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Kit, Played, check};
    use crate::{Input, NodeId};
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    fn top(kit: &mut Kit, node: NodeId, column: usize, skip: usize, fetch: Option<usize>) -> Input {
        let input = kit.all(node);
        let order = vec![(column, SortOptions { descending: false, nulls_first: false })];
        let node = kit.dataflow.top("top".to_owned(), &input, order, skip, fetch);
        kit.some(node, &[0, 2])
    }

    fn check_top(skip: usize, fetch: Option<usize>, story: &str, expected: &Expect) {
        check(|kit| top(kit, kit.o, 2, skip, fetch), story, expected);
    }

    const STORY: &str = "+o(1, 1, 10) +o(2, 1, 20) +o(3, 1, 30) +o(4, 1, 40); +o(5, 1, 5); -o(2); ~o(4, 1, 1); +o(6, 1, 99); -o(1) -o(3) -o(5); !o(0)";

    #[test]
    fn the_first_rows() {
        check_top(
            0,
            Some(2),
            STORY,
            &expect![[r#"
            1: +(1, 10) +(2, 20)
            2: -(2, 20) +(5, 5)
            4: -(1, 10) +(4, 1)
            6: -(5, 5) +(6, 99)
            7: -(4, 1) -(6, 99)
        "#]],
        );
    }

    #[test]
    fn rows_behind_others() {
        check_top(
            1,
            Some(2),
            STORY,
            &expect![[r#"
            1: +(2, 20) +(3, 30)
            2: +(1, 10) -(3, 30)
            3: -(2, 20) +(3, 30)
            4: -(3, 30) +(5, 5)
            6: -(1, 10) -(5, 5) +(6, 99)
            7: -(6, 99)
        "#]],
        );
    }

    #[test]
    fn all_behind_some() {
        check_top(
            2,
            None,
            STORY,
            &expect![[r#"
            1: +(3, 30) +(4, 40)
            2: +(2, 20)
            3: -(2, 20)
            4: +(1, 10) -(4, 40)
            5: +(6, 99)
            6: -(1, 10) -(3, 30) -(6, 99)
        "#]],
        );
    }

    #[test]
    fn more_is_skipped_than_there_is_at_first() {
        check_top(
            5,
            Some(1),
            "+o(1, 1, 10) +o(2, 1, 20); +o(3, 1, 1) +o(4, 1, 2) +o(5, 1, 3); +o(6, 1, 4); -o(6); +o(7, 1, 5) +o(8, 1, 6)",
            &expect![[r#"
            3: +(2, 20)
            4: -(2, 20)
            5: +(1, 10)
        "#]],
        );
    }

    #[test]
    fn nothing_is_asked_for() {
        check_top(0, Some(0), "+o(1, 1, 10)", &expect![[r#""#]]);
    }

    /// Ties at the edge: the window is a function of the rows, whatever the order in which they came.
    #[test]
    fn ties_at_the_edge() {
        check_top(
            0,
            Some(2),
            "+o(3, 1, 7) +o(1, 1, 7) +o(2, 1, 7); -o(1); +o(1, 1, 7); ~o(2, 1, 6)",
            &expect![[r#"
            1: +(1, 7) +(2, 7)
            2: -(1, 7) +(3, 7)
            3: +(1, 7) -(3, 7)
            4: +(2, 6) -(2, 7)
        "#]],
        );
    }

    /// Rows that stand several times fill the window as often.
    #[test]
    fn equal_rows() {
        check(
            |kit| {
                let input = kit.all(kit.l);
                let order = vec![(0, SortOptions { descending: true, nulls_first: true })];
                let node = kit.dataflow.top("top".to_owned(), &input, order, 1, Some(2));
                kit.all(node)
            },
            "+l(1, x) +l(1, x) +l(1, x) +l(2, y); -l(2, y); +l(_, z); -l(1, x) -l(1, x)",
            &expect![[r#"
                1: +2(1, x)
                4: -(1, x)
            "#]],
        );
    }

    /// A row in doubt may push the last one out, or not; one whose order failed may stand anywhere.
    #[test]
    fn rows_in_doubt() {
        check(
            |kit| {
                let node = kit.where_quotient();
                let input = kit.all(node);
                let order = vec![(0, SortOptions::default())];
                let node = kit.dataflow.top("top".to_owned(), &input, order, 0, Some(2));
                kit.some(node, &[0, 2])
            },
            "+o(2, 1, 1) +o(3, 1, 2) +o(5, 1, 3); +o(4, 1, 0); ~o(4, 1, 1); +o(1, 1, 0); -o(1)",
            &expect![[r#"
                1: +(2, 1) +(3, 2)
                4: -(3, 2)
                   ? in doubt: id = 1, n = 0 [division by zero (id = 1)]
                   ? in doubt: id = 3, n = 2 [whether it is within the limit is not known, because a row that may be before it failed]
                5: +(3, 2)
            "#]],
        );
        check(
            |kit| {
                let node = kit.with_quotient();
                top(kit, node, 3, 0, Some(2))
            },
            "+o(1, 1, 1) +o(2, 1, 2) +o(3, 1, 5); +o(4, 1, 0); -o(4)",
            &expect![[r#"
                1: +(2, 2) +(3, 5)
                2: -(2, 2)
                   ? in doubt: id = 2, n = 2 [whether it is within the limit is not known, because a row that may be before it failed]
                   ? in doubt: id = 4, n = 0 [division by zero (id = 4)]
                3: +(2, 2)
            "#]],
        );
    }
    /// What is held costs its bytes and 40 an entry; what changes is noted, and where the window
    /// begins is found again.
    #[test]
    fn rows_in_order_are_a_store() {
        let place = |order: &str, row: &str| (order.as_bytes().into(), row.as_bytes().into());
        let mut sorted = Sorted::default();
        assert_eq!(sorted.changed(), None);
        sorted.mark();
        sorted.add(place("1", "@one"), 2);
        sorted.add(place("2", "@two"), 1);
        assert_eq!((sorted.rows(), sorted.bytes(), sorted.changed().map(|rows| rows.len())), (2, 90, Some(2)));
        sorted.add(place("1", "@one"), -1);
        sorted.add(place("2", "@two"), -1);
        assert_eq!((sorted.rows(), sorted.bytes(), sorted.faulty), (1, 45, 0));
        sorted.add(place("3", "Awry"), 1);
        sorted.add(place("3", "Awry"), 1);
        assert_eq!(sorted.faulty, 1, "the first bit of a row says that it has a fault");
        for (before, first) in [(0, Some(("1", 0))), (1, Some(("3", 0))), (2, Some(("3", 1))), (3, None)] {
            sorted.before = before;
            let mut written = Vec::new();
            sorted.write(&mut written);
            let mut read = Sorted::default();
            assert_eq!(read.read(&mut Reader(&written)), Some(()));
            let first = first.map(|(order, left)| (order.as_bytes(), left));
            assert_eq!(read.first.as_ref().map(|((order, _), left)| (&**order, *left)), first, "{before} are skipped");
            assert_eq!((read.before, read.bytes(), read.faulty), (before, 90, 1));
        }
        sorted.clear();
        assert_eq!((sorted.rows(), sorted.bytes(), sorted.changed()), (0, 0, Some(vec![])));
        sorted.add(place("3", "Awry"), 1);
        sorted.add(place("3", "Awry"), -1);
        assert_eq!((sorted.faulty, sorted.changed()), (0, Some(vec![&b"Awry"[..]])));
    }

    /// A window over whole rows by their number, with NULL last.
    fn window_of_whole_rows(skip: usize, fetch: Option<usize>) -> crate::Dataflow {
        let mut kit = Kit::new();
        let input = kit.all(kit.l);
        let order = vec![(0, SortOptions { descending: false, nulls_first: false })];
        let node = kit.dataflow.top("top".to_owned(), &input, order, skip, fetch);
        let input = kit.all(node);
        kit.dataflow.serve("p", &input, crate::projection::ProjectionKey::WholeRow);
        kit.dataflow
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// The plainest answer: all rows in order, of which some are left out and some are taken.
        #[test]
        fn a_window_is_what_sorting_would_show(
            skip in 0..4_usize,
            fetch in prop::option::of(0..4_usize),
            epochs in prop::collection::vec(prop::collection::vec((any::<bool>(), 0..5_usize, 0..2_usize), 1..4), 1..16),
        ) {
            let mut played = Played::new(window_of_whole_rows(skip, fetch));
            let mut rows: BTreeMap<(usize, usize), usize> = BTreeMap::new();
            for epoch in epochs {
                let mut story = String::new();
                for (comes, a, t) in epoch {
                    let count = rows.entry((a, t)).or_default();
                    *count = if comes { *count + 1 } else { count.saturating_sub(1) };
                    let sign = if comes { "+" } else { "-" };
                    story += &format!("{sign}l({}, {}) ", ["0", "1", "2", "3", "_"][a], ["x", "y"][t]);
                }
                played.epoch(&story);
                let sorted = rows.iter().flat_map(|(row, count)| std::iter::repeat_n(row, *count));
                let mut expected: BTreeMap<String, i64> = BTreeMap::new();
                for (a, t) in sorted.skip(skip).take(fetch.unwrap_or(usize::MAX)) {
                    let row = format!("({}, {})", ["0", "1", "2", "3", "_"][*a], ["x", "y"][*t]);
                    *expected.entry(row).or_default() += 1;
                }
                prop_assert_eq!(&played.client.rows, &expected, "after {}", story);
                if story.len().is_multiple_of(3) {
                    played.restart(window_of_whole_rows(skip, fetch));
                }
            }
        }

        /// The same where some rows are in doubt: a copy of a row is shown when it is in the window
        /// wherever those in doubt may be, and withheld when it is in some of these windows.
        #[test]
        fn a_row_is_shown_if_it_is_in_every_window_that_may_be(
            skip in 0..3_usize,
            fetch in 1..4_usize,
            epochs in prop::collection::vec(prop::collection::vec((0..6_usize, 0..3_usize, 0..3_usize), 1..4), 1..10),
        ) {
            let build = || {
                let mut kit = Kit::new();
                let node = kit.where_quotient();
                let input = kit.all(node);
                let node = kit.dataflow.top("top".to_owned(), &input, vec![(1, SortOptions::default())], skip, Some(fetch));
                let input = kit.some(node, &[0]);
                kit.dataflow.serve("p", &input, crate::projection::ProjectionKey::WholeRow);
                kit.dataflow
            };
            let mut played = Played::new(build());
            let mut rows: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
            for epoch in epochs {
                let mut story = String::new();
                for (id, c, kind) in epoch {
                    story += &match kind {
                        0 => format!("-o({id}) "),
                        1 => format!("+o({id}, {c}, 0) "),
                        _ => format!("+o({id}, {c}, 1) "),
                    };
                    let _ = if kind == 0 { rows.remove(&id) } else { rows.insert(id, (c, kind == 1)) };
                }
                played.epoch(&story);
                let (mut shown, mut withheld) = (Vec::new(), 0);
                for (id, (c, in_doubt)) in &rows {
                    let count = |of: &dyn Fn(usize, usize, bool) -> bool| {
                        rows.iter().filter(|(other, (c, in_doubt))| *other != id && of(**other, *c, *in_doubt)).count()
                    };
                    // Those in doubt may be there or not, and have no certain place among their ties.
                    let (least, greatest) = if *in_doubt {
                        (count(&|_, c2, doubt| !doubt && c2 < *c), count(&|_, c2, _| c2 <= *c))
                    } else {
                        let sure = count(&|other, c2, doubt| !doubt && (c2, other) < (*c, *id));
                        (sure, sure + count(&|_, c2, doubt| doubt && c2 <= *c))
                    };
                    let end = skip + fetch;
                    let (always, ever) = (skip <= least && greatest < end, skip <= greatest && least < end);
                    match (in_doubt, always, ever) {
                        (false, true, _) => shown.push(format!("({id})")),
                        (_, _, true) => withheld += 1,
                        _ => {}
                    }
                }
                prop_assert_eq!(played.client.rows.keys().cloned().collect::<Vec<_>>(), shown, "after {}", story);
                prop_assert_eq!(played.withheld.iter().map(|row| row.count).sum::<i64>(), withheld, "after {}", story);
            }
        }
    }
}
