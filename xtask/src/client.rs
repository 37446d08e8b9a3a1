//! `cargo xtask test client`: the TypeScript client, against the program that was just built.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use xtask::{root, target_folder};

use crate::process::{cargo_on_all, run};

/// Type checks, unit tests and the model, a real server, and Chromium.
///
/// # Errors
/// When a test fails, or Node or its packages can't be had.
pub fn test(filter: Option<&str>) -> Result<()> {
    if !Command::new("npm").arg("--version").output().is_ok_and(|output| output.status.success()) {
        bail!("the client's tests need Node 20 or later with npm: install it");
    }
    // With a test's package its programs are built.
    run(cargo_on_all("test").args(["--test", "e2e", "--no-run"]))?;
    let folder = root().join("clients/typescript");
    for folder in [folder.clone(), folder.join("test/react18")] {
        run(npm(&folder).args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]))?;
    }
    let mut command = npm(&folder);
    command.args(["test", "--"]).args(filter);
    run(command.env("DELTAFRONT_BIN", target_folder().join("debug/program")))
}

fn npm(folder: &PathBuf) -> Command {
    let mut command = Command::new("npm");
    command.current_dir(folder);
    command
}
