//! The key replaces, no value deletes: what a compacted topic means.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array, new_null_array};
use arrow::compute::kernels::cmp::neq;
use arrow::compute::take;
use pipeline::Op;

use super::{Bad, Events, FormatError, MessageDecoder, Payload, RowDecoder, Rows};

/// Takes the key columns from a message's key, and the others from its value. A key without one of them, or with NULL
/// in it, says of no row which it is: all such would be one.
pub struct Upsert {
    keys: Box<dyn RowDecoder>,
    values: Box<dyn RowDecoder>,
    /// The key columns, by their place among the table's, in the order in which `keys` has them.
    key: Vec<usize>,
    /// Their names, in that order.
    key_names: Vec<String>,
    /// For each column of the table, which column of `values` it is.
    of_values: Vec<Option<usize>>,
}

impl Upsert {
    /// Keys as `keys` makes them: the columns `key` of the table, with their names. Values as
    /// `values` makes them: all columns of the table.
    #[must_use]
    pub fn new(
        keys: Box<dyn RowDecoder>,
        values: Box<dyn RowDecoder>,
        key: Vec<usize>,
        key_names: Vec<String>,
        columns: usize,
    ) -> Upsert {
        Upsert { keys, values, key, key_names, of_values: (0..columns).map(Some).collect() }
    }

    /// The same, where values have all columns but those of the key.
    #[must_use]
    pub fn without_key_in_values(mut self) -> Upsert {
        let mut next = 0..;
        for (column, of_values) in self.of_values.iter_mut().enumerate() {
            *of_values = if self.key.contains(&column) { None } else { next.next() };
        }
        self
    }

    /// For each row of keys, by its place, the first column of the key that it does not have.
    fn missing(&self, keys: &Rows) -> BTreeMap<usize, usize> {
        let mut missing = BTreeMap::new();
        for (place, column) in keys.columns.iter().enumerate().filter(|(_, column)| column.null_count() > 0) {
            for row in (0..column.len()).filter(|row| column.is_null(*row)) {
                missing.entry(row).or_insert(place);
            }
        }
        missing
    }

    /// The rows of keys whose row of a value names another key: `(row of keys, which column)`.
    fn contradictions(
        &self,
        keys: &Rows,
        values: &Rows,
        pairs: &[(u32, u32)],
    ) -> Result<Vec<(u32, usize)>, FormatError> {
        let mut found: Vec<(u32, usize)> = Vec::new();
        let of_keys = UInt32Array::from_iter_values(pairs.iter().map(|pair| pair.0));
        let of_values = UInt32Array::from_iter_values(pairs.iter().map(|pair| pair.1));
        for (place, &column) in self.key.iter().enumerate() {
            let Some(of_column) = self.of_values[column] else { continue };
            let value = take(&values.columns[of_column], &of_values, None)?;
            if value.null_count() == value.len() {
                continue;
            }
            let differs = neq(&take(&keys.columns[place], &of_keys, None)?, &value)?;
            let rows = (0..differs.len()).filter(|&row| differs.is_valid(row) && differs.value(row));
            found.extend(rows.map(|row| (pairs[row].0, place)));
        }
        found.sort_unstable();
        found.dedup_by_key(|(row, _)| *row);
        Ok(found)
    }
}

impl MessageDecoder for Upsert {
    fn decode(&mut self, messages: &[Payload<'_>]) -> Result<Events, FormatError> {
        let mut bad: Vec<Bad> = Vec::new();
        let (with_key, key_payloads): (Vec<usize>, Vec<&[u8]>) =
            messages.iter().enumerate().filter_map(|(place, message)| Some((place, message.key?))).unzip();
        if with_key.len() < messages.len() {
            let without = messages.iter().enumerate().filter(|(_, message)| message.key.is_none());
            bad.extend(without.map(|(message, _)| Bad { message, reason: NO_KEY.to_owned() }));
        }
        let keys = self.keys.decode(&key_payloads)?;
        bad.extend(
            keys.bad.iter().map(|bad| Bad { message: with_key[bad.message], reason: format!("key: {}", bad.reason) }),
        );
        let missing = self.missing(&keys);
        bad.extend(missing.iter().map(|(row, place)| Bad {
            message: with_key[keys.from[*row]],
            reason: format!("its key has no `{}`", self.key_names[*place]),
        }));
        // Each message that says which row it is, with the row of its key.
        let of_keys: Vec<(usize, u32)> = (0_usize..)
            .zip(keys.from.iter().zip(0_u32..))
            .filter(|(row, _)| !missing.contains_key(row))
            .map(|(_, (key, row))| (with_key[*key], row))
            .collect();
        let (with_value, value_payloads): (Vec<usize>, Vec<&[u8]>) =
            of_keys.iter().filter_map(|&(message, _)| Some((message, messages[message].value?))).unzip();
        let values = self.values.decode(&value_payloads)?;
        bad.extend(values.bad.iter().map(|bad| Bad { message: with_value[bad.message], reason: bad.reason.clone() }));

        // The same with the row of its value, if it has one.
        let mut rows: Vec<(usize, u32, Option<u32>)> = Vec::with_capacity(of_keys.len());
        let mut pairs = Vec::with_capacity(values.from.len());
        let mut of_values = values.from.iter().map(|&value| with_value[value]).zip(0_u32..).peekable();
        for (message, row) in of_keys {
            let value = of_values.next_if(|(of, _)| *of == message).map(|(_, value)| value);
            pairs.extend(value.map(|value| (row, value)));
            if value.is_some() || messages[message].value.is_none() {
                rows.push((message, row, value));
            }
        }
        let contradictions = self.contradictions(&keys, &values, &pairs)?;
        if !contradictions.is_empty() {
            let mut contradictions = contradictions.into_iter().peekable();
            rows.retain(|&(message, key, _)| {
                while contradictions.next_if(|(row, _)| *row < key).is_some() {}
                let Some((_, place)) = contradictions.next_if(|(row, _)| *row == key) else { return true };
                let reason = format!("its key and its value have different values of `{}`", self.key_names[place]);
                bad.push(Bad { message, reason });
                false
            });
        }
        bad.sort_by_key(|bad| bad.message);

        let of_keys = UInt32Array::from_iter_values(rows.iter().map(|(_, key, _)| *key));
        let of_values: UInt32Array = rows.iter().map(|(_, _, value)| *value).collect();
        let mut columns = Vec::with_capacity(self.of_values.len());
        for (column, of_column) in self.of_values.iter().enumerate() {
            columns.push(match (self.key.iter().position(|key| *key == column), of_column) {
                (Some(place), _) => chosen(&keys.columns[place], &of_keys)?,
                (None, Some(of_column)) => chosen(&values.columns[*of_column], &of_values)?,
                (None, None) => unreachable!("a column that is none of the key is one of values"),
            });
        }
        Ok(Events {
            columns,
            ops: rows.iter().map(|(_, _, value)| value.map_or(Op::Delete, |_| Op::Insert)).collect(),
            from: rows.iter().map(|(message, ..)| *message).collect(),
            bad,
            ..Events::default()
        })
    }
}

/// These rows of a column, which are ascending; the column itself where they are all of it.
fn chosen(column: &ArrayRef, rows: &UInt32Array) -> Result<ArrayRef, FormatError> {
    if rows.len() == column.len() && rows.null_count() == 0 {
        return Ok(Arc::clone(column));
    }
    if column.is_empty() {
        return Ok(new_null_array(column.data_type(), rows.len()));
    }
    Ok(take(column, rows, None)?)
}

const NO_KEY: &str = "it has no key, and in mode = 'upsert' the key says which row it is";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::{Numbers, Pairs};
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    fn decode(messages: &[(Option<&str>, Option<&str>)]) -> (Vec<String>, Vec<(usize, String)>) {
        let messages: Vec<Payload<'_>> = messages
            .iter()
            .map(|(key, value)| Payload { key: key.map(str::as_bytes), value: value.map(str::as_bytes) })
            .collect();
        let mut upsert = Upsert::new(Box::new(Numbers), Box::new(Pairs), vec![0], vec!["a".to_owned()], 2);
        let events = upsert.decode(&messages).expect("decodes");
        let shown = |column: usize, row: usize| {
            let values = events.columns[column].as_primitive::<Int64Type>();
            if values.is_null(row) { "NULL".to_owned() } else { values.value(row).to_string() }
        };
        let rows = (0..events.from.len())
            .map(|row| format!("{} {:?} {} {}", events.from[row], events.ops[row], shown(0, row), shown(1, row)));
        (rows.collect(), events.bad.iter().map(|bad| (bad.message, bad.reason.clone())).collect())
    }

    #[test]
    fn keys_replace_and_messages_without_a_value_delete() {
        let (rows, bad) = decode(&[
            (Some("1"), Some("1 10")),
            (Some("1"), None),
            (None, Some("2 20")),
            (Some("x"), Some("3 30")),
            (Some("4"), Some("? 40")),
            (Some("5"), Some("x")),
            (Some("6"), Some("7 60")),
            (Some("1"), Some("1 11")),
        ]);
        assert_eq!(rows, ["0 Insert 1 10", "1 Delete 1 NULL", "4 Insert 4 40", "7 Insert 1 11"]);
        assert_eq!(bad.iter().map(|(message, _)| *message).collect::<Vec<_>>(), [2, 3, 5, 6]);
        assert_eq!(bad[0].1, NO_KEY);
        assert!(bad[1].1.starts_with("key: "), "{}", bad[1].1);
        assert_eq!(bad[3].1, "its key and its value have different values of `a`");
    }

    /// A NULL in the key made one row of all messages that had it, and took that away.
    #[test]
    fn a_key_without_one_of_its_columns_names_no_row() {
        let (rows, bad) = decode(&[
            (Some("?"), Some("? 10")),
            (Some("2"), Some("? 20")),
            (Some("?"), None),
            (Some("?"), Some("x")),
            (None, None),
            (Some("3"), None),
        ]);
        assert_eq!(rows, ["1 Insert 2 20", "5 Delete 3 NULL"]);
        let no_a = || "its key has no `a`".to_owned();
        assert_eq!(bad, [(0, no_a()), (2, no_a()), (3, no_a()), (4, NO_KEY.to_owned())]);

        let names = vec!["b".to_owned(), "a".to_owned()];
        let mut upsert = Upsert::new(Box::new(Pairs), Box::new(Pairs), vec![1, 0], names, 2);
        let messages = ["1 ?", "? 2", "? ?", "3 4"]
            .map(|key| Payload { key: Some(key.as_bytes()), value: (key != "? 2").then_some(b"? ?") });
        let events = upsert.decode(&messages).expect("decodes");
        assert_eq!(events.from, [3]);
        let reasons: Vec<&str> = events.bad.iter().map(|bad| bad.reason.as_str()).collect();
        assert_eq!(reasons, ["its key has no `a`", "its key has no `b`", "its key has no `b`"]);
    }

    #[test]
    fn values_may_have_all_but_the_key() {
        let messages = [Payload { key: Some(b"1"), value: Some(b"10") }, Payload { key: Some(b"2"), value: None }];
        let upsert = Upsert::new(Box::new(Numbers), Box::new(Numbers), vec![1], vec!["b".to_owned()], 2);
        let events = upsert.without_key_in_values().decode(&messages).expect("decodes");
        let column = |place: usize| events.columns[place].as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
        assert_eq!((column(0), column(1)), (vec![Some(10), None], vec![Some(1), Some(2)]));
    }

    #[test]
    fn a_batch_of_nothing_but_deletes_or_nothing_at_all_is_none_of_values() {
        assert_eq!(decode(&[(Some("3"), None), (Some("2"), None)]).0, ["0 Delete 3 NULL", "1 Delete 2 NULL"]);
        assert_eq!(decode(&[]), (Vec::new(), Vec::new()));
        assert_eq!(decode(&[(None, None)]).0, Vec::<String>::new());
    }
}
