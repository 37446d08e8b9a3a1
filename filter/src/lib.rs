//! Predicates over the rows of one schema, as data: what clients ask for, and what policies let them see.
//!
//! ```text
//!  {"total": {"_gt": "100.00"}} ──► Predicate::parse ─┐   types checked, NOT pushed down,
//!                                                     ├─► Predicate ──► matches(batch)      rows it is true for
//!  USING (owner = claim('sub')) ──► Template::bind ───┘   one form per      index_terms()   value -> subscribers
//!            with the claims of a token                   meaning           fingerprint()   resume tokens
//! ```
//!
//! One grammar of JSON, one type checker and one evaluator serve every transport. Values are compared as
//! Postgres compares them, with two differences that are written down where they are made: texts are
//! compared by code points rather than by a collation, and a value for a `real` column is read as `real`.
//!
//! Read [`predicate`] first.

pub mod predicate; // which rows, in normal form
mod evaluate; // the rows of a batch that a predicate is true for
mod index; // what a router can look up
mod json; // the form that clients write
pub mod template; // a predicate with places for claims
pub mod access; // who sees what of a projection
pub mod value; // literals, and what they are to a column's type
mod like; // patterns of LIKE
mod moment; // texts of dates, times, timestamps and intervals
mod error;

pub use access::{Access, Grant, Policy, Roles};
pub use error::FilterError;
pub use index::{ALTERNATIVES_MAX, IndexTerms};
pub use json::{DEPTH_MAX, PATTERN_CHARS_MAX, TERMS_MAX, VALUES_MAX};
pub use predicate::{Fingerprint, Operator, Predicate};
pub use template::{ClaimPath, Operand, Template};
pub use value::{Literal, type_name};
