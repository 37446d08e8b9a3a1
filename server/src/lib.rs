//! The `deltafront` program: configuration, wiring, supervision, command line.
//!
//! ```text
//!  prepare ──► Prepared ──► run: a task per source ──► engine (a thread) ──► hub ◄── serve
//!  (project,                 (connectors)               (pipeline)           (push)
//!   databases,
//!   plan)
//! ```

pub mod cli;
pub mod engine; // the thread that owns the program
pub mod health; // what the program says of itself
pub mod prepare; // a folder and its databases to a plan
pub mod run; // all of it together // the command line
