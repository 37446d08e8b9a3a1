//! The first copy of the tables, at the slot's consistent point.

use std::pin::Pin;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio_postgres::{Client, CopyOutStream};

use super::catalog::{DiscoveredTable, quote};
use super::connect::Target;
use super::decode::RowBuilder;
use super::error::SourceError;

/// Rows of one batch: enough that a batch's fixed costs vanish, few enough to stay in the caches.
const BATCH_ROWS: usize = 8192;
/// Bytes of text at which a batch ends before it has that many rows, so that one of large rows is no
/// larger than what may be under way.
const BATCH_BYTES: usize = 4 << 20;

/// Opens the exported snapshot. The client must not be used for anything else until it is dropped.
///
/// # Errors
/// When the snapshot is gone, which it is once its replication connection was used or lost.
pub async fn open(target: &Target, snapshot: &str) -> Result<Client, SourceError> {
    let client = target.sql().await?;
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
        super::catalog::quote_literal(snapshot)
    );
    client.batch_execute(&begin).await.map_err(|error| target.sql_error(error))?;
    Ok(client)
}

/// A table being copied. Nothing is read from the server while nobody asks for the next batch.
pub struct TableReader<'a> {
    target: &'a Target,
    table: &'a DiscoveredTable,
    stream: Pin<Box<CopyOutStream>>,
    rows: RowBuilder,
    /// What the server sent and is not yet rows.
    chunk: Bytes,
    /// A line that a chunk ended in the middle of.
    partial: Vec<u8>,
    scratch: Vec<u8>,
    /// The server has sent everything; asking it again would be an error.
    is_done: bool,
}

impl<'a> TableReader<'a> {
    /// Starts to copy a table.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn start(
        target: &'a Target,
        client: &Client,
        table: &'a DiscoveredTable,
    ) -> Result<TableReader<'a>, SourceError> {
        let columns: Vec<String> = table.schema.fields().iter().map(|field| quote(field.name())).collect();
        // Rows of children of an ordinary table are not published with it.
        let only = if table.is_partitioned { "" } else { "ONLY " };
        let statement = format!("COPY (SELECT {} FROM {only}{}) TO STDOUT", columns.join(", "), table.quoted());
        let stream = client.copy_out(&statement).await.map_err(|error| target.sql_error(error))?;
        let rows = RowBuilder::new(table)?;
        Ok(TableReader {
            target,
            table,
            stream: Box::pin(stream),
            rows,
            chunk: Bytes::new(),
            partial: Vec::new(),
            scratch: Vec::new(),
            is_done: false,
        })
    }

    /// The next rows; `None` after the last.
    ///
    /// # Errors
    /// When the connection broke, or a value can't be taken.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, SourceError> {
        loop {
            while let Some(end) = self.chunk.iter().position(|&byte| byte == b'\n') {
                let line = self.chunk.split_to(end + 1);
                let line = &line[..end];
                if self.partial.is_empty() {
                    push_line(line, self.table, &mut self.rows, &mut self.scratch)?;
                } else {
                    self.partial.extend_from_slice(line);
                    push_line(&self.partial, self.table, &mut self.rows, &mut self.scratch)?;
                    self.partial.clear();
                }
                if self.rows.len() == BATCH_ROWS || self.rows.text_bytes() >= BATCH_BYTES {
                    return self.rows.finish(self.table).map(Some);
                }
            }
            self.partial.extend_from_slice(&self.chunk);
            self.chunk.clear();
            let chunk = if self.is_done { None } else { self.stream.next().await };
            match chunk {
                Some(chunk) => self.chunk = chunk.map_err(|error| self.target.sql_error(error))?,
                None => {
                    self.is_done = true;
                    return if self.rows.is_empty() { Ok(None) } else { self.rows.finish(self.table).map(Some) };
                }
            }
        }
    }
}

/// One line of COPY's text form: fields between tabs, `\N` for NULL, backslashes before what would
/// be misread.
fn push_line(
    line: &[u8],
    table: &DiscoveredTable,
    rows: &mut RowBuilder,
    scratch: &mut Vec<u8>,
) -> Result<(), SourceError> {
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
