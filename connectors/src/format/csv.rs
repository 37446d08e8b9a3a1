//! CSV: a record a payload, its fields by position.

use arrow::datatypes::Fields;
use csv_core::{ReadFieldResult, Reader, ReaderBuilder};

use super::columns::{Columns, Refused, Unreadable};
use super::json::shortened;
use super::{Bad, FormatError, RowDecoder, Rows};

/// How records are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvOptions {
    /// What stands between two fields.
    pub delimiter: u8,
    /// What stands for NULL where it is not in quotes.
    pub null: String,
}

impl Default for CsvOptions {
    /// A comma, and nothing at all: `1,,""` has a NULL and an empty text.
    fn default() -> CsvOptions {
        CsvOptions { delimiter: b',', null: String::new() }
    }
}

/// Makes a row of each payload that is one record, with as many fields as there are columns.
///
/// Quotes are `"`, doubled within quotes (RFC 4180). One line end may follow. `docs/formats.md` has what each type
/// takes.
pub struct CsvRows {
    columns: Columns,
    options: CsvOptions,
    reader: Reader,
    field: Vec<u8>,
}

impl CsvRows {
    /// Rows of these columns.
    ///
    /// # Errors
    /// When a column has a type that texts are not read into.
    pub fn new(fields: &Fields, options: CsvOptions) -> Result<CsvRows, Unreadable> {
        let reader = ReaderBuilder::new().delimiter(options.delimiter).build();
        Ok(CsvRows { columns: Columns::new(fields)?, options, reader, field: Vec::new() })
    }

    fn read(&mut self, payload: &[u8], row: usize) -> Result<(), String> {
        let text = std::str::from_utf8(payload)
            .map_err(|error| format!("it is not UTF-8, from byte {} on", error.valid_up_to()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let bytes = ["\r\n", "\n", "\r"].iter().find_map(|end| text.strip_suffix(end)).unwrap_or(text).as_bytes();
        self.reader.reset();
        // A field is never longer than its record.
        self.field.resize(bytes.len(), 0);
        let wanted = self.columns.columns().len();
        let (mut at, mut count) = (0, 0);
        // csv-core sees no record in nothing; here it is one empty field.
        let mut more = !bytes.is_empty();
        if bytes.is_empty() {
            self.push(0, 0, true, row)?;
            count = 1;
        }
        while more {
            // csv-core passes over empty lines before a record.
            if count == 0 && matches!(bytes[at], b'\r' | b'\n') {
                return Err(MORE_RECORDS.to_owned());
            }
            let is_bare = bytes.get(at) != Some(&b'"');
            let mut len = 0;
            loop {
                let (result, read, written) = self.reader.read_field(&bytes[at..], &mut self.field[len..]);
                at += read;
                len += written;
                match result {
                    // The input is over; asked once more, csv-core says what that means.
                    ReadFieldResult::InputEmpty => {}
                    ReadFieldResult::OutputFull => return Err("a field is longer than its record".to_owned()),
                    ReadFieldResult::Field { record_end } => {
                        more = !record_end;
                        break;
                    }
                    ReadFieldResult::End => {
                        more = false;
                        break;
                    }
                }
            }
            if count < wanted {
                self.push(count, len, is_bare, row)?;
            }
            count += 1;
        }
        if at < bytes.len() {
            return Err(MORE_RECORDS.to_owned());
        }
        if let Some(what) = misquoted(bytes, self.options.delimiter) {
            return Err(what.to_owned());
        }
        if count == wanted { Ok(()) } else { Err(format!("it has {count} fields, not {wanted}")) }
    }

    /// Puts the first `len` bytes of the field into a column.
    fn push(&mut self, place: usize, len: usize, is_bare: bool, row: usize) -> Result<(), String> {
        let field = String::from_utf8_lossy(&self.field[..len]);
        debug_assert!(self.columns.columns().get(place).is_none_or(|column| column.len() == row));
        if is_bare && *field == self.options.null {
            self.columns.column(place).push_null();
            return Ok(());
        }
        let pushed = self.columns.column(place).push_text(&field);
        pushed.map_err(|refused| {
            let column = &self.columns.columns()[place];
            refusal(refused, self.columns.fields()[place].name(), &field, &column.type_name())
        })
    }
}

/// What is wrong with the quotes of a record. csv-core takes the end of its input for the end of quotes, and what
/// follows a closing quote for more of the field.
fn misquoted(bytes: &[u8], delimiter: u8) -> Option<&'static str> {
    let (mut is_quoted, mut is_start) = (false, true);
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' if is_quoted && bytes.get(at + 1) == Some(&b'"') => at += 1,
            b'"' if is_quoted && bytes.get(at + 1).is_some_and(|next| *next != delimiter) => return Some(AFTER_QUOTES),
            b'"' if is_quoted => is_quoted = false,
            b'"' if is_start => is_quoted = true,
            _ => {}
        }
        is_start = !is_quoted && *byte == delimiter;
        at += 1;
    }
    is_quoted.then_some("a quote has no end")
}

const AFTER_QUOTES: &str = "text follows a closing quote";
const MORE_RECORDS: &str = "it has more than one record, or an empty one before it";

/// That a text is no value of a column.
pub(super) fn refusal(refused: Refused, name: &str, found: &str, wanted: &str) -> String {
    match refused {
        Refused::NoValue => format!("`{name}` is \"{}\", which is not a value of {wanted}", shortened(found)),
        Refused::Full => format!("`{name}` has no room for it: one batch holds 2 GiB of a column"),
    }
}

impl RowDecoder for CsvRows {
    fn decode(&mut self, payloads: &[&[u8]]) -> Result<Rows, FormatError> {
        self.columns.reserve(payloads.len());
        let mut rows = Rows::default();
        for (place, payload) in payloads.iter().enumerate() {
            let row = rows.from.len();
            match self.read(payload, row) {
                Ok(()) => rows.from.push(place),
                Err(reason) => {
                    self.columns.truncate(row);
                    rows.bad.push(Bad { message: place, reason });
                }
            }
        }
        rows.columns = self.columns.finish();
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{DataType, Field, TimeUnit};
    use arrow::util::display::array_value_to_string;
    use proptest::prelude::*;

    fn check(options: CsvOptions, cases: &[(&str, &str)]) {
        let fields: Fields =
            [("a", DataType::Int64), ("b", DataType::Utf8), ("c", DataType::Timestamp(TimeUnit::Microsecond, None))]
                .into_iter()
                .map(|(name, data_type)| Field::new(name, data_type, true))
                .collect();
        let mut rows = CsvRows::new(&fields, options).expect("columns");
        let payloads: Vec<&[u8]> = cases.iter().map(|(payload, _)| payload.as_bytes()).collect();
        // All in one batch, so that what a bad one leaves behind would show.
        let rows = rows.decode(&payloads).expect("decodes");
        for (place, (payload, expected)) in cases.iter().enumerate() {
            let found = match rows.from.binary_search(&place) {
                Ok(row) => rows
                    .columns
                    .iter()
                    .map(|column| match column.is_null(row) {
                        true => "NULL".to_owned(),
                        false => array_value_to_string(column, row).expect("shown"),
                    })
                    .collect::<Vec<_>>()
                    .join("|"),
                Err(_) => rows.bad.iter().find(|bad| bad.message == place).expect("bad").reason.clone(),
            };
            assert_eq!(found, *expected, "{payload:?}");
        }
    }

    #[test]
    fn a_record_is_a_row() {
        check(
            CsvOptions::default(),
            &[
                ("1,x,2024-02-29T01:02:03Z", "1|x|2024-02-29T01:02:03"),
                ("1,x,2024-02-29 01:02:03\r\n", "1|x|2024-02-29T01:02:03"),
                (",,", "NULL|NULL|NULL"),
                (",\"\",", "NULL||NULL"),
                ("7,\"a \"\"b\"\",\nc\",", "7|a \"b\",\nc|NULL"),
                ("\"7\", x ,", "7| x |NULL"),
                ("x,,", "`a` is \"x\", which is not a value of BIGINT"),
                ("1,x", "it has 2 fields, not 3"),
                ("1,x,,", "it has 4 fields, not 3"),
                ("", "it has 1 fields, not 3"),
                ("1,x,\n2,y,", MORE_RECORDS),
                ("\n1,x,", MORE_RECORDS),
                ("1,\"x,", "a quote has no end"),
                ("1,\"x,,", "a quote has no end"),
                ("1,\"x\",\"2024-02-29 01:02:03\"\r", "1|x|2024-02-29T01:02:03"),
                ("1,\"x\"y,", AFTER_QUOTES),
                ("1,\"x\" ,", AFTER_QUOTES),
                ("1,\"x\"\"\"\"y\",", "1|x\"\"y|NULL"),
                ("1,x\"y\",", "1|x\"y\"|NULL"),
                ("2,é,", "2|é|NULL"),
            ],
        );
    }

    #[test]
    fn delimiter_and_null_are_chosen() {
        let options = CsvOptions { delimiter: b';', null: "\\N".to_owned() };
        check(options, &[("1;\\N;\\N", "1|NULL|NULL"), ("1;\"\\N\";\\N", "1|\\N|NULL"), ("1;;\\N", "1||NULL")]);
    }

    proptest! {
        /// Fields that were written by the rule are read back; anything at all is read or refused, and ends.
        #[test]
        fn what_is_written_is_read(texts in prop::collection::vec("[a,\"\n\r é]{0,6}", 1..4), noise in "[a,\"\n\r]{0,12}") {
            let fields: Fields = (0..texts.len()).map(|n| Field::new(n.to_string(), DataType::Utf8, true)).collect();
            let mut rows = CsvRows::new(&fields, CsvOptions::default()).expect("columns");
            let quoted: Vec<String> = texts.iter().map(|text| format!("\"{}\"", text.replace('"', "\"\""))).collect();
            let rows = rows.decode(&[noise.as_bytes(), quoted.join(",").as_bytes()]).expect("decodes");
            prop_assert_eq!(rows.from.last(), Some(&1), "{:?}", rows.bad);
            for (column, text) in rows.columns.iter().zip(&texts) {
                let read = column.as_string::<i32>();
                prop_assert_eq!(read.value(read.len() - 1), text);
            }
        }
    }

    /// Such a field is as long as the room that csv-core is given for it.
    #[test]
    fn a_field_may_be_all_of_its_record() {
        let fields: Fields = [Field::new("a", DataType::Utf8, true)].into_iter().collect();
        let mut rows = CsvRows::new(&fields, CsvOptions::default()).expect("columns");
        let rows = rows.decode(&[b"abc", b"\"d\""]).expect("decodes");
        let values: Vec<_> = rows.columns[0].as_string::<i32>().iter().collect();
        assert_eq!(values, [Some("abc"), Some("d")]);
    }

    #[test]
    fn only_a_quote_that_begins_a_field_wants_an_end() {
        for (record, ends) in [("a\"b", true), ("1,a\"b,", true), ("\"a", false), ("1,\"a", false), ("\"\"", true)] {
            assert_eq!(misquoted(record.as_bytes(), b',').is_none(), ends, "{record}");
        }
    }
}
