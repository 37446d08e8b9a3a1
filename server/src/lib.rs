//! The `deltafront` program: configuration, wiring, supervision, command line.
//!
//! ```text
//!  prepare ──► Prepared ──► run: a task per source ──► engine (a thread) ──► hub ◄── serve
//!  (project,                 (connectors)               (pipeline)           (push)
//!   sources,  
//!   plan)
//! ```

pub mod run; // all of it together
pub mod prepare; // a folder and its sources to a plan
pub mod topics; // topics of a project that would undo themselves
pub mod engine; // the thread that owns the program
pub mod health; // what the program says of itself
pub mod staleness; // what a lost source means for those who look
pub mod auth; // [auth] to what checks tokens
pub mod demo; // projects that are in the program
pub mod types; // what projections are in TypeScript
pub mod cli; // the command line
