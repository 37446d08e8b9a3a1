//! `ORDER BY … LIMIT … OFFSET …`, kept live.
//!
//! All rows are held in order; the output is a window of it, from one `Edge` to another: behind the
//! rows that are skipped, and behind those and the rows that are wanted. Where the edges are is
//! remembered, so that what lies before, within and behind the window is never walked: a step moves
//! an edge by as many rows as came or went before it. What the window gains and loses is then among
//! the changed rows and those that an edge passed over, and that is what a step costs, however large
//! the window is, and whether or not it has an end. Ties in the sort key are broken by the bytes of the
//! row, so the window is a function of the rows and of nothing else.
//!
//! What is not known: a row in doubt shifts those behind it or does not; a row whose sort key (or,
//! among ties, any column) is not known may stand anywhere. So a row has a least and a greatest
//! place. It is in the window for sure when both are inside, and in doubt when only some place is.
//! While there are such rows, each step walks from the first row.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::error::ArrowError;

use crate::delta::{Delta, add_count, pieces, total};
use crate::fault::{Cause, Fault};
use crate::operator::{Failure, Operator, View, When};
use crate::program::Step;
use crate::row::{OrderCodec, RowBytes, RowCodec, is_faulty};
use crate::state::{Handle, Reader, State, Store, write_bytes};

/// A sort key, and a row's bytes.
type Place = (RowBytes, RowBytes);
type Ordered = BTreeMap<Place, i64>;

/// A cut through the rows in order, with so many of them before it, or all where there are fewer.
#[derive(Clone, Debug)]
struct Edge {
    /// How many rows are to be before it.
    at: i64,
    /// The first row that is not wholly before it, and how many times it is; `None` behind the last.
    first: Option<(Place, i64)>,
    /// How many rows are before it.
    before: i64,
}

/// Rows in order, and where the window begins and ends.
#[derive(Debug)]
pub struct Sorted {
    rows: Ordered,
    window: [Edge; 2],
    /// Rows with a fault.
    faulty: usize,
    bytes: usize,
    /// Rows that changed since a mark.
    changed: Option<BTreeMap<RowBytes, ()>>,
}

impl Edge {
    /// Where the edge is when no row is there.
    fn new(at: i64) -> Edge {
        Edge { at, first: None, before: 0 }
    }

    /// How many of a row's copies are before the edge.
    fn before_it(&self, row: &Place, count: i64) -> i64 {
        match &self.first {
            None => count,
            Some((first, stood)) => match row.cmp(first) {
                Ordering::Less => count,
                Ordering::Equal => *stood,
                Ordering::Greater => 0,
            },
        }
    }

    /// Where the edge is once the rows held have changed.
    fn moved(&self, held: &Ordered, changes: &Ordered) -> Edge {
        let Some((first, stood)) = &self.first else {
            // It was behind the last row, so it is not far from the end now.
            let mut all = self.before;
            add_count(&mut all, total(changes.values()));
            return self.back(held, changes, Bound::Unbounded, all);
        };
        // Rows that came or went before the row at which the edge was.
        let mut before = self.before - stood;
        add_count(&mut before, total(changes.range(..first).map(|(_, weight)| weight)));
        if before > self.at {
            return self.back(held, changes, Bound::Excluded(first), before);
        }
        self.on(merged(held.range(first..), changes.range(first..), |a, b| a < b), before)
    }

    /// The edge at or behind the first of these rows, which `before` rows are before.
    fn on<'a>(&self, rows: impl Iterator<Item = (&'a Place, i64)>, mut before: i64) -> Edge {
        for (key, count) in rows {
            if count > self.at - before {
                return Edge { at: self.at, first: Some((key.clone(), self.at - before)), before: self.at };
            }
            before += count;
        }
        Edge { at: self.at, first: None, before }
    }

    /// The edge before `to`, which `before` rows are before.
    fn back(&self, held: &Ordered, changes: &Ordered, to: Bound<&Place>, mut before: i64) -> Edge {
        if before > self.at {
            let to = (Bound::Unbounded, to);
            for (key, count) in merged(held.range(to).rev(), changes.range(to).rev(), |a, b| a > b) {
                before -= count;
                if before <= self.at {
                    return Edge { at: self.at, first: Some((key.clone(), self.at - before)), before: self.at };
                }
            }
        }
        Edge { at: self.at, first: None, before }
    }

    /// The rows held of which a copy is before this edge and not before the other, or the other way
    /// round, with the rows at both.
    fn to<'a>(&'a self, other: &'a Edge, held: &'a Ordered) -> impl Iterator<Item = &'a Place> {
        let ends = match (&self.first, &other.first) {
            (Some((a, _)), Some((b, _))) => Some((a.min(b), Bound::Included(a.max(b)))),
            (Some((a, _)), None) | (None, Some((a, _))) => Some((a, Bound::Unbounded)),
            (None, None) => None,
        };
        ends.into_iter().flat_map(|(from, to)| held.range((Bound::Included(from), to))).map(|(row, _)| row)
    }
}

impl Sorted {
    /// No rows, and a window from `skip` rows on of at most `fetch`.
    #[must_use]
    pub fn new(skip: usize, fetch: Option<usize>) -> Sorted {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (skip, fetch) = (number(skip), fetch.map_or(i64::MAX, number));
        Sorted {
            rows: Ordered::new(),
            window: [skip, skip.saturating_add(fetch)].map(Edge::new),
            faulty: 0,
            bytes: 0,
            changed: None,
        }
    }

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
                add_count(entry.get_mut(), weight);
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
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.window = [Edge::new(self.window[0].at), Edge::new(self.window[1].at)];
        (self.faulty, self.bytes) = (0, 0);
        self.changed = self.changed.take().map(|_| BTreeMap::new());
    }

    fn read(&mut self, from: &mut Reader<'_>) -> Option<()> {
        for _ in 0..from.i64()? {
            let key = (from.bytes()?.into(), from.bytes()?.into());
            let count = from.i64()?;
            self.add(key, count);
        }
        for edge in &mut self.window {
            *edge = edge.on(self.rows.iter().map(|(key, count)| (key, *count)), 0);
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
    rows: Handle<Sorted>,
    changes: Ordered,
    /// Where the window begins and ends after this step.
    window: Option<[Edge; 2]>,
}

/// What is in the window, and whether for sure.
type Window = BTreeMap<(RowBytes, bool), i64>;

impl Top {
    /// The window of `rows` over some columns of a node, sorted by `order`, which are columns of the
    /// view.
    ///
    /// # Errors
    /// When a column's type has no row format.
    pub fn new(view: View, order: &[(usize, SortOptions)], rows: Handle<Sorted>) -> Result<Top, ArrowError> {
        Ok(Top {
            order: OrderCodec::new(&view.schema, order)?,
            order_columns: order.iter().map(|(column, _)| *column).collect(),
            codec: RowCodec::whole(&view.schema)?,
            view,
            rows,
            changes: Ordered::new(),
            window: None,
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
                    add_count(entry.get_mut(), weight);
                    if *entry.get() == 0 {
                        entry.remove();
                    }
                }
            }
        }
        Ok(())
    }

    /// What the window gains and loses where no row is faulty: a row that neither changes nor is
    /// passed over by an edge stays in it, or out of it, as often as it is.
    fn difference(&self, held: &Sorted, after: &[Edge; 2]) -> Window {
        let passed = held.window.iter().zip(after).flat_map(|(old, new)| old.to(new, &held.rows));
        let mut window = Window::new();
        for row in self.changes.keys().chain(passed) {
            let count = held.rows.get(row).copied().unwrap_or(0);
            let shown = |[begin, end]: &[Edge; 2], count| end.before_it(row, count) - begin.before_it(row, count);
            let now = count + self.changes.get(row).copied().unwrap_or(0);
            let gained = shown(after, now) - shown(&held.window, count);
            if gained != 0 {
                window.insert((row.1.clone(), false), gained);
            }
        }
        window
    }

    /// The window of rows of which some are faulty, from the first row on.
    fn faulty_window<'a>(&self, [begin, end]: &[Edge; 2], rows: impl Iterator<Item = (&'a Place, i64)>) -> Window {
        let mut window = Window::new();
        let (skip, end) = (begin.at, end.at);
        if skip == end {
            return window;
        }
        // Rows whose place is not known may be before any other.
        let mut anywhere = 0;
        let mut ordered: Vec<(&Place, i64, bool)> = Vec::new();
        for (key, count) in rows {
            match self.codec.fault(&key.1) {
                Some(fault) if self.order_columns.iter().any(|&column| fault.has_failed(column)) => {
                    add_count(&mut anywhere, count);
                    *window.entry((key.1.clone(), true)).or_default() += count;
                }
                fault => ordered.push((key, count, fault.is_some())),
            }
        }
        let (mut certain, mut all) = (0, anywhere);
        let mut rest = &ordered[..];
        while let Some(((order, _), ..)) = rest.first() {
            // Among ties a row that is not known to the last column may stand anywhere.
            let ties = rest.iter().take_while(|((other, _), ..)| other == order).count();
            let (tied, after) = rest.split_at(ties);
            rest = after;
            let unsure = total(tied.iter().filter(|(.., is_faulty)| *is_faulty).map(|(_, count, _)| count));
            // The greatest place of any of these.
            let mut last = all;
            tied.iter().for_each(|(_, count, _)| add_count(&mut last, *count));
            for ((_, row), count, _) in tied.iter().filter(|(.., is_faulty)| *is_faulty) {
                // It may be the first or the last of its ties.
                let (least, greatest) = (certain, last);
                if greatest > skip && least < end {
                    *window.entry((row.clone(), true)).or_default() += count;
                }
            }
            all += unsure;
            for ((_, row), count, _) in tied.iter().filter(|(.., is_faulty)| !*is_faulty) {
                // Copy number n stands at least at certain + n and at most at all + n.
                let possible = (end - certain).clamp(0, *count) - (skip - all).clamp(0, *count);
                let sure = ((end - all).clamp(0, *count) - (skip - certain).clamp(0, *count)).max(0);
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
            return self.faulty_window(&held.window, held.rows.iter().map(|(key, count)| (key, *count)));
        }
        let [begin, end] = &held.window;
        let Some((first, _)) = &begin.first else { return Window::new() };
        let mut window = Window::new();
        for (row, count) in held.rows.range(first..) {
            let shown = end.before_it(row, *count) - begin.before_it(row, *count);
            if shown == 0 {
                break;
            }
            window.insert((row.1.clone(), false), shown);
        }
        window
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
        let after = held.window.each_ref().map(|edge| edge.moved(&held.rows, &self.changes));
        let some_faulty = held.faulty > 0 || self.changes.keys().any(|(_, row)| is_faulty(row));
        let window = if some_faulty {
            let rows = merged(held.rows.iter(), self.changes.iter(), |a, b| a < b);
            let mut window = self.faulty_window(&after, rows);
            for (row, shown) in self.held_window(held) {
                *window.entry(row).or_default() -= shown;
            }
            window
        } else {
            self.difference(held, &after)
        };
        self.window = Some(after);
        self.emit(&window, step)
    }

    fn fold(&mut self, state: &mut State) {
        let held = state.get_mut(self.rows);
        for (key, weight) in std::mem::take(&mut self.changes) {
            held.add(key, weight);
        }
        if let Some(window) = self.window.take() {
            held.window = window;
        }
    }

    fn image(&mut self, step: &mut Step<'_>) -> Result<(), Failure> {
        let window = self.held_window(step.state().get(self.rows));
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

    /// A row comes from two inputs in one step, and as often as it came it is there.
    #[test]
    fn a_row_comes_twice_in_one_step() {
        check(
            |kit| {
                let input = kit.all(kit.o);
                let twice = kit.dataflow.union(&[input.clone(), input.clone()], input.schema);
                top(kit, twice, 2, 1, Some(2))
            },
            "+o(1, 1, 10) +o(2, 1, 20); +o(3, 1, 5); -o(1)",
            &expect![[r#"
                1: +(1, 10) +(2, 20)
                2: -(2, 20) +(3, 5)
                3: -(1, 10) +(2, 20)
            "#]],
        );
    }

    /// Copies of one row, before which another may stand or not: some are within the limit either way.
    #[test]
    fn copies_of_which_some_are_in_doubt() {
        check(
            |kit| {
                let node = kit.where_quotient();
                let input = kit.some(node, &[1]);
                let node = kit.dataflow.top("top".to_owned(), &input, vec![(0, SortOptions::default())], 0, Some(3));
                kit.all(node)
            },
            "+o(1, 5, 1) +o(2, 5, 1) +o(3, 5, 1); +o(4, 1, 0); +o(5, 2, 0); -o(4) -o(5)",
            &expect![[r#"
                1: +3(5)
                2: -(5)
                   ? in doubt: c = 1 [division by zero (id = 4)]
                   ? in doubt: c = 5 [whether it is within the limit is not known, because a row that may be before it failed]
                3: -(5)
                   ? in doubt: c = 1 [division by zero (id = 4)]
                   ? in doubt: c = 2 [division by zero (id = 5)]
                   ? 2x in doubt: c = 5 [whether it is within the limit is not known, because a row that may be before it failed]
                4: +2(5)
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

    fn place(n: u16) -> Place {
        (n.to_be_bytes().into(), [0].into())
    }

    /// Without LIMIT the window was copied whole before and after each step, so that one change cost
    /// as much as there are rows. What is looked at beside the change are the rows that an edge
    /// passes over.
    #[test]
    fn an_edge_passes_over_as_many_rows_as_came_or_went_before_it() {
        let held: Ordered = (0..10_000).map(|n| (place(2 * n), 1)).collect();
        let edge = |at: i64| Edge::new(at).moved(&Ordered::new(), &held);
        let [begin, end] = [edge(100), edge(i64::MAX)];
        assert_eq!((begin.first.clone(), begin.before), (Some((place(200), 0)), 100));
        assert_eq!((end.first.clone(), end.before), (None, 10_000));
        for (changed, weight, first, passed) in [(1, 1, 198, 2), (0, -1, 202, 2), (201, 1, 200, 1), (9999, -1, 200, 1)]
        {
            let changes = Ordered::from([(place(changed), weight)]);
            let moved = begin.moved(&held, &changes);
            assert_eq!(moved.first, Some((place(first), 0)), "after {weight:+} of {changed}");
            assert_eq!(begin.to(&moved, &held).count(), passed, "after {weight:+} of {changed}");
            assert_eq!(end.to(&end.moved(&held, &changes), &held).count(), 0, "after {weight:+} of {changed}");
        }
    }

    /// Rows that stand several times, at and around both edges of windows of every kind: what is said
    /// must come to what the rows are.
    #[test]
    fn what_is_said_comes_to_the_window() {
        let mut seed = 7_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for (skip, fetch) in
            [(0, None), (3, None), (0, Some(4)), (2, Some(3)), (6, Some(1)), (30, Some(9)), (2, Some(0))]
        {
            let mut rows: BTreeMap<u64, i64> = BTreeMap::new();
            let mut played = Played::new(window_of_whole_rows(skip, fetch));
            for epoch in 0..60 {
                let mut story = String::new();
                for _ in 0..=random(5) {
                    let row = random(9);
                    if random(2) == 0 || !rows.contains_key(&row) {
                        *rows.entry(row).or_default() += 1;
                        story += &format!("+l({row}, x) ");
                    } else {
                        *rows.entry(row).or_default() -= 1;
                        rows.retain(|_, count| *count != 0);
                        story += &format!("-l({row}, x) ");
                    }
                }
                let each =
                    rows.iter().flat_map(|(row, count)| std::iter::repeat_n(row, usize::try_from(*count).unwrap_or(0)));
                let mut window: BTreeMap<String, i64> = BTreeMap::new();
                each.skip(skip)
                    .take(fetch.unwrap_or(usize::MAX))
                    .for_each(|row| *window.entry(format!("({row}, x)")).or_default() += 1);
                played.epoch(&story);
                assert_eq!(played.client.rows, window, "OFFSET {skip} LIMIT {fetch:?} in epoch {epoch}");
            }
        }
    }

    /// What is held costs its bytes and 40 an entry; what changes is noted, and where the window
    /// begins is found again.
    #[test]
    fn rows_in_order_are_a_store() {
        let place = |order: &str, row: &str| (order.as_bytes().into(), row.as_bytes().into());
        let mut sorted = Sorted::new(0, None);
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
        let mut written = Vec::new();
        sorted.write(&mut written);
        for (skip, first) in [(0, Some(("1", 0))), (1, Some(("3", 0))), (2, Some(("3", 1))), (3, None)] {
            let mut read = Sorted::new(skip, Some(7));
            assert_eq!(read.read(&mut Reader(&written)), Some(()));
            let [begin, end] = &read.window;
            let first = first.map(|(order, left)| (order.as_bytes(), left));
            assert_eq!(begin.first.as_ref().map(|((order, _), left)| (&**order, *left)), first, "{skip} are skipped");
            assert_eq!((begin.before, end.first.is_none(), end.before), (skip as i64, true, 3));
            assert_eq!((read.bytes(), read.faulty), (90, 1));
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
