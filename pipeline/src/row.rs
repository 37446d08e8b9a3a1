//! Rows as bytes.
//!
//! [`RowCodec`] gives rows in state their form: equal rows are equal bytes, and any column can be
//! read without reading those before it.
//!
//! ```text
//!  ┌──────────────────┬───────────────────────────────┬───────────────┬ ─ ─ ─ ─ ┐
//!  │ flag, null bits  │ a slot a column: the value,   │ bytes of the  │  fault
//!  │ (1 + columns)/8  │ or where its bytes end        │ longer values │         │
//!  └──────────────────┴───────────────────────────────┴───────────────┴ ─ ─ ─ ─ ┘
//! ```
//!
//! The slots are at places that the types alone decide. The flag says whether a fault follows, so a
//! row without one spends a bit on it. Arrow's own row format sorts but must be decoded from the
//! front and pads texts; [`OrderCodec`] uses it where order counts (`min`, `max`, ORDER BY).
//!
//! Floats are normalised first, since SQL holds `-0.0 = 0.0` and all NaN equal while their bytes
//! differ.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryViewBuilder, BooleanArray, FixedSizeBinaryBuilder,
    GenericByteArray, NullArray, PrimitiveArray, RecordBatch, StringViewBuilder, UInt32Array, downcast_primitive,
    downcast_primitive_array,
};
use arrow::buffer::{BooleanBuffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{SortOptions, take};
use arrow::datatypes::{
    ArrowNativeType, BinaryType, ByteArrayType, DataType, Float32Type, Float64Type, LargeBinaryType, LargeUtf8Type,
    SchemaRef, Utf8Type,
};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, RowParser, Rows, SortField};

use crate::fault::{Fault, Faults};

/// The bytes of one row, owned by state.
pub type RowBytes = Box<[u8]>;

/// Turns the chosen columns of batches into rows of bytes and back.
#[derive(Debug)]
pub struct RowCodec {
    columns: Vec<usize>,
    fields: Vec<Field>,
    /// Where the slots end and the longer values begin.
    fixed: usize,
    /// The last column whose bytes follow the slots, if any.
    last_long: Option<usize>,
}

#[derive(Debug)]
struct Field {
    data_type: DataType,
    form: Form,
    slot: usize,
    /// For a long value: the long column before it, whose end is this one's beginning.
    long_before: Option<usize>,
}

#[derive(Debug)]
enum Form {
    /// Always NULL: no slot.
    Null,
    Bool,
    /// So many bytes in the slot.
    Fixed(usize),
    /// Bytes after the slots.
    Long,
    /// Arrow's row format of the one column, after the slots.
    Nested(Box<(RowConverter, RowParser)>),
}

impl Form {
    fn of(data_type: &DataType) -> Result<Form, ArrowError> {
        if let Some(width) = data_type.primitive_width() {
            return Ok(Form::Fixed(width));
        }
        Ok(match data_type {
            DataType::Null => Form::Null,
            DataType::Boolean => Form::Bool,
            DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Form::Long,
            other => {
                let converter = RowConverter::new(vec![SortField::new(other.clone())])?;
                let parser = converter.parser();
                Form::Nested(Box::new((converter, parser)))
            }
        })
    }

    fn is_long(&self) -> bool {
        matches!(self, Form::Long | Form::Nested(_))
    }
}

/// Rows of bytes, one after the other.
#[derive(Clone, Debug, Default)]
pub struct EncodedRows {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl EncodedRows {
    /// No rows, with room for some.
    #[must_use]
    pub fn with_capacity(rows: usize, bytes: usize) -> EncodedRows {
        EncodedRows { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(rows) }
    }

    /// The bytes of row `i`.
    #[must_use]
    pub fn row(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }

    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.row(i))
    }

    /// Adds a row.
    pub fn push(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
    }
}

/// A value that is long: its array, ready to be asked for bytes.
enum LongValues<'a> {
    Bytes(BytesOf<'a>),
    Rows(Rows),
}

impl LongValues<'_> {
    fn get(&self, row: usize) -> &[u8] {
        match self {
            LongValues::Bytes(get) => get(row),
            LongValues::Rows(rows) => rows.row(row).data(),
        }
    }
}

impl RowCodec {
    /// A codec for `columns` of batches that have `schema`.
    ///
    /// # Errors
    /// When a column's type has no row format (maps and unions have none).
    pub fn new(schema: &SchemaRef, columns: &[usize]) -> Result<RowCodec, ArrowError> {
        let bits = columns.len() / 8 + 1;
        let (mut slot, mut last_long) = (bits, None);
        let mut fields = Vec::with_capacity(columns.len());
        for (i, &column) in columns.iter().enumerate() {
            let data_type = schema.field(column).data_type().clone();
            let form = Form::of(&data_type)?;
            let width = match form {
                Form::Null => 0,
                Form::Bool => 1,
                Form::Fixed(width) => width,
                Form::Long | Form::Nested(_) => size_of::<u32>(),
            };
            let long_before = last_long;
            if form.is_long() {
                last_long = Some(i);
            }
            fields.push(Field { data_type, form, slot, long_before });
            slot += width;
        }
        Ok(RowCodec { columns: columns.to_vec(), fields, fixed: slot, last_long })
    }

    /// A codec for every column of `schema`.
    ///
    /// # Errors
    /// As [`RowCodec::new`].
    pub fn whole(schema: &SchemaRef) -> Result<RowCodec, ArrowError> {
        RowCodec::new(schema, &(0..schema.fields().len()).collect::<Vec<_>>())
    }

    /// The bytes of a row without those of its longer values.
    pub(crate) fn width(&self) -> usize {
        self.fixed
    }

    /// The types of its columns: codecs with equal types give equal values equal bytes.
    pub fn types(&self) -> impl Iterator<Item = &DataType> {
        self.fields.iter().map(|field| &field.data_type)
    }

    /// One row of bytes per row of `batch`.
    ///
    /// # Errors
    /// When the batch does not have the codec's types, or a row is larger than 4 GiB.
    pub fn encode(&self, batch: &RecordBatch) -> Result<EncodedRows, ArrowError> {
        self.encode_faulty(batch, None)
    }

    /// As [`RowCodec::encode`], with the rows' faults where there are any.
    ///
    /// # Errors
    /// As [`RowCodec::encode`].
    pub fn encode_faulty(&self, batch: &RecordBatch, faults: Option<&Faults>) -> Result<EncodedRows, ArrowError> {
        let rows = batch.num_rows();
        let arrays: Vec<&ArrayRef> = self.columns.iter().map(|&column| batch.column(column)).collect();
        let nulls: Vec<Option<NullBuffer>> =
            arrays.iter().map(|array| array.logical_nulls().filter(|nulls| nulls.null_count() > 0)).collect();
        let is_null = |column: usize, row: usize| nulls[column].as_ref().is_some_and(|nulls| nulls.is_null(row));
        let mut longs: Vec<(usize, LongValues<'_>)> = Vec::new();
        for (i, field) in self.fields.iter().enumerate() {
            if *arrays[i].data_type() != field.data_type {
                let found = arrays[i].data_type();
                return Err(ArrowError::InvalidArgumentError(format!(
                    "column {i} is {found} and should be {}",
                    field.data_type
                )));
            }
            match &field.form {
                Form::Long => longs.push((i, LongValues::Bytes(long_values(arrays[i].as_ref())?))),
                Form::Nested(codec) => {
                    longs.push((i, LongValues::Rows(codec.0.convert_columns(&[Arc::clone(arrays[i])])?)))
                }
                _ => {}
            }
        }
        // 1. Where each row ends.
        let mut fault_bytes: Vec<Vec<u8>> = Vec::new();
        if let Some(faults) = faults {
            fault_bytes = faults
                .iter()
                .map(|fault| {
                    let mut out = Vec::new();
                    if let Some(fault) = fault {
                        fault.write(&mut out);
                    }
                    out
                })
                .collect();
        }
        let mut ends = Vec::with_capacity(rows);
        let mut end = 0;
        for row in 0..rows {
            let long: usize =
                longs.iter().map(|(i, values)| if is_null(*i, row) { 0 } else { values.get(row).len() }).sum();
            if u32::try_from(long).is_err() {
                return Err(ArrowError::InvalidArgumentError("a row is larger than 4 GiB".to_owned()));
            }
            end += self.fixed + long + fault_bytes.get(row).map_or(0, Vec::len);
            ends.push(end);
        }
        // 2. Their bytes, a column at a time.
        let mut bytes = vec![0; end];
        let start_of = |row: usize| if row == 0 { 0 } else { ends[row - 1] };
        for (i, field) in self.fields.iter().enumerate() {
            if let Some(nulls) = &nulls[i] {
                for row in (0..rows).filter(|&row| nulls.is_null(row)) {
                    bytes[start_of(row) + (i + 1) / 8] |= 1 << ((i + 1) % 8);
                }
            }
            match field.form {
                Form::Null | Form::Long | Form::Nested(_) => {}
                Form::Bool => {
                    let values = arrays[i].as_boolean();
                    for row in (0..rows).filter(|&row| !is_null(i, row)) {
                        bytes[start_of(row) + field.slot] = u8::from(values.value(row));
                    }
                }
                Form::Fixed(width) => {
                    let normal = normalise(arrays[i]);
                    let values = fixed_values(normal.as_ref())?;
                    let mut start = field.slot;
                    for row in 0..rows {
                        if !is_null(i, row) {
                            bytes[start..start + width].copy_from_slice(&values[row * width..(row + 1) * width]);
                        }
                        start = ends[row] + field.slot;
                    }
                }
            }
        }
        if !longs.is_empty() || !fault_bytes.is_empty() {
            for row in 0..rows {
                let start = start_of(row);
                let mut at = start + self.fixed;
                for (i, values) in &longs {
                    if !is_null(*i, row) {
                        let value = values.get(row);
                        bytes[at..at + value.len()].copy_from_slice(value);
                        at += value.len();
                    }
                    let end = u32::try_from(at - start - self.fixed).unwrap_or(u32::MAX);
                    let slot = start + self.fields[*i].slot;
                    bytes[slot..slot + 4].copy_from_slice(&end.to_le_bytes());
                }
                if let Some(fault) = fault_bytes.get(row).filter(|fault| !fault.is_empty()) {
                    bytes[at..at + fault.len()].copy_from_slice(fault);
                    bytes[start] |= 1;
                }
            }
        }
        Ok(EncodedRows { bytes, ends })
    }

    /// The columns that these rows were made from.
    ///
    /// # Errors
    /// When the bytes are not of this codec, or hold more text than an array can.
    pub fn decode(&self, rows: &[&[u8]]) -> Result<Vec<ArrayRef>, ArrowError> {
        (0..self.fields.len()).map(|column| self.decode_column(rows, column)).collect()
    }

    /// One column of these rows, by its place in the codec.
    ///
    /// # Errors
    /// As [`RowCodec::decode`].
    pub fn decode_column(&self, rows: &[&[u8]], column: usize) -> Result<ArrayRef, ArrowError> {
        let field = &self.fields[column];
        let (byte, bit) = ((column + 1) / 8, 1_u8 << ((column + 1) % 8));
        let nulls = if rows.iter().any(|row| row[byte] & bit != 0) {
            Some(NullBuffer::new(rows.iter().map(|row| row[byte] & bit == 0).collect::<BooleanBuffer>()))
        } else {
            None
        };
        match &field.form {
            Form::Null => Ok(Arc::new(NullArray::new(rows.len()))),
            Form::Bool => Ok(Arc::new(BooleanArray::new(rows.iter().map(|row| row[field.slot] != 0).collect(), nulls))),
            Form::Fixed(width) => {
                let mut values = MutableBuffer::with_capacity(rows.len() * width);
                rows.iter().for_each(|row| values.extend_from_slice(&row[field.slot..field.slot + width]));
                fixed_array(&field.data_type, values, rows.len(), nulls)
            }
            Form::Long => self.decode_long(rows, column, nulls),
            Form::Nested(codec) => {
                let present: Vec<&[u8]> =
                    rows.iter().filter(|row| row[byte] & bit == 0).map(|row| self.long(row, column)).collect();
                let decoded = codec.0.convert_rows(present.into_iter().map(|bytes| codec.1.parse(bytes)))?;
                let Some(nulls) = nulls else { return Ok(Arc::clone(&decoded[0])) };
                let mut next = 0;
                let places: UInt32Array = nulls
                    .iter()
                    .map(|valid| {
                        valid.then(|| {
                            next += 1;
                            next - 1
                        })
                    })
                    .collect();
                take(&decoded[0], &places, None)
            }
        }
    }

    fn decode_long(&self, rows: &[&[u8]], column: usize, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
        let values = || rows.iter().map(|row| self.long(row, column));
        let is_valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        Ok(match &self.fields[column].data_type {
            DataType::Utf8 => long_array::<Utf8Type>(values(), rows.len(), nulls)?,
            DataType::LargeUtf8 => long_array::<LargeUtf8Type>(values(), rows.len(), nulls)?,
            DataType::Binary => long_array::<BinaryType>(values(), rows.len(), nulls)?,
            DataType::LargeBinary => long_array::<LargeBinaryType>(values(), rows.len(), nulls)?,
            DataType::Utf8View => {
                let mut builder = StringViewBuilder::with_capacity(rows.len());
                for (row, value) in values().enumerate() {
                    let text = std::str::from_utf8(value)
                        .map_err(|error| ArrowError::InvalidArgumentError(error.to_string()))?;
                    builder.append_option(is_valid(row).then_some(text));
                }
                Arc::new(builder.finish())
            }
            DataType::BinaryView => {
                let mut builder = BinaryViewBuilder::with_capacity(rows.len());
                values().enumerate().for_each(|(row, value)| builder.append_option(is_valid(row).then_some(value)));
                Arc::new(builder.finish())
            }
            DataType::FixedSizeBinary(width) => {
                let mut builder = FixedSizeBinaryBuilder::with_capacity(rows.len(), *width);
                for (row, value) in values().enumerate() {
                    if is_valid(row) { builder.append_value(value)? } else { builder.append_null() }
                }
                Arc::new(builder.finish())
            }
            other => return Err(ArrowError::InvalidArgumentError(format!("{other} has no bytes of its own"))),
        })
    }

    /// As [`RowCodec::decode`], as a batch of `schema`, which must be that of the codec's columns.
    ///
    /// # Errors
    /// As [`RowCodec::decode`].
    pub fn decode_batch(&self, schema: &SchemaRef, rows: &[&[u8]]) -> Result<RecordBatch, ArrowError> {
        batch_of(schema, self.decode(rows)?, rows.len())
    }

    /// Whether `column` of a row is NULL (or has failed, which stands there as NULL).
    #[must_use]
    pub fn is_null(&self, row: &[u8], column: usize) -> bool {
        row[(column + 1) / 8] & 1 << ((column + 1) % 8) != 0
    }

    /// The bytes of a long value: from where the one before it ends.
    fn long<'a>(&self, row: &'a [u8], column: usize) -> &'a [u8] {
        let end_of = |column: usize| {
            let slot = self.fields[column].slot;
            let end: [u8; 4] = row[slot..slot + 4].try_into().expect("a slot of four bytes");
            usize::try_from(u32::from_le_bytes(end)).unwrap_or(usize::MAX)
        };
        let start = self.fields[column].long_before.map_or(0, end_of);
        &row[self.fixed + start..self.fixed + end_of(column)]
    }

    /// Whether some columns of a row are `key`, of `of`, a codec of just these.
    #[must_use]
    pub fn has_key(&self, row: &[u8], columns: &[usize], of: &RowCodec, key: &[u8]) -> bool {
        columns.iter().zip(&of.fields).enumerate().all(|(i, (&column, to))| {
            let from = &self.fields[column];
            if self.is_null(row, column) || of.is_null(key, i) {
                return self.is_null(row, column) && of.is_null(key, i);
            }
            match from.form {
                Form::Null => true,
                Form::Bool => row[from.slot] == key[to.slot],
                Form::Fixed(width) => row[from.slot..from.slot + width] == key[to.slot..to.slot + width],
                Form::Long | Form::Nested(_) => self.long(row, column) == of.long(key, i),
            }
        })
    }

    /// `row` with some columns taken from `other`; neither has a fault.
    pub fn patch(&self, row: &[u8], other: &[u8], from_other: &[usize], out: &mut Vec<u8>) {
        let all: Vec<usize> = (0..self.fields.len()).collect();
        self.project_from(|column| if from_other.contains(&column) { other } else { row }, &all, self, out);
    }

    /// Writes some columns of a row as `onto`, a codec of just these, would have encoded them.
    pub fn project(&self, row: &[u8], columns: &[usize], onto: &RowCodec, out: &mut Vec<u8>) {
        self.project_from(|_| row, columns, onto, out);
    }

    fn project_from<'a>(
        &self,
        row_of: impl Fn(usize) -> &'a [u8],
        columns: &[usize],
        onto: &RowCodec,
        out: &mut Vec<u8>,
    ) {
        out.clear();
        out.resize(onto.fixed, 0);
        for (i, (&column, to)) in columns.iter().zip(&onto.fields).enumerate() {
            let (row, from) = (row_of(column), &self.fields[column]);
            let is_null = self.is_null(row, column);
            if is_null {
                out[(i + 1) / 8] |= 1 << ((i + 1) % 8);
            }
            match from.form {
                Form::Null => {}
                Form::Bool => out[to.slot] = row[from.slot],
                Form::Fixed(width) => out[to.slot..to.slot + width].copy_from_slice(&row[from.slot..from.slot + width]),
                Form::Long | Form::Nested(_) => {
                    if !is_null {
                        out.extend_from_slice(self.long(row, column));
                    }
                    let end = u32::try_from(out.len() - onto.fixed).unwrap_or(u32::MAX);
                    out[to.slot..to.slot + 4].copy_from_slice(&end.to_le_bytes());
                }
            }
        }
    }

    /// The fault of a row of this codec.
    #[must_use]
    pub fn fault(&self, row: &[u8]) -> Option<Arc<Fault>> {
        if !is_faulty(row) {
            return None;
        }
        let long = self.last_long.map_or(0, |column| {
            let slot = self.fields[column].slot;
            row[slot..slot + 4].try_into().map_or(0, |end| usize::try_from(u32::from_le_bytes(end)).unwrap_or(0))
        });
        Fault::read(&row[self.fixed + long..]).map(Arc::new)
    }

    /// The faults of rows, where any has one.
    #[must_use]
    pub fn faults(&self, rows: &[&[u8]]) -> Option<Faults> {
        rows.iter().any(|row| is_faulty(row)).then(|| rows.iter().map(|row| self.fault(row)).collect())
    }

    /// A row of which every value is NULL.
    #[must_use]
    pub fn null_row(&self) -> RowBytes {
        let mut row = vec![0; self.fixed];
        (1..=self.fields.len()).for_each(|bit| row[bit / 8] |= 1 << (bit % 8));
        row.into_boxed_slice()
    }
}

/// Whether a row of bytes carries a fault.
#[must_use]
pub fn is_faulty(row: &[u8]) -> bool {
    row[0] & 1 != 0
}

/// A key whose value is not known, which no row has for its bytes: any key may be meant.
pub(crate) const UNKNOWN_KEY: &[u8] = &[1];

/// The bytes of a primitive array's values.
fn fixed_values(array: &dyn Array) -> Result<&[u8], ArrowError> {
    downcast_primitive_array!(
        array => Ok(array.values().inner().as_slice()),
        other => Err(ArrowError::InvalidArgumentError(format!("{other} has no fixed width")))
    )
}

fn fixed_array(
    data_type: &DataType,
    values: MutableBuffer,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    fn typed<T: ArrowPrimitiveType>(
        data_type: &DataType,
        values: MutableBuffer,
        rows: usize,
        nulls: Option<NullBuffer>,
    ) -> ArrayRef {
        let values = ScalarBuffer::<T::Native>::new(values.into(), 0, rows);
        Arc::new(PrimitiveArray::<T>::new(values, nulls).with_data_type(data_type.clone()))
    }
    macro_rules! typed_of {
        ($t:ty) => {
            Ok(typed::<$t>(data_type, values, rows, nulls))
        };
    }
    downcast_primitive! {
        data_type => (typed_of),
        other => Err(ArrowError::InvalidArgumentError(format!("{other} has no fixed width")))
    }
}

/// Gives the bytes of a row's value.
type BytesOf<'a> = Box<dyn Fn(usize) -> &'a [u8] + 'a>;

fn long_values(array: &dyn Array) -> Result<BytesOf<'_>, ArrowError> {
    fn of<T: ByteArrayType>(array: &dyn Array) -> BytesOf<'_> {
        let array = array.as_bytes::<T>();
        Box::new(|row| AsRef::<[u8]>::as_ref(array.value(row)))
    }
    Ok(match array.data_type() {
        DataType::Utf8 => of::<Utf8Type>(array),
        DataType::LargeUtf8 => of::<LargeUtf8Type>(array),
        DataType::Binary => of::<BinaryType>(array),
        DataType::LargeBinary => of::<LargeBinaryType>(array),
        DataType::Utf8View => {
            let array = array.as_string_view();
            Box::new(|row| array.value(row).as_bytes())
        }
        DataType::BinaryView => {
            let array = array.as_binary_view();
            Box::new(|row| array.value(row))
        }
        DataType::FixedSizeBinary(_) => {
            let array = array.as_fixed_size_binary();
            Box::new(|row| array.value(row))
        }
        other => return Err(ArrowError::InvalidArgumentError(format!("{other} has no bytes of its own"))),
    })
}

fn long_array<'a, T: ByteArrayType>(
    values: impl Iterator<Item = &'a [u8]>,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    let mut offsets = Vec::with_capacity(rows + 1);
    let mut bytes: Vec<u8> = Vec::new();
    offsets.push(T::Offset::from_usize(0).unwrap_or_default());
    for value in values {
        bytes.extend_from_slice(value);
        offsets.push(T::Offset::from_usize(bytes.len()).ok_or(ArrowError::OffsetOverflowError(bytes.len()))?);
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(Arc::new(GenericByteArray::<T>::try_new(offsets, bytes.into(), nulls)?))
}

/// Turns columns into bytes that sort as SQL's ORDER BY does, and back: Arrow's row format.
#[derive(Debug)]
pub struct OrderCodec {
    converter: RowConverter,
    parser: RowParser,
    columns: Vec<usize>,
}

impl OrderCodec {
    /// A codec whose bytes sort by these columns of `schema`.
    ///
    /// # Errors
    /// As [`RowCodec::new`].
    pub fn new(schema: &SchemaRef, columns: &[(usize, SortOptions)]) -> Result<OrderCodec, ArrowError> {
        let field = |&(column, options): &(usize, SortOptions)| {
            SortField::new_with_options(schema.field(column).data_type().clone(), options)
        };
        let mut fields: Vec<SortField> = columns.iter().map(field).collect();
        if fields.is_empty() {
            // Rows without an order still are so many rows: a NULL column takes no byte.
            fields.push(SortField::new(DataType::Null));
        }
        let converter = RowConverter::new(fields)?;
        Ok(OrderCodec {
            parser: converter.parser(),
            converter,
            columns: columns.iter().map(|&(column, _)| column).collect(),
        })
    }

    /// One key per row of `batch`.
    ///
    /// # Errors
    /// When the batch does not have the codec's types.
    pub fn encode(&self, batch: &RecordBatch) -> Result<Rows, ArrowError> {
        if self.columns.is_empty() {
            return self.converter.convert_columns(&[Arc::new(NullArray::new(batch.num_rows()))]);
        }
        let columns: Vec<ArrayRef> = self.columns.iter().map(|&column| normalise(batch.column(column))).collect();
        self.converter.convert_columns(&columns)
    }

    /// The columns that these keys were made from.
    ///
    /// # Errors
    /// When the bytes are not of this codec.
    pub fn decode<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, ArrowError> {
        if self.columns.is_empty() {
            return Ok(Vec::new());
        }
        self.converter.convert_rows(keys.into_iter().map(|bytes| self.parser.parse(bytes)))
    }
}

/// A batch of `columns`, also when there are none.
///
/// # Errors
/// When the columns are not those of `schema`.
pub fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, len: usize) -> Result<RecordBatch, ArrowError> {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(len));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// One zero and one NaN.
pub(crate) fn normalise(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => Arc::new(
            array
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|x| if x.is_nan() { f64::NAN } else { x + 0.0 }),
        ),
        DataType::Float32 => Arc::new(
            array
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|x| if x.is_nan() { f32::NAN } else { x + 0.0 }),
        ),
        _ => Arc::clone(array),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Cause;
    use arrow::array::{
        BinaryArray, BinaryViewArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array,
        Int8Array, Int64Array, LargeBinaryArray, LargeStringArray, ListArray, StringArray, StringViewArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, Int64Type, Schema};

    /// Three rows of every kind of column: a value, NULL, another value.
    fn everything() -> RecordBatch {
        let bytes = [Some(&b"ab"[..]), None, Some(b"")];
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
        let fixed =
            FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some(b"xy"), None, Some(b"zz")].into_iter(), 2);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("i64", Arc::new(Int64Array::from(vec![Some(7), None, Some(-1)]))),
            ("text", Arc::new(StringArray::from(vec![Some("ann"), None, Some("")]))),
            ("bool", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("i8", Arc::new(Int8Array::from(vec![Some(-7), None, Some(1)]))),
            ("null", Arc::new(NullArray::new(3))),
            ("date", Arc::new(Date32Array::from(vec![Some(1), None, Some(-1)]))),
            (
                "numeric",
                Arc::new(
                    Decimal128Array::from(vec![Some(5), None, Some(-5)])
                        .with_precision_and_scale(10, 2)
                        .expect("digits"),
                ),
            ),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None, Some(2)]).with_timezone("UTC"))),
            ("f64", Arc::new(Float64Array::from(vec![Some(0.5), None, Some(0.0)]))),
            ("f32", Arc::new(Float32Array::from(vec![Some(0.5), None, Some(0.0)]))),
            ("bytes", Arc::new(BinaryArray::from_iter(bytes))),
            ("large bytes", Arc::new(LargeBinaryArray::from_iter(bytes))),
            ("large text", Arc::new(LargeStringArray::from(vec![Some("é"), None, Some("x")]))),
            ("text view", Arc::new(StringViewArray::from_iter([Some("longer than twelve bytes"), None, Some("x")]))),
            ("bytes view", Arc::new(BinaryViewArray::from_iter(bytes))),
            ("fixed bytes", Arc::new(fixed.expect("two bytes each"))),
            ("list", Arc::new(lists)),
        ];
        let fields = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        RecordBatch::try_new(schema, columns.into_iter().map(|(_, array)| array).collect()).expect("three rows")
    }

    #[test]
    fn every_type_comes_back() {
        let batch = everything();
        let codec = RowCodec::whole(&batch.schema()).expect("a codec");
        let rows = codec.encode(&batch).expect("rows");
        let all: Vec<&[u8]> = rows.iter().collect();
        assert_eq!(codec.decode_batch(&batch.schema(), &all).expect("a batch"), batch);
        let backwards: Vec<&[u8]> = all.iter().rev().copied().collect();
        assert_eq!(&codec.decode_column(&backwards, 1).expect("a column"), &{
            let texts: ArrayRef = Arc::new(StringArray::from(vec![Some(""), None, Some("ann")]));
            texts
        });
        assert!((0..17).all(|column| codec.is_null(rows.row(1), column)), "all of the second row");
        assert!((0..17).all(|column| codec.is_null(rows.row(0), column) == (column == 4)), "none but the type of NULL");
        let nothing = codec.decode(&[&*codec.null_row()]).expect("a row of NULLs");
        assert!(nothing.iter().all(|array| array.len() == 1 && array.logical_null_count() == 1));
    }

    /// A NULL is its own value, whatever lies below it in the array.
    #[test]
    fn what_lies_below_a_null_does_not_count() {
        let nulls = |valid: bool| Some(NullBuffer::from(vec![valid]));
        let of = |value: i64, valid| -> ArrayRef { Arc::new(Int64Array::new(vec![value].into(), nulls(valid))) };
        let row = |array: ArrayRef| {
            let batch = RecordBatch::try_from_iter_with_nullable([("n", array, true)]).expect("a row");
            RowCodec::whole(&batch.schema()).and_then(|codec| codec.encode(&batch)).expect("a row").row(0).to_vec()
        };
        assert_eq!(row(of(7, false)), row(of(8, false)));
        assert_ne!(row(of(7, true)), row(of(8, true)));
        assert_ne!(row(of(0, true)), row(of(0, false)));
    }

    #[test]
    fn rows_follow_one_another() {
        let mut rows = EncodedRows::default();
        assert!(rows.is_empty());
        [&b"one"[..], b"", b"three"].iter().for_each(|row| rows.push(row));
        assert_eq!((rows.len(), rows.is_empty()), (3, false));
        assert_eq!(rows.iter().collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn texts_that_differ_only_in_where_they_are_cut_differ() {
        let row = |a: &str, b: &str| {
            let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
            let batch = RecordBatch::try_from_iter([("a", text(a)), ("b", text(b))]).expect("a row");
            RowCodec::whole(&batch.schema()).and_then(|codec| codec.encode(&batch)).expect("a row").row(0).to_vec()
        };
        assert_ne!(row("ab", "c"), row("a", "bc"));
        assert_eq!(row("ab", "c"), row("ab", "c"));
    }

    /// A key that is cut out of a row is the key that would have been encoded.
    #[test]
    fn keys_are_cut_out_of_rows() {
        let batch = everything();
        let whole = RowCodec::whole(&batch.schema()).expect("a codec");
        let rows = whole.encode(&batch).expect("rows");
        for columns in [vec![], vec![0], vec![1], vec![16, 1, 0], vec![2, 4, 10, 12], (0..17).rev().collect()] {
            let codec = RowCodec::new(&batch.schema(), &columns).expect("a codec");
            let keys = codec.encode(&batch).expect("keys");
            let mut key = vec![9; 3];
            for row in 0..3 {
                whole.project(rows.row(row), &columns, &codec, &mut key);
                assert_eq!(key, keys.row(row), "row {row}, columns {columns:?}");
                for other in 0..3 {
                    let is_same = keys.row(row) == keys.row(other);
                    assert_eq!(
                        whole.has_key(rows.row(row), &columns, &codec, keys.row(other)),
                        is_same,
                        "{columns:?} {row} {other}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_is_patched_with_columns_of_another() {
        let batch = everything();
        let codec = RowCodec::whole(&batch.schema()).expect("a codec");
        let rows = codec.encode(&batch).expect("rows");
        let mut patched = Vec::new();
        codec.patch(rows.row(0), rows.row(2), &[1, 2, 16], &mut patched);
        let decoded = codec.decode(&[&patched]).expect("a row");
        for (column, array) in decoded.iter().enumerate() {
            let from = if [1, 2, 16].contains(&column) { 2 } else { 0 };
            assert_eq!(array, &batch.column(column).slice(from, 1), "column {column}");
        }
    }

    /// A fault follows its row's bytes, and a row without one is no wider for it.
    #[test]
    fn a_fault_stands_behind_its_row() {
        let batch = everything();
        let codec = RowCodec::whole(&batch.schema()).expect("a codec");
        let fault = Arc::new(Fault::of_columns(vec![3], Cause { reason: "why".into(), at: "id = 7".into() }));
        let faults: Faults = vec![None, Some(Arc::clone(&fault)), None];
        let (plain, rows) =
            (codec.encode(&batch).expect("rows"), codec.encode_faulty(&batch, Some(&faults)).expect("rows"));
        assert_eq!((plain.row(0), plain.row(2)), (rows.row(0), rows.row(2)));
        assert!(is_faulty(rows.row(1)) && !is_faulty(plain.row(1)) && !is_faulty(rows.row(0)));
        assert_eq!((codec.fault(rows.row(1)), codec.fault(rows.row(0))), (Some(fault), None));
        let all: Vec<&[u8]> = rows.iter().collect();
        assert_eq!(codec.faults(&all).map(|all| all == faults), Some(true));
        assert_eq!(codec.faults(&all[..1]), None);
        assert_eq!(codec.decode_batch(&batch.schema(), &all).expect("a batch"), batch);
        let ints = RowCodec::new(&batch.schema(), &[0]).expect("a codec");
        let faulty = ints.encode_faulty(&batch, Some(&faults)).expect("rows");
        assert!(
            ints.fault(faulty.row(1)).is_some() && ints.fault(faulty.row(2)).is_none(),
            "also where no value is long"
        );
    }

    #[test]
    fn both_zeros_and_all_nans_are_one() {
        let other_nan = f64::from_bits(f64::NAN.to_bits() | 1 << 63 | 7);
        let doubles: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, other_nan]));
        let singles: ArrayRef = Arc::new(Float32Array::from(vec![0.0, -0.0, f32::NAN, -f32::NAN]));
        for array in [doubles, singles] {
            let batch = RecordBatch::try_from_iter([("x", array)]).expect("four rows");
            let rows = RowCodec::whole(&batch.schema()).and_then(|codec| codec.encode(&batch)).expect("rows");
            assert_eq!((rows.row(0), rows.row(2)), (rows.row(1), rows.row(3)));
            assert_ne!(rows.row(0), rows.row(2));
            let order = OrderCodec::new(&batch.schema(), &[(0, SortOptions::default())]).expect("an order");
            let keys = order.encode(&batch).expect("keys");
            assert_eq!((keys.row(0), keys.row(2)), (keys.row(1), keys.row(3)));
            assert!(keys.row(1) < keys.row(2));
        }
    }

    #[test]
    fn an_order_of_nothing_has_its_rows() {
        let batch = everything();
        let order = OrderCodec::new(&batch.schema(), &[]).expect("an order");
        let keys = order.encode(&batch).expect("keys");
        assert_eq!((keys.num_rows(), keys.row(0) == keys.row(2)), (3, true));
        assert!(order.decode([]).expect("nothing").is_empty());
    }

    #[test]
    fn another_type_is_refused() {
        let batch = everything();
        let schema = Arc::new(Schema::new(vec![Field::new("i64", DataType::Utf8, true)]));
        assert!(RowCodec::whole(&schema).and_then(|codec| codec.encode(&batch)).is_err());
    }
}
