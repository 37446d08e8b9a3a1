//! Decoders that are easy to follow.

use std::sync::Arc;

use arrow::array::Int64Array;

use super::{Bad, FormatError, RowDecoder, Rows};

/// A number a payload.
pub struct Numbers;

/// Two numbers a payload, with a space between; `?` for NULL.
pub struct Pairs;

fn number(text: &str) -> Option<Option<i64>> {
    if text == "?" { Some(None) } else { text.parse().ok().map(Some) }
}

fn rows(payloads: &[&[u8]], columns: usize) -> Result<Rows, FormatError> {
    let mut rows = Rows::default();
    let mut values = vec![Vec::new(); columns];
    for (place, payload) in payloads.iter().enumerate() {
        let text = String::from_utf8_lossy(payload);
        let numbers: Option<Vec<Option<i64>>> = text.split(' ').map(number).collect();
        match numbers.filter(|numbers| numbers.len() == columns) {
            Some(numbers) => {
                rows.from.push(place);
                values.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
            }
            None => rows.bad.push(Bad { message: place, reason: format!("{text} is not {columns} numbers") }),
        }
    }
    rows.columns = values.into_iter().map(|column| Arc::new(Int64Array::from(column)) as _).collect();
    Ok(rows)
}

impl RowDecoder for Numbers {
    fn decode(&mut self, payloads: &[&[u8]]) -> Result<Rows, FormatError> {
        rows(payloads, 1)
    }
}

impl RowDecoder for Pairs {
    fn decode(&mut self, payloads: &[&[u8]]) -> Result<Rows, FormatError> {
        rows(payloads, 2)
    }
}
