//! Fields that nobody wants, passed over without columns.
//!
//! A record may contain itself, in a list or where it may be missing, and then no columns hold it; nor need they, if
//! nobody asked for it. But `arrow-avro` makes columns of a writer's whole schema, also of what it is to skip. So such
//! fields are cut out of messages before it sees them: a [`Cut`] knows where values end, and nothing else.
//!
//! Each step takes a byte, or one of the fields of a record that takes some: schemas in which values could go on
//! without bytes are refused. So a message is gone through in time proportional to its length.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::schema::{Names, PRIMITIVES, full_name, lookup};

/// Deeper schemas are refused.
const DEPTH_MAX: usize = 200;

/// How a value is written, as far as its length goes.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// No bytes.
    Empty,
    /// So many bytes.
    Fixed(usize),
    /// Seven bits a byte.
    Varint,
    /// A length, and so many bytes.
    Bytes,
    /// All of these.
    Record(Vec<usize>),
    /// Which of these, and that one.
    Union(Vec<usize>),
    /// Blocks of items; of a map each after its key.
    Blocks { item: usize, has_keys: bool },
}

/// Which fields of a record to leave out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cut {
    shapes: Vec<Shape>,
    /// The record's fields: where each one's shape is, and whether it stays.
    fields: Vec<(usize, bool)>,
}

impl Cut {
    /// Of records with these fields, each with its type as the schema has it, the namespace that it is in, and whether
    /// it stays.
    ///
    /// # Errors
    /// With what is wrong with the schema.
    pub fn new<'a>(
        fields: impl IntoIterator<Item = (&'a Value, Option<&'a str>, bool)>,
        names: &Names,
    ) -> Result<Cut, String> {
        let mut maker = Maker { names, shapes: vec![Shape::Empty], made: HashMap::new(), open: Vec::new(), depth: 0 };
        let fields = fields.into_iter().map(|(of, namespace, stays)| Ok((maker.shape(of, namespace)?, stays)));
        let fields = fields.collect::<Result<_, String>>()?;
        Ok(Cut { shapes: maker.shapes, fields })
    }

    /// Adds to `out` what stays of a record.
    ///
    /// # Errors
    /// With what is wrong with the message.
    pub fn keep(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let mut rest = body;
        for (shape, stays) in &self.fields {
            let from = rest;
            self.skip(*shape, &mut rest).ok_or("it ends in the midst of a value")?;
            if *stays {
                out.extend_from_slice(&from[..from.len() - rest.len()]);
            }
        }
        // What is left is for the decoder to refuse.
        out.extend_from_slice(rest);
        Ok(())
    }

    /// Passes over a value; `None` if it is none, or ends too early.
    fn skip(&self, shape: usize, rest: &mut &[u8]) -> Option<()> {
        let mut steps = vec![Step::Value(shape)];
        while let Some(step) = steps.pop() {
            match step {
                Step::Value(of) => match &self.shapes[of] {
                    Shape::Empty => {}
                    Shape::Fixed(bytes) => take(rest, *bytes)?,
                    Shape::Varint => drop(varint(rest)?),
                    Shape::Bytes => take_bytes(rest)?,
                    Shape::Record(_) => steps.push(Step::Fields(of, 0)),
                    Shape::Union(branches) => {
                        let branch = usize::try_from(varint(rest)?).ok()?;
                        steps.push(Step::Value(*branches.get(branch)?));
                    }
                    Shape::Blocks { item, has_keys } => steps.push(Step::Block(*item, *has_keys)),
                },
                Step::Fields(of, at) => {
                    let Shape::Record(fields) = &self.shapes[of] else { return None };
                    if at + 1 < fields.len() {
                        steps.push(Step::Fields(of, at + 1));
                    }
                    steps.push(Step::Value(*fields.get(at)?));
                }
                Step::Block(item, has_keys) => match varint(rest)? {
                    0 => {}
                    // The block says how long it is.
                    count if count < 0 => {
                        take_bytes(rest)?;
                        steps.push(Step::Block(item, has_keys));
                    }
                    count => steps.extend([Step::Block(item, has_keys), Step::Items(item, has_keys, count)]),
                },
                Step::Items(item, has_keys, count) => {
                    if has_keys {
                        take_bytes(rest)?;
                    }
                    if count > 1 {
                        steps.push(Step::Items(item, has_keys, count - 1));
                    }
                    steps.push(Step::Value(item));
                }
            }
        }
        Some(())
    }
}

/// What is still to be passed over.
enum Step {
    Value(usize),
    /// The fields of a record from this one on.
    Fields(usize, usize),
    Block(usize, bool),
    Items(usize, bool, i64),
}

fn take(rest: &mut &[u8], bytes: usize) -> Option<()> {
    *rest = rest.get(bytes..)?;
    Some(())
}

fn take_bytes(rest: &mut &[u8]) -> Option<()> {
    let bytes = varint(rest)?;
    take(rest, usize::try_from(bytes).ok()?)
}

/// Zigzag, then seven bits a byte, the lowest first. Source: Avro 1.12, "Binary encoding".
fn varint(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for place in 0..10 {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

/// Makes shapes of types. The first shape is the empty one.
struct Maker<'a> {
    names: &'a Names,
    shapes: Vec<Shape>,
    /// Those of names.
    made: HashMap<String, usize>,
    /// The records that we are in, by name, and `None` for what takes a byte for itself.
    open: Vec<Option<String>>,
    depth: usize,
}

impl Maker<'_> {
    fn shape(&mut self, of: &Value, namespace: Option<&str>) -> Result<usize, String> {
        if self.depth == DEPTH_MAX {
            return Err(format!("its schema is nested deeper than {DEPTH_MAX} levels"));
        }
        self.depth += 1;
        let shape = match of {
            Value::String(name) => self.named(name, namespace),
            Value::Array(branches) => self.within(|maker| {
                let branches = branches.iter().map(|branch| maker.shape(branch, namespace));
                Ok(Shape::Union(branches.collect::<Result<_, _>>()?))
            }),
            Value::Object(object) => match object.get("type") {
                Some(Value::String(name)) => self.object(name, object, namespace),
                Some(of) => self.shape(of, namespace),
                None => Err("its schema has a type without `type`".to_owned()),
            },
            other => Err(format!("its schema has {other} where a type is to be")),
        };
        self.depth -= 1;
        shape
    }

    fn add(&mut self, shape: Shape) -> usize {
        self.shapes.push(shape);
        self.shapes.len() - 1
    }

    /// A shape that takes a byte for itself, so that what is in it may be what it is in.
    fn within(&mut self, make: impl FnOnce(&mut Self) -> Result<Shape, String>) -> Result<usize, String> {
        self.open.push(None);
        let shape = make(self)?;
        self.open.pop();
        Ok(self.add(shape))
    }

    fn named(&mut self, name: &str, namespace: Option<&str>) -> Result<usize, String> {
        let primitive = match name {
            "null" => return Ok(0),
            "boolean" => Shape::Fixed(1),
            "int" | "long" => Shape::Varint,
            "float" => Shape::Fixed(4),
            "double" => Shape::Fixed(8),
            "bytes" | "string" => Shape::Bytes,
            name => {
                let (definition, outer) = lookup(self.names, name, namespace)?;
                return self.shape(definition, outer.as_deref());
            }
        };
        Ok(self.add(primitive))
    }

    fn object(&mut self, kind: &str, object: &Map<String, Value>, namespace: Option<&str>) -> Result<usize, String> {
        let part = |name: &str| object.get(name).ok_or_else(|| format!("its schema has an {kind} without `{name}`"));
        match kind {
            "array" | "map" => {
                let (of, has_keys) = if kind == "array" { (part("items")?, false) } else { (part("values")?, true) };
                self.within(|maker| match maker.shape(of, namespace)? {
                    // Two billion of them take five bytes.
                    0 if !has_keys => Err("its schema has an array of what takes no bytes".to_owned()),
                    item => Ok(Shape::Blocks { item, has_keys }),
                })
            }
            "fixed" => match part("size")?.as_u64().and_then(|size| usize::try_from(size).ok()) {
                Some(0) => Ok(0),
                Some(size) => Ok(self.add(Shape::Fixed(size))),
                None => Err("its schema has a fixed without `size`".to_owned()),
            },
            "enum" => Ok(self.add(Shape::Varint)),
            "record" | "error" => self.record(object, namespace),
            name if PRIMITIVES.contains(&name) => self.named(name, None),
            name => self.named(name, namespace),
        }
    }

    fn record(&mut self, object: &Map<String, Value>, namespace: Option<&str>) -> Result<usize, String> {
        let (full, inner) = full_name(object, namespace).ok_or("its schema has a nameless record")?;
        let outside = self.open.iter().rposition(|open| open.as_ref() == Some(&full));
        if outside.is_some_and(|outside| self.open[outside..].iter().all(Option::is_some)) {
            return Err(format!("its schema has the type {full} in each value of it, which has no end"));
        }
        if let Some(made) = self.made.get(&full) {
            return Ok(*made);
        }
        let fields = object.get("fields").and_then(Value::as_array);
        let fields = fields.ok_or("its schema has a record without `fields`")?;
        let place = self.add(Shape::Empty);
        self.made.insert(full.clone(), place);
        self.open.push(Some(full.clone()));
        let mut shapes = Vec::with_capacity(fields.len());
        for field in fields {
            let of = field.get("type").ok_or("its schema has a field without `type`")?;
            shapes.push(self.shape(of, inner.as_deref())?);
        }
        self.open.pop();
        // Without those that take no bytes each field is a step for at least one.
        shapes.retain(|shape| *shape != 0);
        if shapes.is_empty() {
            self.made.insert(full, 0);
            return Ok(0);
        }
        self.shapes[place] = Shape::Record(shapes);
        Ok(place)
    }
}
