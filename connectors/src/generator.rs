//! Sources that are made up: believable rows for those who have no database at hand.
//!
//! ```text
//!  seed ──► shape::World ──► what stands at the start, then transactions, for ever
//!            (a shop, …)              │
//!                 pace ───────────────┴──► source::SourceEvent
//! ```
//!
//! A world is a function of its seed and of how large it begins: no clock goes into its rows, so the
//! same seed gives the same transactions in the same order, however fast they are told.

pub mod options; // what a project says of a table, and which tables are of one world
pub mod source; // a world, told at its pace
pub mod pace; // when the next transaction is due
pub mod shape; // which worlds there are, and what their tables look like
pub mod storefront; // a shop
pub mod nexmark; // an auction house, as benchmarks know it
pub mod rows; // values into Arrow
pub mod random; // dice that fall the same way everywhere

pub use options::CONNECTOR;
