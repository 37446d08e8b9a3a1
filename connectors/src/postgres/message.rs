//! The messages of `pgoutput`, protocol version 1.
//!
//! Source: PostgreSQL documentation, "Logical Replication Message Formats". Decoding borrows from
//! the frame: a value is a slice until it is parsed into its column.

use pipeline::Lsn;

/// A message that is not as the documentation has it.
#[derive(Debug, PartialEq, Eq)]
pub struct BadMessage(pub &'static str);

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin {
        /// End of the transaction's commit record.
        commit: Lsn,
        /// Microseconds since 2000-01-01 UTC.
        time: i64,
    },
    /// A transaction ends.
    Commit {
        /// Where the log goes on after it.
        end: Lsn,
        /// Microseconds since 2000-01-01 UTC.
        time: i64,
    },
    /// What a table looks like from here on.
    Relation {
        /// The table's oid.
        id: u32,
        /// Its schema.
        schema: &'a str,
        /// Its name.
        name: &'a str,
        /// Its columns as published.
        columns: Vec<RelationColumn<'a>>,
    },
    /// A row came.
    Insert {
        /// The table's oid.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row changed.
    Update {
        /// The table's oid.
        relation: u32,
        /// The old row or its key, where the server sends it.
        old: Option<Tuple<'a>>,
        /// The row now.
        new: Tuple<'a>,
    },
    /// A row went.
    Delete {
        /// The table's oid.
        relation: u32,
        /// The row or its key.
        old: Tuple<'a>,
    },
    /// All rows of these tables went.
    Truncate {
        /// The tables' oids.
        relations: Vec<u32>,
    },
    /// A message that changes no row: origins, type names, logical messages.
    Other,
}

/// A column of a [`Message::Relation`].
#[derive(Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Its name.
    pub name: &'a str,
    /// Oid of its type.
    pub type_id: u32,
}

/// The values of a row, still encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    /// How many columns.
    pub columns: u16,
    bytes: &'a [u8],
}

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// Not sent, since it is large and did not change.
    Unchanged,
    /// Its text.
    Text(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// The values in the order of the table's columns. The tuple was checked when it was decoded.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut reader = Reader(self.bytes);
        (0..self.columns).map_while(move |_| reader.value().ok())
    }
}

impl<'a> Message<'a> {
    /// Decodes one message.
    ///
    /// # Errors
    /// When it is cut short or of no known form.
    pub fn decode(bytes: &'a [u8]) -> Result<Message<'a>, BadMessage> {
        let mut reader = Reader(bytes);
        match reader.u8()? {
            b'B' => {
                let (commit, time) = (reader.u64()?, reader.u64()?);
                Ok(Message::Begin { commit: Lsn(commit), time: time.cast_signed() })
            }
            b'C' => {
                let (_flags, _commit) = (reader.u8()?, reader.u64()?);
                let (end, time) = (reader.u64()?, reader.u64()?);
                Ok(Message::Commit { end: Lsn(end), time: time.cast_signed() })
            }
            b'R' => {
                let (id, schema, name) = (reader.u32()?, reader.text()?, reader.text()?);
                let _replica_identity = reader.u8()?;
                let columns = (0..reader.u16()?)
                    .map(|_| {
                        let _flags = reader.u8()?;
                        let (name, type_id) = (reader.text()?, reader.u32()?);
                        let _modifier = reader.u32()?;
                        Ok(RelationColumn { name, type_id })
                    })
                    .collect::<Result<_, _>>()?;
                Ok(Message::Relation { id, schema, name, columns })
            }
            b'I' => {
                let relation = reader.u32()?;
                reader.expect(b'N')?;
                Ok(Message::Insert { relation, new: reader.tuple()? })
            }
            b'U' => {
                let relation = reader.u32()?;
                match reader.u8()? {
                    b'N' => Ok(Message::Update { relation, old: None, new: reader.tuple()? }),
                    b'K' | b'O' => {
                        let old = Some(reader.tuple()?);
                        reader.expect(b'N')?;
                        Ok(Message::Update { relation, old, new: reader.tuple()? })
                    }
                    _ => Err(BadMessage("an update without a new row")),
                }
            }
            b'D' => {
                let relation = reader.u32()?;
                match reader.u8()? {
                    b'K' | b'O' => Ok(Message::Delete { relation, old: reader.tuple()? }),
                    _ => Err(BadMessage("a delete without an old row")),
                }
            }
            b'T' => {
                let count = reader.u32()?;
                let _options = reader.u8()?;
                Ok(Message::Truncate { relations: (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()? })
            }
            b'O' | b'Y' | b'M' => Ok(Message::Other),
            _ => Err(BadMessage("a message of no known kind")),
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadMessage> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BadMessage("a message cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        self.take(N)?.try_into().map_err(|_| BadMessage("a message cut short"))
    }

    fn u8(&mut self) -> Result<u8, BadMessage> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, BadMessage> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, BadMessage> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadMessage> {
        self.array().map(u64::from_be_bytes)
    }

    fn expect(&mut self, tag: u8) -> Result<(), BadMessage> {
        if self.u8()? == tag { Ok(()) } else { Err(BadMessage("a row without its tag")) }
    }

    fn text(&mut self) -> Result<&'a str, BadMessage> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(BadMessage("a text without its end"))?;
        let text = std::str::from_utf8(self.take(end)?).map_err(|_| BadMessage("a name that is not UTF-8"))?;
        self.u8()?;
        Ok(text)
    }

    fn value(&mut self) -> Result<Value<'a>, BadMessage> {
        match self.u8()? {
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            b't' => {
                let length = usize::try_from(self.u32()?).map_err(|_| BadMessage("a value too long"))?;
                self.take(length).map(Value::Text)
            }
            _ => Err(BadMessage("a value of no known form")),
        }
    }

    /// Walks the tuple once, so that reading its values later can't fail.
    fn tuple(&mut self) -> Result<Tuple<'a>, BadMessage> {
        let columns = self.u16()?;
        let start = self.0;
        for _ in 0..columns {
            self.value()?;
        }
        Ok(Tuple { columns, bytes: &start[..start.len() - self.0.len()] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decodes_an_update_that_moves_a_key_and_leaves_out_a_large_value() {
        let body = b"U\0\0\x40\x01K\0\x02t\0\0\0\x017nN\0\x02t\0\0\0\x018u";
        let Ok(Message::Update { relation: 0x4001, old: Some(old), new }) = Message::decode(body) else {
            panic!("an update")
        };
        assert_eq!(old.values().collect::<Vec<_>>(), [Value::Text(b"7"), Value::Null]);
        assert_eq!(new.values().collect::<Vec<_>>(), [Value::Text(b"8"), Value::Unchanged]);
    }

    #[test]
    fn decodes_a_relation() {
        let body = b"R\0\0\x40\x01public\0orders\0d\0\x01\x01id\0\0\0\0\x14\xFF\xFF\xFF\xFF";
        let columns = vec![RelationColumn { name: "id", type_id: 20 }];
        assert_eq!(
            Message::decode(body),
            Ok(Message::Relation { id: 0x4001, schema: "public", name: "orders", columns })
        );
    }

    #[test]
    fn decodes_begin_commit_and_truncate() {
        let begin = b"B\0\0\0\0\x01\x6B\x37\x48\0\0\0\0\0\0\0\x05\0\0\x02\xE6";
        assert_eq!(Message::decode(begin), Ok(Message::Begin { commit: Lsn(0x16B_3748), time: 5 }));
        let commit = b"C\0\0\0\0\0\x01\x6B\x37\x48\0\0\0\0\x01\x6B\x37\x78\0\0\0\0\0\0\0\x05";
        assert_eq!(Message::decode(commit), Ok(Message::Commit { end: Lsn(0x16B_3778), time: 5 }));
        assert_eq!(
            Message::decode(b"T\0\0\0\x02\0\0\0\0\x01\0\0\0\x02"),
            Ok(Message::Truncate { relations: vec![1, 2] })
        );
    }

    proptest! {
        /// Whatever the server sends, there is an answer and no panic.
        #[test]
        fn any_bytes_have_an_answer(tag in prop::sample::select(b"BCRIUDTOYMX".to_vec()), rest in prop::collection::vec(any::<u8>(), 0..80)) {
            let bytes = [&[tag], &rest[..]].concat();
            let _ = Message::decode(&bytes);
        }

        /// A message cut short anywhere is refused.
        #[test]
        fn a_cut_message_is_refused(cut in 1_usize..23) {
            let body = b"U\0\0\x40\x01K\0\x02t\0\0\0\x017nN\0\x02t\0\0\0\x018u";
            prop_assert!(Message::decode(&body[..cut]).is_err());
        }
    }
}
