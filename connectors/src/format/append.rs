//! Each message is a row.

use pipeline::Op;

use super::{Bad, Events, FormatError, MessageDecoder, Payload, RowDecoder};

/// Makes a row of each message's value.
pub struct Append {
    values: Box<dyn RowDecoder>,
}

impl Append {
    /// Rows as `values` makes them.
    #[must_use]
    pub fn new(values: Box<dyn RowDecoder>) -> Append {
        Append { values }
    }
}

impl MessageDecoder for Append {
    fn decode(&mut self, messages: &[Payload<'_>]) -> Result<Events, FormatError> {
        let (places, payloads): (Vec<usize>, Vec<&[u8]>) =
            messages.iter().enumerate().filter_map(|(place, message)| Some((place, message.value?))).unzip();
        let rows = self.values.decode(&payloads)?;
        let mut bad: Vec<Bad> = rows.bad.into_iter().map(|bad| Bad { message: places[bad.message], ..bad }).collect();
        if payloads.len() < messages.len() {
            let empty = messages.iter().enumerate().filter(|(_, message)| message.value.is_none());
            bad.extend(empty.map(|(message, _)| Bad { message, reason: NO_VALUE.to_owned() }));
            bad.sort_by_key(|bad| bad.message);
        }
        Ok(Events {
            ops: vec![Op::Insert; rows.from.len()],
            from: rows.from.into_iter().map(|row| places[row]).collect(),
            columns: rows.columns,
            bad,
            ..Events::default()
        })
    }
}

const NO_VALUE: &str = "it has no value, and in mode = 'append' each message is a row";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::Numbers;

    #[test]
    fn each_value_is_a_row_and_a_message_without_one_is_none() {
        let message = |value| Payload { key: None, value };
        let messages = [message(Some(&b"1"[..])), message(None), message(Some(b"x")), message(Some(b"4"))];
        let events = Append::new(Box::new(Numbers)).decode(&messages).expect("decodes");
        assert_eq!((events.from, events.ops), (vec![0, 3], vec![Op::Insert; 2]));
        assert_eq!(events.bad.iter().map(|bad| bad.message).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(events.bad[0].reason, NO_VALUE);
        assert_eq!(events.columns[0].len(), 2);
    }
}
