//! `.proto` files of a registry as descriptors.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{FileDescriptor, MessageDescriptor};
use protox::Compiler;
use protox::file::{File, FileResolver, GoogleFileResolver};

use crate::format::registry::{Language, Schema};

/// The name of the schema itself. Nothing imports it.
const ROOT: &str = "deltafront_root.proto";

/// Messages in messages that a message index may lead through.
const INDEX_DEPTH_MAX: usize = 32;

/// Compiles a schema with what it imports.
///
/// # Errors
/// With what is wrong with it.
pub fn compile(schema: &Schema) -> Result<FileDescriptor, String> {
    if schema.language != Language::Protobuf {
        return Err("its schema is not one of Protobuf".to_owned());
    }
    let mut files: HashMap<String, String> =
        BUILT_IN.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
    files.extend(schema.references.iter().cloned());
    files.insert(ROOT.to_owned(), schema.text.clone());
    let mut compiler = Compiler::with_file_resolver(Files { files, google: GoogleFileResolver::new() });
    compiler.open_file(ROOT).map_err(|error| format!("its schema can't be compiled: {error}"))?;
    compiler.descriptor_pool().get_file_by_name(ROOT).ok_or_else(|| "its schema has no file".to_owned())
}

struct Files {
    files: HashMap<String, String>,
    google: GoogleFileResolver,
}

impl FileResolver for Files {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let Some(text) = self.files.get(name) else { return self.google.open_file(name) };
        // Some clients register descriptors, and some registries give them out as they came.
        if let Ok(bytes) = STANDARD.decode(text.trim())
            && let Ok(file) = File::decode_file_descriptor_proto(bytes.as_slice())
        {
            let mut file = file.file_descriptor_proto().clone();
            file.name = Some(name.to_owned());
            return Ok(File::from_file_descriptor_proto(file));
        }
        File::from_source(name, text)
    }
}

/// Takes the message indexes off: how many, then each, as zigzag numbers of seven bits a byte; none
/// stands for the first message alone.
///
/// # Errors
/// With what is wrong with the message.
pub fn indexes(body: &[u8]) -> Result<(Vec<usize>, &[u8]), String> {
    let (count, mut rest) = index(body)?;
    if count == 0 {
        return Ok((vec![0], rest));
    }
    if count > INDEX_DEPTH_MAX {
        return Err(format!("it says that its message is {count} messages deep"));
    }
    let mut indexes = Vec::with_capacity(count);
    for _ in 0..count {
        let (next, left) = index(rest)?;
        indexes.push(next);
        rest = left;
    }
    Ok((indexes, rest))
}

fn index(bytes: &[u8]) -> Result<(usize, &[u8]), String> {
    let mut value = 0_u64;
    for (place, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let is_negative = value & 1 == 1;
            return match usize::try_from(value >> 1) {
                Ok(value) if !is_negative => Ok((value, &bytes[place + 1..])),
                _ => Err("it has a message index below zero".to_owned()),
            };
        }
    }
    Err("it ends within the index of its message".to_owned())
}

/// The message that indexes lead to. As Confluent's serializers count, the entries of maps are no messages.
///
/// # Errors
/// When they lead nowhere.
pub fn message(file: &FileDescriptor, indexes: &[usize]) -> Result<MessageDescriptor, String> {
    let nowhere = || format!("its schema has no message at {indexes:?}");
    let (first, inner) = indexes.split_first().ok_or_else(nowhere)?;
    let mut message = file.messages().nth(*first).ok_or_else(nowhere)?;
    for index in inner {
        let inner = message.child_messages().filter(|child| !child.is_map_entry()).nth(*index);
        message = inner.ok_or_else(nowhere)?;
    }
    Ok(message)
}

/// What Confluent's registry has without anybody registering it.
const BUILT_IN: [(&str, &str); 2] = [
    (
        "confluent/meta.proto",
        r#"syntax = "proto3"; package confluent; import "google/protobuf/descriptor.proto";
        message Meta { string doc = 1; map<string, string> params = 2; repeated string tags = 3; }
        extend google.protobuf.FileOptions { Meta file_meta = 1088; }
        extend google.protobuf.MessageOptions { Meta message_meta = 1088; }
        extend google.protobuf.FieldOptions { Meta field_meta = 1088; }
        extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }
        extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }"#,
    ),
    (
        "confluent/type/decimal.proto",
        r#"syntax = "proto3"; package confluent.type;
        message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }"#,
    ),
];
