//! The first copy of the tables, at the slot's consistent point.

use arrow::array::RecordBatch;
use futures_util::{StreamExt, pin_mut};
use tokio_postgres::Client;

use super::catalog::{DiscoveredTable, quote};
use super::connect::Target;
use super::decode::RowBuilder;
use super::error::SourceError;

/// Rows of one batch: enough that a batch's fixed costs vanish, few enough to stay in the caches.
const BATCH_ROWS: usize = 8192;

/// Opens the exported snapshot. The client must not be used for anything else until it is dropped.
///
/// # Errors
/// When the snapshot is gone, which it is once its replication connection was used or lost.
pub async fn open(target: &Target, snapshot: &str) -> Result<Client, SourceError> {
    let client = target.sql().await?;
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}", super::catalog::quote_literal(snapshot));
    client.batch_execute(&begin).await.map_err(|error| target.sql_error(error))?;
    Ok(client)
}

/// Copies a table, a batch at a time. Nothing is read from the server while `each` is busy.
///
/// # Errors
/// When the connection broke, or a value can't be taken; and whatever `each` says.
pub async fn copy<F>(target: &Target, client: &Client, table: &DiscoveredTable, mut each: impl FnMut(RecordBatch) -> F) -> Result<(), SourceError>
where
    F: Future<Output = Result<(), SourceError>>,
{
    let columns: Vec<String> = table.schema.fields().iter().map(|field| quote(field.name())).collect();
    // Rows of children of an ordinary table are not published with it.
    let only = if table.is_partitioned { "" } else { "ONLY " };
    let statement = format!("COPY (SELECT {} FROM {only}{}) TO STDOUT", columns.join(", "), table.quoted());
    let stream = client.copy_out(&statement).await.map_err(|error| target.sql_error(error))?;
    pin_mut!(stream);
    let mut rows = RowBuilder::new(table)?;
    let mut scratch = Vec::new();
    let mut partial: Vec<u8> = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| target.sql_error(error))?;
        let mut rest: &[u8] = &chunk;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            if partial.is_empty() {
                push_line(&rest[..end], table, &mut rows, &mut scratch)?;
            } else {
                partial.extend_from_slice(&rest[..end]);
                push_line(&partial, table, &mut rows, &mut scratch)?;
                partial.clear();
            }
            rest = &rest[end + 1..];
            if rows.len() == BATCH_ROWS {
                each(rows.finish(table)?).await?;
            }
        }
        partial.extend_from_slice(rest);
    }
    if !rows.is_empty() {
        each(rows.finish(table)?).await?;
    }
    Ok(())
}

/// One line of COPY's text form: fields between tabs, `\N` for NULL, backslashes before what would
/// be misread.
fn push_line(line: &[u8], table: &DiscoveredTable, rows: &mut RowBuilder, scratch: &mut Vec<u8>) -> Result<(), SourceError> {
    let mut columns = 0;
    for (column, field) in line.split(|&byte| byte == b'\t').enumerate() {
        columns += 1;
        if column >= table.schema.fields().len() {
            break;
        }
        if field == b"\\N" {
            rows.push(table, column, None)?;
        } else if field.contains(&b'\\') {
            unescape(field, scratch);
            rows.push(table, column, Some(scratch))?;
        } else {
            rows.push(table, column, Some(field))?;
        }
    }
    // A table without columns has lines without fields, which split as one empty field.
    if columns != table.schema.fields().len().max(1) {
        return Err(SourceError::PeerMisbehaved { message: format!("a line of {columns} fields"), stage: "copying" });
    }
    rows.end_row();
    Ok(())
}

fn unescape(field: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => other,
                None => b'\\',
            },
            other => other,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        let mut out = Vec::new();
        unescape(br"a\tb\\n\nc\.\", &mut out);
        assert_eq!(out, b"a\tb\\n\nc.\\");
    }
}
