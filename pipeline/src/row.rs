//! Rows as comparable bytes.
//!
//! Rows in state are Arrow row-format bytes: equality, order and hash are `memcmp`. Floats are
//! normalised first, since SQL holds `-0.0 = 0.0` and all NaN equal while their bytes differ.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, NullArray, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, RowParser, Rows, SortField};

/// The bytes of one row, owned by state.
pub type RowBytes = Box<[u8]>;

/// Turns the chosen columns of batches into bytes and back.
#[derive(Debug)]
pub struct RowCodec {
    converter: RowConverter,
    parser: RowParser,
    columns: Vec<usize>,
    has_floats: bool,
}

impl RowCodec {
    /// A codec for `columns` of batches that have `schema`, in ascending order, NULLs first.
    ///
    /// # Errors
    /// When a column's type has no row format (maps and unions have none).
    pub fn new(schema: &SchemaRef, columns: &[usize]) -> Result<RowCodec, ArrowError> {
        RowCodec::ordered(schema, &columns.iter().map(|&c| (c, SortOptions::default())).collect::<Vec<_>>())
    }

    /// A codec for every column of `schema`.
    ///
    /// # Errors
    /// As [`RowCodec::new`].
    pub fn whole(schema: &SchemaRef) -> Result<RowCodec, ArrowError> {
        RowCodec::new(schema, &(0..schema.fields().len()).collect::<Vec<_>>())
    }

    /// A codec whose bytes sort as SQL's ORDER BY with these options does.
    ///
    /// # Errors
    /// As [`RowCodec::new`].
    pub fn ordered(schema: &SchemaRef, columns: &[(usize, SortOptions)]) -> Result<RowCodec, ArrowError> {
        let field =
            |&(column, options): &(usize, SortOptions)| SortField::new_with_options(schema.field(column).data_type().clone(), options);
        let mut fields: Vec<SortField> = columns.iter().map(field).collect();
        if fields.is_empty() {
            // A row of no columns still is a row: the empty key of a global aggregate or of a
            // cross join. A NULL column takes no byte and keeps the count.
            fields.push(SortField::new(DataType::Null));
        }
        let converter = RowConverter::new(fields)?;
        Ok(RowCodec {
            parser: converter.parser(),
            converter,
            columns: columns.iter().map(|&(column, _)| column).collect(),
            has_floats: columns.iter().any(|&(column, _)| holds_floats(schema.field(column).data_type())),
        })
    }

    /// One row of bytes per row of `batch`.
    ///
    /// # Errors
    /// When the batch does not have the codec's types.
    pub fn encode(&self, batch: &RecordBatch) -> Result<Rows, ArrowError> {
        if self.columns.is_empty() {
            return self.converter.convert_columns(&[Arc::new(NullArray::new(batch.num_rows()))]);
        }
        let columns: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|&column| {
                let array = batch.column(column);
                if self.has_floats { normalise(array) } else { Arc::clone(array) }
            })
            .collect();
        self.converter.convert_columns(&columns)
    }

    /// The columns that these bytes were made from.
    ///
    /// # Errors
    /// When the bytes are not of this codec.
    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, ArrowError> {
        if self.columns.is_empty() {
            return Ok(Vec::new());
        }
        self.converter.convert_rows(rows.into_iter().map(|bytes| self.parser.parse(bytes)))
    }

    /// As [`RowCodec::decode`], as a batch of `schema`, which must be that of the codec's columns.
    ///
    /// # Errors
    /// As [`RowCodec::decode`].
    pub fn decode_batch<'a>(
        &self,
        schema: &SchemaRef,
        rows: impl IntoIterator<Item = &'a [u8]>,
        len: usize,
    ) -> Result<RecordBatch, ArrowError> {
        batch_of(schema, self.decode(rows)?, len)
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

fn holds_floats(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float32 | DataType::Float64)
}

/// One zero and one NaN.
fn normalise(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => {
            Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(|x| if x.is_nan() { f64::NAN } else { x + 0.0 }))
        }
        DataType::Float32 => {
            Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(|x| if x.is_nan() { f32::NAN } else { x + 0.0 }))
        }
        _ => Arc::clone(array),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float64Array;
    use arrow::datatypes::{Field, Schema};

    #[test]
    fn both_zeros_and_all_nans_are_one() {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Float64, true)]));
        let other_nan = f64::from_bits(f64::NAN.to_bits() | 1 << 63 | 7);
        let column: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, other_nan]));
        let rows = RowCodec::whole(&schema)
            .and_then(|codec| codec.encode(&RecordBatch::try_new(schema, vec![column])?))
            .expect("floats have a row format");
        assert_eq!(rows.row(0), rows.row(1));
        assert_eq!(rows.row(2), rows.row(3));
        assert!(rows.row(1) < rows.row(2));
    }
}
