//! Equi-joins over two arrangements.
//!
//! With state as it was before the step, `Δ(A⋈B) = ΔA⋈B + A⋈ΔB + ΔA⋈ΔB`; each pair of rows meets
//! exactly once. The third term matters when a transaction changes both sides: leaving it out, or
//! reading new state in the second, is the classical way to lose a row or to keep a phantom.
//!
//! Outer, semi and anti joins ask of each row of A whether it has any match. The answer changes
//! only for the keys that this step touches, and only on a transition: what counts is whether the
//! key had any row in B before the step and whether it has after it. Deciding that once per key and
//! step, on net changes, is what keeps the NULL row from flickering when B's only row is replaced.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use hashbrown::HashMap;

use crate::arrangement::{Arrangement, Changed, Group};
use crate::delta::{Delta, index};
use crate::operator::{Context, Operator};
use crate::program::ArrangementId;
use crate::row::batch_of;

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

/// A join on the keys of two arrangements. Output columns are the left side's, then, unless the
/// join only asks for matches, the right's.
pub struct Join {
    schema: SchemaRef,
    kind: JoinKind,
    left: ArrangementId,
    right: ArrangementId,
}

impl Join {
    /// Both arrangements have keys of the same types.
    #[must_use]
    pub fn new(schema: SchemaRef, kind: JoinKind, left: ArrangementId, right: ArrangementId) -> Join {
        Join { schema, kind, left, right }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Changing {
    Left,
    Right,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HasMatch {
    Yes,
    No,
}

/// Where the other side's columns stand, if anywhere.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nulls {
    None,
    Before,
    After,
}

impl Operator for Join {
    fn step(&mut self, _: &[Option<&Delta>], context: &mut Context<'_>) -> Result<Option<Delta>, ArrowError> {
        let left = &context.arrangements[self.left.0];
        let right = &context.arrangements[self.right.0];
        let parts = match self.kind {
            JoinKind::Inner => self.pairs(left, right)?,
            JoinKind::Left => [self.pairs(left, right)?, self.by_match(left, right, HasMatch::No, Nulls::After)?].concat(),
            JoinKind::Full => [
                self.pairs(left, right)?,
                self.by_match(left, right, HasMatch::No, Nulls::After)?,
                self.by_match(right, left, HasMatch::No, Nulls::Before)?,
            ]
            .concat(),
            JoinKind::Semi => self.by_match(left, right, HasMatch::Yes, Nulls::None)?,
            JoinKind::Anti => self.by_match(left, right, HasMatch::No, Nulls::None)?,
        };
        Delta::concat(parts)
    }
}

impl Join {
    /// How the pairs that match change.
    fn pairs(&self, left: &Arrangement, right: &Arrangement) -> Result<Vec<Delta>, ArrowError> {
        let mut parts = Vec::new();
        if let Some(changed) = left.changes() {
            parts.extend(self.against_state(changed, right, Changing::Left)?);
        }
        if let Some(changed) = right.changes() {
            parts.extend(self.against_state(changed, left, Changing::Right)?);
        }
        if let (Some(left), Some(right)) = (left.changes(), right.changes()) {
            parts.extend(self.both_changed(left, right)?);
        }
        Ok(parts)
    }

    /// The changes of one side with the other side's state.
    fn against_state(&self, changed: &Changed, state: &Arrangement, side: Changing) -> Result<Option<Delta>, ArrowError> {
        let mut from: Vec<u32> = Vec::new();
        let mut matches: Vec<&[u8]> = Vec::new();
        let mut weights: Vec<i64> = Vec::new();
        for (i, &weight) in changed.delta.weights.iter().enumerate() {
            if !changed.matches(i) {
                continue;
            }
            if let Some(group) = state.group(changed.keys.row(i).data()) {
                group.for_each(|row, count| {
                    from.push(index(i));
                    matches.push(row);
                    weights.push(weight * count);
                });
            }
        }
        if weights.is_empty() {
            return Ok(None);
        }
        let changing = gather(&changed.delta.batch, from)?;
        let len = matches.len();
        let matched = state.decode(matches, len)?.columns().to_vec();
        let columns = match side {
            Changing::Left => [changing, matched].concat(),
            Changing::Right => [matched, changing].concat(),
        };
        Ok(Some(Delta::new(batch_of(&self.schema, columns, len)?, weights)))
    }

    /// The changes of both sides with each other.
    fn both_changed(&self, left: &Changed, right: &Changed) -> Result<Option<Delta>, ArrowError> {
        let mut by_key: HashMap<&[u8], Vec<u32>> = HashMap::with_capacity(right.delta.len());
        for i in (0..right.delta.len()).filter(|&i| right.matches(i)) {
            by_key.entry(right.keys.row(i).data()).or_default().push(index(i));
        }
        let (mut from_left, mut from_right, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for i in (0..left.delta.len()).filter(|&i| left.matches(i)) {
            for &j in by_key.get(left.keys.row(i).data()).into_iter().flatten() {
                from_left.push(index(i));
                from_right.push(j);
                weights.push(left.delta.weights[i] * right.delta.weights[j as usize]);
            }
        }
        if weights.is_empty() {
            return Ok(None);
        }
        let columns = [gather(&left.delta.batch, from_left)?, gather(&right.delta.batch, from_right)?].concat();
        Ok(Some(Delta::new(batch_of(&self.schema, columns, weights.len())?, weights)))
    }

    /// How the rows of `side` that have a match in `other`, or have none, change.
    fn by_match(&self, side: &Arrangement, other: &Arrangement, wanted: HasMatch, nulls: Nulls) -> Result<Vec<Delta>, ArrowError> {
        // How many rows the other side gains under each key that it touches.
        let mut gained: HashMap<&[u8], i64> = HashMap::new();
        if let Some(other) = other.changes() {
            for i in (0..other.delta.len()).filter(|&i| other.matches(i)) {
                *gained.entry(other.keys.row(i).data()).or_default() += other.delta.weights[i];
            }
        }
        let rows_before = |key: &[u8]| other.group(key).map_or(0, Group::total);
        let is_wanted = |rows: i64| (rows != 0) == (wanted == HasMatch::Yes);
        let mut parts = Vec::new();
        // 1. The side's own changes count where the key is as wanted after this step.
        if let Some(changed) = side.changes() {
            let (mut from, mut weights) = (Vec::new(), Vec::new());
            for (i, &weight) in changed.delta.weights.iter().enumerate() {
                let key = changed.keys.row(i).data();
                let matches = if changed.matches(i) { rows_before(key) + gained.get(key).copied().unwrap_or(0) } else { 0 };
                if is_wanted(matches) {
                    from.push(index(i));
                    weights.push(weight);
                }
            }
            if !weights.is_empty() {
                parts.push(self.with_nulls(gather(&changed.delta.batch, from)?, weights, nulls)?);
            }
        }
        // 2. The side's rows of before come or go where the other side's key gains its first row
        //    or loses its last.
        let (mut rows, mut weights): (Vec<&[u8]>, Vec<i64>) = (Vec::new(), Vec::new());
        for (&key, &gain) in &gained {
            let before = rows_before(key);
            let sign = match (is_wanted(before), is_wanted(before + gain)) {
                (true, false) => -1,
                (false, true) => 1,
                _ => continue,
            };
            if let Some(group) = side.group(key) {
                group.for_each(|row, count| {
                    rows.push(row);
                    weights.push(sign * count);
                });
            }
        }
        if !weights.is_empty() {
            let len = rows.len();
            parts.push(self.with_nulls(side.decode(rows, len)?.columns().to_vec(), weights, nulls)?);
        }
        Ok(parts)
    }

    fn with_nulls(&self, columns: Vec<ArrayRef>, weights: Vec<i64>, nulls: Nulls) -> Result<Delta, ArrowError> {
        let fields = self.schema.fields();
        let absent = |fields: &[arrow::datatypes::FieldRef]| {
            fields.iter().map(|field| new_null_array(field.data_type(), weights.len())).collect::<Vec<_>>()
        };
        let columns = match nulls {
            Nulls::None => columns,
            Nulls::After => [columns.clone(), absent(&fields[columns.len()..])].concat(),
            Nulls::Before => [absent(&fields[..fields.len() - columns.len()]), columns].concat(),
        };
        Ok(Delta::new(batch_of(&self.schema, columns, weights.len())?, weights))
    }
}

/// The columns of `batch` at `rows`.
fn gather(batch: &RecordBatch, rows: Vec<u32>) -> Result<Vec<ArrayRef>, ArrowError> {
    if rows.len() == batch.num_rows() && rows.iter().enumerate().all(|(i, &row)| row as usize == i) {
        return Ok(batch.columns().iter().map(Arc::clone).collect());
    }
    let rows = UInt32Array::from(rows);
    batch.columns().iter().map(|column| take(column, &rows, None)).collect()
}
