//! `cargo xtask bench`

use std::process::Command;

use anyhow::{Result, bail};
use xtask::{root, target_folder};

use crate::process::{cargo, run};

/// Builds with full optimisation and measures.
///
/// # Errors
/// When there is no such bench, or it fails.
pub fn bench(what: &str, arguments: &[String]) -> Result<()> {
    if !["latency", "engine", "filters", "memory", "copy"].contains(&what) {
        bail!("there is no bench `{what}`; there are latency, engine, filters, memory and copy");
    }
    // The server too: what is measured from outside runs as it does for its users.
    run(&mut cargo(&["build", "--release", "--workspace", "--bin", "benches", "--bin", "deltafront"]))?;
    let program = target_folder().join("release").join("benches");
    run(Command::new(program).current_dir(root()).arg(what).args(arguments))
}
