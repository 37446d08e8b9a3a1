//! `cargo xtask bench`

use anyhow::{Result, bail};

use crate::process::{cargo, run};

/// Builds with full optimisation and measures.
///
/// # Errors
/// When there is no such bench, or it fails.
pub fn bench(what: &str, arguments: &[String]) -> Result<()> {
    if !["latency", "engine", "copy"].contains(&what) {
        bail!("there is no bench `{what}`; there are latency, engine and copy");
    }
    let mut command = cargo(&["run", "--release", "--package", "benches", "--", what]);
    run(command.args(arguments))
}
