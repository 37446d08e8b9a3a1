//! Which worlds there are, and what their tables look like.

use pipeline::table::Identity;

use super::rows::{Change, Columns, Kind, Row};
use super::{nexmark, storefront};

/// The shapes that `WITH (shape = '…')` may name. A new one is a module and a line here.
pub const SHAPES: &[Shape] = &[storefront::SHAPE, nexmark::SHAPE];

/// A kind of world.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What `shape = '…'` says.
    pub name: &'static str,
    /// Its tables. The place in this list is how changes name a table.
    pub tables: &'static [Table],
    /// How large it begins where a project does not say; what is counted is the shape's to say.
    pub rows_default: u64,
    /// Makes one, of a seed and of how large it begins.
    pub make: fn(u64, u64) -> Box<dyn World>,
}

/// A table of a shape.
#[derive(Debug)]
pub struct Table {
    /// What `table = '…'` says.
    pub name: &'static str,
    /// Its columns.
    pub columns: &'static [(&'static str, Kind)],
    /// The places of the columns of its key; empty when it is only appended to.
    pub key: &'static [usize],
}

impl Table {
    /// How its rows are told apart, where these columns of it are read; `None` without all of its key.
    #[must_use]
    pub fn identity(&self, columns: &Columns) -> Option<Identity> {
        if self.key.is_empty() {
            return Some(Identity::AppendOnly);
        }
        self.key.iter().map(|&place| columns.position(place)).collect::<Option<_>>().map(Identity::Key)
    }
}

/// Rows that change, as its seed has it. Nothing else goes in: no clock, no speed.
pub trait World: Send + Sync {
    /// What stands in a table before anything has happened.
    fn rows(&self, table: usize) -> Box<dyn Iterator<Item = Row> + Send + '_>;

    /// How many of its transactions had happened before anybody looked: a log that is read from its
    /// beginning has no rows at the start, and these in their place.
    fn past(&self) -> u64;

    /// The next transaction, which changes something.
    fn transact(&mut self) -> Vec<Change>;
}
