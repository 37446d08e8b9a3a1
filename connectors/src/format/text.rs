//! Text and bytes: a payload is the value of the only column.

use arrow::datatypes::{DataType, Field};

use super::columns::{Column, Unreadable};
use super::csv::refusal;
use super::{Bad, FormatError, RowDecoder, Rows};

/// Makes a row of each payload whose text is a value of one column, of any type. An empty text is an empty text, and
/// no value of any other type.
pub struct TextRows {
    name: String,
    column: Column,
}

impl TextRows {
    /// Rows of this column.
    ///
    /// # Errors
    /// When the column has a type that texts are not read into.
    pub fn new(field: &Field) -> Result<TextRows, Unreadable> {
        match field.data_type() {
            DataType::Struct(_) => {
                Err(Unreadable { column: field.name().clone(), data_type: field.data_type().clone() })
            }
            _ => Ok(TextRows { name: field.name().clone(), column: Column::new(field)? }),
        }
    }

    fn read(&mut self, payload: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(payload)
            .map_err(|error| format!("it is not UTF-8, from byte {} on", error.valid_up_to()))?;
        let pushed = self.column.push_text(text);
        pushed.map_err(|refused| refusal(refused, &self.name, text, &self.column.type_name()))
    }
}

impl RowDecoder for TextRows {
    fn decode(&mut self, payloads: &[&[u8]]) -> Result<Rows, FormatError> {
        let mut rows = Rows::default();
        for (place, payload) in payloads.iter().enumerate() {
            match self.read(payload) {
                Ok(()) => rows.from.push(place),
                Err(reason) => {
                    self.column.truncate(rows.from.len());
                    rows.bad.push(Bad { message: place, reason });
                }
            }
        }
        rows.columns = vec![self.column.finish()];
        Ok(rows)
    }
}

/// Makes a row of each payload: its bytes as they are.
pub struct BytesRows {
    name: String,
    column: Column,
}

impl BytesRows {
    /// Rows of this column.
    ///
    /// # Errors
    /// When it is no column of bytes.
    pub fn new(field: &Field) -> Result<BytesRows, Unreadable> {
        match field.data_type() {
            DataType::Binary => Ok(BytesRows { name: field.name().clone(), column: Column::new(field)? }),
            other => Err(Unreadable { column: field.name().clone(), data_type: other.clone() }),
        }
    }
}

impl RowDecoder for BytesRows {
    fn decode(&mut self, payloads: &[&[u8]]) -> Result<Rows, FormatError> {
        let mut rows = Rows::default();
        for (place, payload) in payloads.iter().enumerate() {
            match self.column.push_bytes(payload) {
                Ok(()) => rows.from.push(place),
                Err(refused) => {
                    let reason = refusal(refused, &self.name, "", &self.column.type_name());
                    rows.bad.push(Bad { message: place, reason });
                }
            }
        }
        rows.columns = vec![self.column.finish()];
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    #[test]
    fn a_text_is_a_value() {
        let mut rows = TextRows::new(&Field::new("id", DataType::Int64, true)).expect("a column");
        let rows = rows.decode(&[b"7", b"x", b"", b"\xff", b"-8"]).expect("decodes");
        assert_eq!(rows.from, [0, 4]);
        assert_eq!(rows.columns[0].as_primitive::<Int64Type>().values(), &[7, -8]);
        let reasons: Vec<&str> = rows.bad.iter().map(|bad| bad.reason.as_str()).collect();
        let expected = [
            "`id` is \"x\", which is not a value of BIGINT",
            "`id` is \"\", which is not a value of BIGINT",
            "it is not UTF-8, from byte 0 on",
        ];
        assert_eq!(reasons, expected);
        let mut rows = TextRows::new(&Field::new("id", DataType::Utf8, true)).expect("a column");
        assert_eq!(rows.decode(&[b"", b"a"]).expect("decodes").columns[0].as_string::<i32>().value(0), "");
    }

    #[test]
    fn bytes_are_kept() {
        let mut rows = BytesRows::new(&Field::new("b", DataType::Binary, true)).expect("a column");
        let rows = rows.decode(&[b"\xff\0", b""]).expect("decodes");
        assert_eq!((rows.columns[0].as_binary::<i32>().value(0), rows.from), (&b"\xff\0"[..], vec![0, 1]));
        assert!(BytesRows::new(&Field::new("b", DataType::Utf8, true)).is_err());
    }
}
