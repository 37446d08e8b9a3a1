//! SQL project files to a DataFusion plan to a `pipeline` program.
//!
//! ```text
//!  deltafront.toml ─► Project ──► (shapes of its tables, ──► Plan: a Program, and what
//!  *.sql                           from databases or          clients are told about
//!                                  declared)                  each projection
//! ```
//!
//! This is the one crate that knows DataFusion. Reading a project needs no server; what a table
//! looks like is asked of whoever calls, between [`Project::load`] and [`plan::plan`].

pub mod project; // a folder to tables, views and projections
mod promise; // what columns promise that no source keeps
pub mod statement; // files to statements, each mistake on its own
pub mod options; // WITH (…), ${VARIABLE}
pub mod config; // deltafront.toml
pub mod diagnostic; // what is wrong, where, and what to do about it
pub mod session; // DataFusion, set up so that its answers are right for deltas
mod access; // CREATE POLICY and GRANT, and what they become
pub mod plan; // statements in the order of their needs, planned by DataFusion
mod lower; // a logical plan to a dataflow
mod expr; // DataFusion's expressions, aggregates and executor behind pipeline's traits

pub use config::Config;
pub use diagnostic::{Diagnostic, Diagnostics};
pub use plan::{Description, Plan, PlannedProjection, TableShape, describe, plan};

pub use project::{Project, TableDeclaration};
